"""Segmentation models as TerraTorch builds them: necks, decoders, heads, and its checkpoints."""
