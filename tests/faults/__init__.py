"""Scripted failures of servers and processes."""
