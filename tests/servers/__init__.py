"""Servers on this machine for the tests of the catalogs."""
