"""TerraMind: configuration, modalities, encoder and decoder."""
