"""The request of a job: what decides its products, without the period, folders and machinery."""

from __future__ import annotations

import json

from flows.config.job import Job
from pipeline.plan.plan import NUMERICS_VERSION, hash_json, to_geojson

_FIELDS = {"inputs", "bands", "mask", "composite", "radar", "radiometry", "grid"}


def hash_request(job: Job) -> str:
    """Return the sha256 of what a job requests.

    It covers region, catalog, inputs, scenes named, compositing, grid, model, layers and formats,
    tile size, device and precision, and the version of the numerics. A product whose plan has
    another hash is no longer what the job describes.
    """
    values = json.loads(job.model_dump_json(include=_FIELDS))
    named = {"include": job.include, "exclude": job.exclude}
    values |= {key: sorted(names) for key, names in named.items() if names}
    # ^ absent where empty: the hash of a job without these keys is that of earlier versions
    catalog, execution = job.catalog, job.execution
    legend = job.model.legend_options.to_mapping()
    return hash_json(
        values
        | {
            "region": to_geojson(job.geometry),
            "catalog": [catalog.provider, catalog.location],
            "model": job.model.to_options().to_dict() | {"overlap": job.model.overlap},
            "average_below": job.model.average_below,
            **({"legend": legend} if legend else {}),
            "output": [job.output.formats, job.output.probabilities, job.output.composites],
            "execution": [execution.tile, execution.device, execution.precision],
            "numerics": NUMERICS_VERSION,
        }
    )
