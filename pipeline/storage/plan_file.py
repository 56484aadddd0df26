"""Read and write the plan of a product."""

from __future__ import annotations

from catalogs.errors import InvalidInputError
from pipeline.plan.plan import Plan
from pipeline.storage.store import StoreLike, open_store, write_json

PLAN_NAME = "plan.json"


def write_plan(plan_dir: StoreLike, plan: Plan) -> None:
    """Write a plan into its folder."""
    write_json(open_store(plan_dir), PLAN_NAME, plan.to_dict())


def read_plan(plan_dir: StoreLike) -> Plan:
    """Read the plan of a folder.

    Raises:
        InvalidInputError: there is none, or it is not a plan.
    """
    store = open_store(plan_dir)
    location = f"{store.location}/{PLAN_NAME}"
    try:
        data = store.read(PLAN_NAME)
    except OSError as error:
        raise InvalidInputError(f"{location} cannot be read as a plan: {error}") from error
    return Plan.from_json(data, location)
