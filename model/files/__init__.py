"""Weights as files: where they lie, what they are, and whether they may be trusted."""
