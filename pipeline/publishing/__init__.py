"""Publish a finished product: COGs, styles, pictures, report, STAC item and collection."""
