"""The hyper-parameters of a segmentation task of TerraTorch, read value by value.

`model_args` is one flat mapping: `backbone_x` is the option x of the backbone, `decoder_x` and
`head_x` likewise. What changes the model and is not understood is refused by its name; what only
steers training is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ModelError
from model.terramind.config import read_mapping
from model.terramind.declarations import ModalityDeclaration
from model.terramind.merging import Merge
from model.terramind.modalities import IMAGE_SIZE, PATCH_SIZE
from model.terratorch import options

_FIXED_OPTIONS: Mapping[str, Mapping[Any, None]] = {
    "patch_size": {PATCH_SIZE: None, None: None},
    "num_register_tokens": {0: None, None: None},
    "qk_norm": {False: None, None: None},
    "encoder_norm": {True: None, None: None},
    "use_temporal": {False: None, None: None},
}
# ^ of the backbone: each other value makes another model than TerraMind

_IGNORED_OPTIONS = (
    *("pretrained", "ckpt_path", "modality_drop_rate", "drop_path_rate", "drop_rate"),
    "attn_drop_rate",
)
# ^ of the backbone: where its first weights came from, and what is dropped while it trains

_TIM_OPTIONS = (
    *("tim_modalities", "tim_decoding_steps", "tim_chained_generations"),
    *("tim_temps", "tim_top_p", "tim_top_k"),
)
# ^ of a backbone that thinks; the last three say how tokens are drawn, and here the likeliest are
#   taken, because a map must be the same each time that it is made

_UNSUPPORTED_OPTIONS = ("num_outputs", "peft_config", "image_size_out")
# ^ regression, adapters, and a map of another size than the image

_MERGES: Mapping[Any, Merge] = {"mean": "mean", "max": "max", "concat": "concat", None: None}
_DEFAULT_CHANNELS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationConfig:
    """What `model_args` say, understood."""

    backbone: str
    modalities: tuple[ModalityDeclaration, ...]
    bands: Mapping[str, tuple[str, ...]]
    """Names of the channels of some modalities."""

    merge: Merge
    image_size: int
    tim_modalities: tuple[str, ...] | None
    """What a backbone imagines that thinks in modalities; None for one that does not."""

    num_classes: int
    necks: tuple[Mapping[str, Any], ...]
    decoder: str
    decoder_options: Mapping[str, Any]
    head_options: Mapping[str, Any]
    rescale: bool


def to_plain_values(value: object) -> Any:
    """Return numbers, texts, lists and mappings as they are, and anything else as `<its type>`."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain_values(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain_values(entry) for entry in value]
    return f"<{type(value).__name__}>"


def read_task_arguments(source: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of a task, plain and flat, as code, command line or YAML store them.

    Args:
        source: `hyper_parameters` of a checkpoint, or the .yaml of a training, or its `model`.

    Raises:
        ModelError: a file that cannot be read, or that says nothing of a model.
    """
    content = read_mapping(source).get("model") if isinstance(source, (str, Path)) else source
    if content is not None and not isinstance(content, Mapping):
        raise ModelError(f"hyper-parameters must be a mapping, not {type(content).__name__}")
    found = {str(key): to_plain_values(value) for key, value in (content or {}).items()}
    if isinstance(found.get("init_args"), dict):
        return {"_class_path": found.get("class_path"), **found["init_args"]}
    return found


def parse_hyper_parameters(hyper_parameters: Mapping[str, Any]) -> SegmentationConfig:
    """Understand the hyper-parameters of a segmentation task.

    Raises:
        ModelError: another task, or an option that is missing or not understood.
    """
    _check_task(hyper_parameters)
    args = hyper_parameters.get("model_args")
    if not isinstance(args, Mapping):
        raise ModelError(
            "the checkpoint says nothing of its model (no hyper_parameters with model_args): in a "
            "job write `stats: fit.yaml`, the .yaml of its training (in Python also "
            "`hyper_parameters`)"
        )
    parts = {part: _select_part_options(args, part) for part in ("backbone", "decoder", "head")}
    rest = [name for name in args if not name.startswith(tuple(f"{part}_" for part in parts))]
    common = (
        "backbone",
        "decoder",
        "necks",
        "num_classes",
        "rescale",
        "aux_decoders",
        *_UNSUPPORTED_OPTIONS,
    )
    options.check_names("model_args", dict.fromkeys(rest), common)
    for name in _UNSUPPORTED_OPTIONS:
        options.parse_choice("model_args", name, args.get(name), {None: None})
    name, thoughts = _parse_backbone(args.get("backbone"), parts["backbone"])
    return SegmentationConfig(
        **_parse_encoder_options(parts["backbone"], thoughts is not None),
        backbone=name,
        tim_modalities=thoughts,
        num_classes=options.parse_int("model_args", "num_classes", args.get("num_classes")),
        necks=_parse_necks(args.get("necks")),
        decoder=_strip_registry_prefix(args.get("decoder")),
        decoder_options=parts["decoder"],
        head_options=parts["head"],
        rescale=options.parse_bool("model_args", "rescale", args.get("rescale", True)),
    )


def _check_task(told: Mapping[str, Any]) -> None:
    task = told.get("task")
    path = told.get("_class_path")
    kind = str(task if path is None else path).rpartition(".")[2]
    if task not in (None, "segmentation") or (path and not kind.endswith("SegmentationTask")):
        raise ModelError(f"the checkpoint is of the task {kind!r}, and only segmentation is read")
    factory = str(told.get("model_factory") or "EncoderDecoderFactory").rpartition(".")[2]
    if told.get("model") is not None or factory != "EncoderDecoderFactory":
        raise ModelError(
            f"the model was made by {told.get('model') or factory}, and only what "
            "EncoderDecoderFactory builds is known"
        )


def _select_part_options(args: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return the options of one part: all that bear its prefix, or one mapping of them."""
    start = f"{part}_"
    single = {k.removeprefix(start): v for k, v in args.items() if k.startswith(start)}
    whole = single.pop("kwargs", None) or {}
    if (single and whole) or not isinstance(whole, Mapping):
        raise ModelError(f"model_args: give either {part}_kwargs, a mapping, or {start}… options")
    return single or dict(whole)


def _parse_backbone(name: object, given: Mapping[str, Any]) -> tuple[str, tuple[str, ...] | None]:
    """Return the backbone's name without `_tim`, and what it imagines."""
    plain_name = _strip_registry_prefix(name)
    for ending in ("_generate", "_encdec"):
        if plain_name.endswith(ending):
            raise ModelError(
                f"backbone {plain_name!r} generates rasters and has no features to segment: "
                f"{plain_name.removesuffix(ending)} and …_tim have"
            )
    if not plain_name.endswith("_tim"):
        return plain_name, None
    options.parse_choice(
        "the backbone", "tim_decoding_steps", given.get("tim_decoding_steps", 1), {1: 1}
    )
    thoughts = given.get("tim_modalities") or ["LULC"]
    if not isinstance(thoughts, list) or not all(isinstance(entry, str) for entry in thoughts):
        raise ModelError(f"the backbone: tim_modalities must be a list of names, not {thoughts!r}")
    return plain_name.removesuffix("_tim"), tuple(thoughts)


def _strip_registry_prefix(name: object) -> str:
    return str(name).removeprefix("terratorch_")
    # ^ the name of the registry, which may stand before any name


def _parse_encoder_options(given: Mapping[str, Any], thinking: bool) -> dict[str, Any]:
    owner = "the backbone"
    known = ("modalities", "bands", "merge_method", "img_size", "in_chans")
    options.check_names(
        owner,
        given,
        (*known, *_FIXED_OPTIONS, *_IGNORED_OPTIONS, *(_TIM_OPTIONS if thinking else ())),
    )
    for name, values in _FIXED_OPTIONS.items():
        options.parse_choice(owner, name, given.get(name), values)
    merge = given.get("merge_method", "mean")
    return {
        "modalities": _parse_modalities(given),
        "bands": _parse_bands(given.get("bands")),
        "merge": options.parse_choice(owner, "merge_method", merge, _MERGES),
        "image_size": options.parse_int(owner, "img_size", given.get("img_size", IMAGE_SIZE)),
    }


def _parse_modalities(given: Mapping[str, Any]) -> tuple[ModalityDeclaration, ...]:
    listed = given.get("modalities")
    if not listed:
        channels = given.get("in_chans", _DEFAULT_CHANNELS)
        return ({"image": options.parse_int("the backbone", "in_chans", channels)},)
        # ^ the published name of a modality that was given none
    found = [listed] if isinstance(listed, Mapping) else listed
    if not isinstance(found, Sequence) or not all(isinstance(e, (str, Mapping)) for e in found):
        raise ModelError(f"the backbone: modalities must be a list of names, not {listed!r}")
    return tuple(found)


def _parse_bands(given: object) -> dict[str, tuple[str, ...]]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(v, list) for v in given.values()):
        raise ModelError(f"the backbone: bands must be {{modality: [names]}}, not {given!r}")
    return {name: tuple(str(band) for band in bands) for name, bands in given.items()}


def _parse_necks(given: object) -> tuple[Mapping[str, Any], ...]:
    steps = [] if given is None else given
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        raise ModelError(f"model_args: necks must be a list of mappings, not {given!r}")
    return tuple({**step, "name": _strip_registry_prefix(step.get("name"))} for step in steps)
