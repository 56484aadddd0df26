"""Fixtures, fakes and small worlds that several tests share."""
