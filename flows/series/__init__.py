"""Many periods of one job: backfill, refresh, and what each period holds."""
