"""Tests on real scenes and documents; skipped without TERRAMOSAIC_REALDATA."""
