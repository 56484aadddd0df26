"""The tokenizers: rasters to token ids and back."""
