"""Results of ``terramosaic models …``; :mod:`flows.run.command_results` has the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AliasChoices, Field
from pydantic.config import JsonDict
from pydantic.json_schema import SkipJsonSchema

from flows.run.command_results import Count, NonNegative, Result, Share

if TYPE_CHECKING:
    from model.tools.convert import ConvertedFile
    from model.tools.model_card import ModelDescription
    from model.tools.model_list import ListedModel
    from model.tools.weights_check import WeightsInspection
    from model.weights.hub import FetchedFile
    from model.weights.state_dict_contents import EmbeddedModality

Sha256 = Annotated[str, Field(json_schema_extra={"pattern": "^[0-9a-f]{64}$"})]
WeightsKind = Literal[
    "encoder", "encoder-decoder", "generator", "tim", "tokenizer", "segmenter", "terratorch",
    "vocabulary", "unknown",
]  # fmt: skip


def _optional(description: str) -> Any:
    """Return a field that is None by default, and then absent from the JSON."""
    return Field(
        default=None,
        exclude_if=lambda value: value is None,
        json_schema_extra=_drop_default,
        description=description,
    )


def _drop_default(schema: JsonDict) -> None:
    schema.pop("default", None)


# -- list, fetch ---------------------------------------------------------------------------------


class ModelEntry(Result):
    """A model that a job can name, or a tokenizer."""

    name: str = Field(description="What to write as model.name, or to fetch.")
    kind: Literal["model", "tokenizer"] = Field(
        description="What a job can name, or what goes with it."
    )
    parameters: Count | None = Field(
        description="Parameters with the inputs S2L2A, S1RTC and DEM; null where there is nothing "
        "to count."
    )
    about: str = Field(description="What it is.")
    weights: Literal["shipped", "missing", "fetched", "on the hub", "none"] = Field(
        description="Where its weights are."
    )


class ListResult(Result):
    """The models that a job can name, and the tokenizers that go with them."""

    models: tuple[ModelEntry, ...]

    @classmethod
    def from_models(cls, models: Sequence[ListedModel]) -> ListResult:
        """Build the result from a list of models."""
        return cls(
            models=tuple(ModelEntry.model_validate(model, from_attributes=True) for model in models)
        )


class FetchedFileEntry(Result):
    """An official file that is here now."""

    name: str = Field(description="As it was asked for; one name for each file.")
    path: str = Field(description="Where it lies; with --to, the copy.")
    repo: str = Field(description="Its repository on the hub.")
    revision: str = Field(description="What was asked for: main, or --revision.")
    commit: str | None = Field(
        description="The commit that this was; null for a file put there by hand."
    )
    sha256: Sha256
    bytes: Count
    pinned: Literal["now", "before"] = Field(description="When its digest was written down.")

    @classmethod
    def from_file(
        cls, file: FetchedFile, *, name: str, path: Path, repo: str, revision: str
    ) -> FetchedFileEntry:
        """Build the entry of a file.

        Args:
            file: the file.
            name: name of the model that was asked for.
            path: path of the file, or of its copy.
            repo: its repository on the hub.
            revision: the commit, tag or branch that was asked for.
        """
        return cls(
            name=name,
            path=str(path),
            repo=repo,
            revision=revision,
            commit=file.pin.commit,
            sha256=file.pin.sha256,
            bytes=file.pin.bytes,
            pinned="now" if file.is_newly_pinned else "before",
        )


class FetchResult(Result):
    """Official files that are here now, each with the digest that it is held to."""

    fetched: tuple[FetchedFileEntry, ...]


# -- check, convert ------------------------------------------------------------------------------


class HeldModality(Result):
    """A modality that a file of weights holds an embedding for."""

    name: str
    form: Literal["pixels", "tokens"]
    size: int = Field(description="Channels, or entries of the vocabulary.")

    @classmethod
    def from_embedding(cls, modality: EmbeddedModality) -> HeldModality:
        """Build the entry of a modality."""
        return cls(name=modality.name, form=modality.form, size=modality.size)


class CheckResult(Result):
    """What a file of weights is, and which model takes it. ok is false with exit code 2."""

    path: str
    sha256: Sha256
    bytes: Count
    kind: WeightsKind = Field(description="What its keys are those of.")
    parameters: Count = Field(
        description="Numbers in the file; what is stored once for two keys counts once."
    )
    dtypes: dict[str, Count] = Field(description="Numbers by number format.")
    parts: dict[str, Count] = Field(description="Numbers by part: encoder, decoder, head, …")
    inputs: tuple[HeldModality, ...]
    outputs: tuple[HeldModality, ...]
    image_size: int | None = Field(
        description="Side of the images that its position tables are made for, px."
    )
    not_finite: tuple[str, ...] = Field(description="Keys that hold NaN or infinity.")
    ok: bool = Field(description="Whether it can be used.")
    fits: tuple[str, ...] = Field(description="The models that take it as it is.")
    nearest: str | None = Field(
        description="The model that it was held against: as asked, or the one it comes nearest to."
    )
    missing: tuple[str, ...] = Field(description="Keys that this model needs.")
    unexpected: tuple[str, ...] = Field(description="Keys that this model has no place for.")
    differing: tuple[str, ...] = Field(description="Keys of another shape or kind, and how.")

    @classmethod
    def from_inspection(cls, inspection: WeightsInspection) -> CheckResult:
        """Build the result from what a file was found to be."""
        contents, mismatch = inspection.contents, inspection.mismatch
        return cls(
            path=str(inspection.path),
            sha256=inspection.sha256,
            bytes=inspection.path.stat().st_size,
            kind=contents.kind,
            parameters=contents.parameters,
            dtypes=dict(contents.dtypes),
            parts=dict(contents.parts),
            inputs=tuple(map(HeldModality.from_embedding, contents.inputs)),
            outputs=tuple(map(HeldModality.from_embedding, contents.outputs)),
            image_size=contents.image_size if contents.inputs else None,
            not_finite=contents.non_finite_keys,
            ok=inspection.is_usable,
            fits=inspection.fits,
            nearest=inspection.nearest_model,
            missing=tuple(mismatch.missing),
            unexpected=tuple(mismatch.unexpected),
            differing=tuple(mismatch.mismatched),
        )


class ConvertResult(Result):
    """The safetensors file that was written."""

    path: str
    sha256: Sha256
    bytes: Count
    tensors: int = Field(json_schema_extra={"minimum": 1})
    parameters: Count
    dtypes: dict[str, Count] = Field(description="Numbers by number format.")
    parts: dict[str, Count] = Field(description="Numbers by part: encoder, decoder, head, …")

    @classmethod
    def from_file(cls, file: ConvertedFile) -> ConvertResult:
        """Build the result from the file that was written."""
        return cls(
            path=str(file.path),
            sha256=file.sha256,
            bytes=file.path.stat().st_size,
            tensors=file.tensors,
            parameters=file.contents.parameters,
            dtypes=dict(file.contents.dtypes),
            parts=dict(file.contents.parts),
        )


# -- card ----------------------------------------------------------------------------------------


class ArchitectureSizes(Result):
    """Sizes of the transformer."""

    dim: Count = Field(description="Width of a token.")
    heads: Count
    depth: Count = Field(description="Blocks of the encoder.")
    decoder_depth: Count = Field(description="Blocks of the decoder; 0 without one.")
    gated: bool = Field(description="Whether its MLPs are gated.")
    bias: bool = Field(description="Whether attention and MLPs have biases.")
    mlp_ratio: NonNegative = Field(description="Width inside an MLP over that of a token.")


class CardModality(Result):
    """An input or output of a model, with the statistics that are applied to it."""

    name: str
    form: Literal["pixels", "tokens", "classes"]
    size: int = Field(description="Channels, entries of the vocabulary, classes.")
    bands: tuple[str, ...] | SkipJsonSchema[None] = _optional("In their order.")
    unit: str | SkipJsonSchema[None] = _optional("Unit of its values.")
    mean: tuple[float, ...] | SkipJsonSchema[None] = _optional("Of each band, in this unit.")
    std: tuple[float, ...] | SkipJsonSchema[None] = _optional("Likewise.")


class EdgeStep(Result):
    """Differences of the pixels within a range of distances from the edge."""

    first: int = Field(description="Distance from the edge, px.")
    stop: int = Field(description="Where the next step begins, px.")
    differs: Share | None = Field(
        description="Share of pixels with another class than in a window's middle."
    )
    change: NonNegative = Field(
        description="Mean largest change of a probability; without classes the mean change over "
        "the channels' deviations."
    )
    pixels: int = Field(description="That were compared.")


class EdgeCurve(Result):
    """What the distance from a window's edge changes."""

    window: int = Field(description="Side of the windows, px.")
    on: str = Field(
        validation_alias=AliasChoices("on", "measured_on"),
        description="What it was measured on.",
    )
    steps: tuple[EdgeStep, ...] = Field(json_schema_extra={"minItems": 1})
    overlap: int = Field(description="By how much windows overlap after it, px.")


class CardWeights(Result):
    """Where the weights of a model are."""

    page: str | None = Field(description="Where they can be downloaded.")
    path: str | None = Field(description="Where they lie here.")
    sha256: str | None
    bytes: Count | None
    commit: str | None


class CardResult(Result):
    """What a model is. What is not known is null or empty."""

    name: str
    kind: str = Field(description="As models check tells it.")
    what: str = Field(description="One sentence.")
    architecture: ArchitectureSizes | None
    parameters: Count | None = Field(
        description="All parts together; an encoder counts with its six image inputs."
    )
    parts: dict[str, Count] = Field(
        description="Parameters of each part: encoder, decoder, tokenizers, head."
    )
    inputs: tuple[CardModality, ...]
    outputs: tuple[CardModality, ...]
    classes: tuple[str, ...] = Field(description="In their order.")
    window: int | None = Field(description="Side of one input, px.")
    reach: EdgeCurve | None = Field(
        description="What the distance from a window's edge changes; null where it was not "
        "measured."
    )
    weights: CardWeights
    licence: str | None = Field(description="Of the weights, as they are published.")
    sources: tuple[str, ...]
    limits: tuple[str, ...]
    fits: tuple[str, ...] | SkipJsonSchema[None] = _optional("Of a file: the models that take it.")

    @classmethod
    def from_description(cls, description: ModelDescription) -> CardResult:
        """Build the result from the description of a model."""
        return cls.model_validate(description, from_attributes=True)
