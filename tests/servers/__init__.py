"""Servers on this machine for the tests of catalogs and of production."""
