"""vmacro: move a running VM to another continent, and nobody's connection breaks."""

__version__ = "0.1.0"
