"""TerraTorch beside our model, in one process: ``make reference``."""
