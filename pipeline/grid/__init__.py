"""Pure geometry: grids, tiles, UTM zones, the window lattice and the scene index."""
