"""Ratios within one run, never timed assertions: machines differ and are shared."""
