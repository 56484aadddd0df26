"""Describe and publish a finished product: STAC item, collection, provenance."""
