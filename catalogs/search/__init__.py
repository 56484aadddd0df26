"""Search catalogs for scenes, and select those to use."""
