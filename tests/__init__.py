"""The test suite: one folder for each package, and folders for what spans them."""
