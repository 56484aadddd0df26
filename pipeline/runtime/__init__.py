"""Support code: cancellation, I/O statistics, threads, atomic files and locks."""
