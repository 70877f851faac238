"""Decisions: facts in, findings and plans out. They touch no clock, socket, file or process."""
