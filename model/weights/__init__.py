"""Weight files: locate, verify, read and load."""
