"""Read rasters: windows, reprojection, HTTP byte ranges, and cubes."""
