"""Write and verify tiles, Zarr stores, COGs, mosaics, receipts and styles."""
