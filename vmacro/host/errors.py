"""What the host side refuses, as opposed to bugs."""

from __future__ import annotations


class RefusedError(Exception):
    """What the other end is told; `code` is stable, the text is for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
