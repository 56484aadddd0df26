"""Inspect and convert weight files."""
