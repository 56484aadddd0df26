"""TerraMind: modalities, encoder, decoder, tokenizers and generation."""
