"""Combine many dates into one: units, masks, optical and radar composites."""
