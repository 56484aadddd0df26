"""Searching STAC catalogs: scenes, their location and their radiometry."""
