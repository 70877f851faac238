"""Immutable nouns of the field. They touch no clock, socket, file or process."""
