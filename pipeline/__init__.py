"""From scenes to tiles, and from tiles to files."""
