"""Measure quality: seams, gates, accuracy, coverage and radiometry checks."""
