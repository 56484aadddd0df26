"""List, describe, inspect and convert models and weight files."""
