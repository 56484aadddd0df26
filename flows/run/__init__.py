"""One run of one job: planning, stages, verification, cost."""
