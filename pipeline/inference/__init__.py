"""Run a predictor over windows and blend its outputs."""
