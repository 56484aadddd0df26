"""Computing tiles on threads, local processes or a dask cluster."""
