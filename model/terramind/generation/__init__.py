"""Generation of modalities: sampling of tokens, decoding to rasters, Thinking in Modalities."""
