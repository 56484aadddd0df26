"""Prefect flows, deployments, artifacts, concurrency and cancellation.

Prefect reads its settings when it is imported; therefore this package sets their defaults before
any of its modules imports Prefect. What the user has set stays as it is.
"""

import os

PREFECT_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    # ^ nothing is sent anywhere, and an offline machine waits for no reply
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    # ^ Prefect's own default is a pickle, which runs as a program where it is read
}

for _name, _value in PREFECT_DEFAULTS.items():
    os.environ.setdefault(_name, _value)
