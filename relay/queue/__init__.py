"""The life of a message: its words and its rules. Pure."""
