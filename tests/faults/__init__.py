"""A web server with scripted failures, and tests of tiles that are read from it."""
