"""Locate the file of weights that a name or a path stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from model.errors import ModelError
from model.weights import hub


def locate_weights(
    name_or_path: str,
    model_name: str | None = None,
    *,
    suggest: Callable[[str], str] = lambda _: "",
) -> Path:
    """Return the path of weights: a file, the file in a folder, or that of a named model.

    Args:
        name_or_path: a model's name, or the path of a file or folder. A name takes precedence over
            a path: a folder ``demo`` is written ``./demo``.
        model_name: the model whose file is looked for in a folder.
        suggest: returns a sentence on similar names, which is added to the error.

    Raises:
        ModelError: there is no such file or name, or the weights were not downloaded.
        WeightsError: the folder has no file of weights.
    """
    if not name_or_path.strip():
        raise ModelError("The name is empty: give a model's name, or the path of a file.")
    if name_or_path == "demo":
        from model.predictor import registry  # noqa: PLC0415

        # ^ imports torch, which other names do not need
        return registry.DEMO_CARD_PATH.with_name("weights.safetensors")
    path = Path(name_or_path)
    if name_or_path not in hub.OFFICIAL_FILES and path.is_file():
        return path
    if name_or_path not in hub.OFFICIAL_FILES and path.is_dir():
        from model.weights import loading  # noqa: PLC0415

        # ^ imports torch
        return loading.find_weight_file(path, model_name)
    if name_or_path not in hub.OFFICIAL_FILES:
        raise ModelError(
            f"There is no file {name_or_path}, and no model of that name.{suggest(name_or_path)}"
        )
    if hub.find_local_file(name_or_path) is None:
        raise ModelError(
            f"The weights of {name_or_path} have not been downloaded: run "
            f"`terramosaic models fetch {name_or_path}`, or give the path of a file."
        )
    return hub.fetch_path(name_or_path)
