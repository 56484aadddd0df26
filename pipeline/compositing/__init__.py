"""Combine many dates into one: masks of clouds, optical and radar composites, strip by strip."""
