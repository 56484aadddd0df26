"""Whole runs: processes, servers, and what happens when they are killed."""
