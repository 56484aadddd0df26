"""Section ``model`` of a job: the model, its tasks, and what a fine-tuned one needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from catalogs import legend
from flows.config.base import (
    ConfigModel,
    ExistingFile,
    LaxTuple,
    check_choice,
    check_unique,
    resolve_existing_file,
    resolve_path,
)
from flows.config.classes import ClassConfig, LegendOptions, check_layer_name
from flows.config.statistics import InputStatistics, read_statistics
from flows.config.weights import WEIGHTS_SYNTAX, Weights, read_weights
from model.errors import ModelError
from model.terramind import architectures, modalities
from model.terratorch.datamodule import is_training, read_training
from pipeline.plan.settings import ModelOptions

MODEL_NAMES = (*architectures.ARCHITECTURES, "demo", "none")
"""Models known by name; any other name is the path of a ``.yaml`` configuration."""

TASKS = ("land_cover", "embedding", "generate")
"""Tasks of a model."""

GENERATED_MODALITIES = tuple(
    name for name, entry in modalities.TARGET_MODALITIES.items() if entry.statistics is not None
)
"""Modalities that a model can generate."""

TOKENIZER_MODALITIES = ("LULC", *GENERATED_MODALITIES)
"""Modalities whose tokenizer weights can be set."""

DEFAULT_TIMESTEPS = 10
"""Default number of diffusion steps of the decoder of a generated modality."""


OneOrMoreNames = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]


class ModelConfig(ConfigModel):
    """The model, its tasks and its weights."""

    name: str = Field(
        title="The model",
        default="demo",
        description=f"{', '.join(MODEL_NAMES)}, or the path of a .yaml file (docs/model.md)",
    )
    task: Annotated[OneOrMoreNames, LaxTuple] = Field(
        title="What the model does",
        default=("land_cover",),
        min_length=1,
        description=f"one of {', '.join(TASKS)}, or a list of them",
    )
    modality: Annotated[OneOrMoreNames, LaxTuple] | None = Field(
        title="What the task generate generates",
        default=None,
        min_length=1,
        description=f"what to generate, one or a list of {', '.join(GENERATED_MODALITIES)}",
    )
    weights: Weights | None = Field(
        title="Where the weights come from; by default the hub, for demo the shipped ones",
        default=None,
        description=WEIGHTS_SYNTAX,
        validate_default=False,
    )
    tokenizers: dict[str, Weights] | None = Field(
        title="Weights of tokenizers that are not in the folder of the model's weights",
        default=None,
        min_length=1,
        description="{MODALITY: hub, a path, …}",
    )
    timesteps: int = Field(
        title="Steps of diffusion of the task generate",
        default=DEFAULT_TIMESTEPS,
        ge=1,
        le=1000,
        description="diffusion steps, 1 to 1000",
    )
    overlap: int | None = Field(
        title="Overlap of windows; by default chosen from the window's size",
        default=None,
        ge=0,
        description="pixels that neighbouring windows share, at most half a window",
    )
    average_below: float | None = Field(
        title="Confidence below which windows are predicted eight times",
        default=None,
        gt=0,
        le=1,
        description="a number above 0, at most 1: windows whose mean probability is below it are "
        "predicted again with test-time augmentation (eight flips and rotations)",
    )
    checkpoint: ExistingFile | None = Field(
        title="A fine-tuned model", default=None, description="the path of a TerraTorch .ckpt file"
    )
    classes: Annotated[tuple[ClassConfig, ...], LaxTuple] | None = Field(
        title="Classes of the checkpoint, where it does not state them",
        default=None,
        min_length=2,
        description="a list in the checkpoint's order, of class names or of "
        "{name: …, title: …, color: …, code: …, gap: true}",
    )
    layer: str | None = Field(
        title="Name of the layer of the map; by default land_cover",
        default=None,
        description="a name for the map of classes, as in burn_scars",
    )
    stats: dict[str, InputStatistics] | None = Field(
        title="Statistics with which inputs are normalised",
        default=None,
        min_length=1,
        description="a file, or {INPUT: {mean: [...], std: [...]}}",
    )
    training: ExistingFile | None = Field(
        title="Configuration of the training, which contains the statistics",
        default=None,
        description="the .yaml file that the checkpoint was trained with",
    )

    @model_validator(mode="before")
    @classmethod
    def _move_stats_to_training(cls, values: Any, info: ValidationInfo) -> Any:
        """Move ``stats`` to ``training`` if its file is a training configuration."""
        stats = values.get("stats") if isinstance(values, dict) else None
        if not isinstance(stats, str) or "training" in values:
            return values
        if not _is_training_config(resolve_path(stats, info)):
            return values
        return {key: value for key, value in values.items() if key != "stats"} | {"training": stats}

    @field_validator("name", mode="before")
    @classmethod
    def _check_name(cls, value: Any, info: ValidationInfo) -> str:
        if isinstance(value, str) and value.endswith((".yaml", ".yml")):
            return str(resolve_existing_file(value, info))
        return check_choice(
            value, MODEL_NAMES, "model", extra_choices=", or the path of a .yaml file"
        )

    @field_validator("task")
    @classmethod
    def _check_tasks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_unique(tuple(check_choice(name, TASKS, "task") for name in value))

    @field_validator("modality")
    @classmethod
    def _check_modalities(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            if name == "LULC":
                raise ValueError("land cover has its own task: write {task: land_cover}.")
            if name in ("S2L1C", "RGB"):
                raise ValueError(f"TerraMind cannot generate {name}: write S2L2A.")
            check_choice(name, GENERATED_MODALITIES, "modality")
        return None if value is None else check_unique(value)

    @field_validator("weights", mode="before")
    @classmethod
    def _parse_weights(cls, value: Any, info: ValidationInfo) -> Weights | None:
        return None if value is None else read_weights(value, info)

    @field_validator("tokenizers", mode="before")
    @classmethod
    def _parse_tokenizers(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            check_choice(name, TOKENIZER_MODALITIES, "tokenizer"): read_weights(source, info)
            for name, source in value.items()
        }

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, value: tuple[ClassConfig, ...] | None) -> Any:
        if value is not None:
            legend.build_legend([entry.to_definition() for entry in value])
        return value

    @field_validator("layer")
    @classmethod
    def _check_layer(cls, value: str | None) -> str | None:
        return None if value is None else check_layer_name(value)

    @field_validator("stats", mode="before")
    @classmethod
    def _read_stats(cls, value: Any, info: ValidationInfo) -> Any:
        return read_statistics(value, info)

    @field_validator("training")
    @classmethod
    def _check_training_file(cls, value: Path | None) -> Path | None:
        try:
            if value is not None:
                read_training(value)
        except ModelError as error:
            raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _check_consistency(self) -> ModelConfig:
        for problem in (
            *self._checkpoint_problems(), *self._task_problems(), *self._name_problems()
        ):  # fmt: skip
            raise ValueError(problem)
        return self

    def _checkpoint_problems(self) -> Iterator[str]:
        if self.checkpoint is None:
            if self.classes is not None:
                yield "classes are for a checkpoint only; other models have their own: remove them."
            if self.training is not None:
                yield f"{self.training} configures a training: add its checkpoint, or remove it."
            return
        if self.stats is not None and self.training is not None:
            yield "give stats or training, not both: training contains the statistics."
        if (self.stats or self.training) is None:
            yield "a checkpoint contains no stats: add stats: beside it."
        if self.weights is not None:
            yield "give weights or checkpoint, not both."
        if self.tasks != ("land_cover",):
            yield f"a checkpoint maps classes only: remove it, or the task {self._other_tasks}."

    def _task_problems(self) -> Iterator[str]:
        if "generate" in self.tasks and self.modality is None:
            choices = ", ".join(GENERATED_MODALITIES)
            yield f"the task generate needs a modality: add modality: with one of {choices}."
        if "generate" not in self.tasks:
            for key in ("modality", "timesteps"):
                if key in self.model_fields_set and getattr(self, key) is not None:
                    tasks = ", ".join(self.tasks)
                    yield f"{key} is for {{task: generate}}, not for {tasks}: remove it."
        if self.average_below is not None and "land_cover" not in self.tasks:
            yield "average_below is for the task land_cover: remove it."
        if self.layer is not None and ("land_cover" not in self.tasks or self.name == "none"):
            yield "layer names a map of classes, and this model makes none: remove it."
        if self.tokenizers and (self.tasks == ("embedding",) or self.checkpoint is not None):
            yield "tokenizers are not used by this task: remove them."

    def _name_problems(self) -> Iterator[str]:
        if self.name == "none" and (self.weights is not None or self.checkpoint is not None):
            yield "the model 'none' predicts nothing: remove weights and checkpoint."
        if self.name == "none" and self.tasks != ("land_cover",):
            tasks = self._other_tasks
            yield f"the model 'none' predicts nothing: name a model for the task {tasks}."
        if self.name == "demo" and self.weights is not None and self.weights.source == "hub":
            yield "the weights of 'demo' are shipped, not on the hub: remove weights."
        if self.name == "demo" and "generate" in self.tasks:
            yield "'demo' maps land cover and generates nothing: name a terramind_v1 model."

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks in the order of :data:`TASKS`."""
        return tuple(name for name in TASKS if name in self.task)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return the generated modalities in the order of :data:`GENERATED_MODALITIES`."""
        return tuple(name for name in GENERATED_MODALITIES if name in (self.modality or ()))

    @property
    def _other_tasks(self) -> str:
        return ", ".join(name for name in self.tasks if name != "land_cover")

    @property
    def config_path(self) -> Path | None:
        """Return the model's configuration file if the name is the path of one."""
        return Path(self.name) if self.name.endswith((".yaml", ".yml")) else None

    @property
    def label(self) -> str:
        """Return the model's name for products, without folders of this machine."""
        path = self.checkpoint or self.config_path
        return path.stem if path else self.name

    @property
    def class_names(self) -> list[str] | None:
        """Return the names of the classes, if the job states them."""
        return None if self.classes is None else [entry.name for entry in self.classes]

    @property
    def legend_options(self) -> LegendOptions:
        """Return what the job states about the map of classes beyond their names."""
        classes = self.classes or ()
        has_details = any(entry.has_details for entry in classes)
        return LegendOptions(layer=self.layer, classes=classes if has_details else ())

    @property
    def effective_weights(self) -> Weights:
        """Return the job's weights, or the default ones of the model's name."""
        if self.weights is not None:
            return self.weights
        return Weights(source="shipped" if self.name in ("demo", "none") else "hub")

    def to_options(self) -> ModelOptions:
        """Return the options with which the model is loaded, as JSON types."""
        has_checkpoint, generates = self.checkpoint is not None, "generate" in self.tasks
        return ModelOptions(
            name=self.name,
            task=_unwrap_single(self.tasks),
            weights=None if has_checkpoint else self.effective_weights.to_source(),
            checkpoint=str(self.checkpoint) if has_checkpoint else None,
            classes=self.class_names,
            stats=self._statistics_source(),
            tokenizers=None
            if self.tokenizers is None
            else {name: source.to_source() for name, source in self.tokenizers.items()},
            modality=_unwrap_single(self.modalities) if generates else None,
            timesteps=self.timesteps if generates else None,
        )

    def _statistics_source(self) -> str | dict[str, dict[str, Any]] | None:
        """Return the path of the training's configuration, or the statistics of each input."""
        if self.training is not None:
            return str(self.training)
        if self.stats is None:
            return None
        return {name: entry.to_mapping() for name, entry in self.stats.items()}


def _unwrap_single(names: tuple[str, ...]) -> str | list[str]:
    """Return a single name as a string, several as a list."""
    return names[0] if len(names) == 1 else list(names)


def _is_training_config(path: Path) -> bool:
    """Return whether a file is a training configuration, not a file of statistics."""
    try:
        return is_training(path)
    except ModelError:
        return False
        # ^ reading its statistics reports the error
