"""The job file and its sections, validated with pydantic."""
