"""Publish a finished product: COGs, styles, report, STAC item and collection."""
