"""Read catalogs: STAC APIs, static catalogs, and the HTTP client that both use."""
