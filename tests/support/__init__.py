"""Fixtures, fake models, and synthetic scenes and plans that several tests share."""
