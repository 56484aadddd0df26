"""Where tiles are computed: threads, local processes or a dask cluster."""
