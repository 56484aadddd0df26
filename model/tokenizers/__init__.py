"""From rasters, places and sentences to token ids, and back again."""
