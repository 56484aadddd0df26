"""Model cards for people and programs."""
