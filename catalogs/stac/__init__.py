"""Turn STAC items of any version and provider into scenes."""
