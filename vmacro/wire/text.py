"""What another party wrote, as people may see it."""

from __future__ import annotations


def many(number: int, noun: str) -> str:
    """So many of them, as people write it."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def escaped(text: str) -> str:
    """Control characters, marks that change the direction of writing, and lone surrogates as escapes (what
    str.isprintable() refuses); the rest as it is."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(text: str, most: int = 500) -> str:
    """As escaped(), at most `most` characters."""
    return escaped(text[:most])[:most]


def lines(text: str) -> str:
    """As escaped(), but that lines end where they do."""
    return "\n".join(escaped(line) for line in text.split("\n"))
