"""What exists, where it lies, and what its numbers mean."""
