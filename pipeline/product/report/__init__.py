"""Draw reports: HTML pages, quicklooks and charts."""
