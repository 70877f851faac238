"""The part of vmacro that runs in the guest: it owns the interface that migrates."""

__version__ = "0.1.0"
