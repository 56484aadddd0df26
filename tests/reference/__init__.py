"""Comparison of our model with TerraTorch in one process: ``make reference``."""
