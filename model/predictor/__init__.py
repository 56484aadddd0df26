"""Predictors: models behind one interface, with their registry and cards."""
