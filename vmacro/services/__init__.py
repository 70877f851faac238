"""What vmacro does, on ports alone: surveys, moves and what belongs to them, the journal, the event log."""
