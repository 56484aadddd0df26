"""Read and write the plan of a product."""

from __future__ import annotations

import os
from pathlib import Path

from catalogs.errors import InvalidInputError
from pipeline.plan.plan import Plan
from pipeline.storage.store import Store, StoreLike, open_store, write_json

PLAN_NAME = "plan.json"


def write_plan(plan_dir: StoreLike, plan: Plan) -> None:
    """Write a plan into its folder."""
    write_json(open_store(plan_dir), PLAN_NAME, plan.to_dict())


def read_plan(plan_dir: StoreLike) -> Plan:
    """Read the plan of a folder.

    Raises:
        InvalidInputError: there is none, or it is not a plan.
    """
    return _read(open_store(plan_dir), PLAN_NAME)


def write_plan_file(path: str | os.PathLike[str], plan: Plan) -> None:
    """Write a plan to a path, whatever the name of the file."""
    write_json(open_store(Path(path).parent), Path(path).name, plan.to_dict())


def read_plan_file(path: str | os.PathLike[str]) -> Plan:
    """Read a plan from a path, whatever the name of the file.

    Raises:
        InvalidInputError: there is no such file, or it is not a plan.
    """
    return _read(open_store(Path(path).parent), Path(path).name)


def _read(store: Store, name: str) -> Plan:
    location = f"{store.location}/{name}"
    try:
        data = store.read(name)
    except OSError as error:
        raise InvalidInputError(f"{location} cannot be read as a plan: {error}") from error
    return Plan.from_json(data, location)
