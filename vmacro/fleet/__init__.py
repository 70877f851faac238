"""Where guests should be, over the hours to come: pure decisions about many guests at once."""
