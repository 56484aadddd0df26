"""Parse the hyper-parameters of a segmentation task of TerraTorch.

`model_args` is one flat mapping: `backbone_x` is the option x of the backbone, `decoder_x` and
`head_x` likewise. Options that change the model and are not supported are refused by name; options
of training alone are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import ModelError
from model.terramind.modalities import IMAGE_SIZE, PATCH_SIZE
from model.terramind.modality_names import ModalityDeclaration
from model.terratorch import options
from model.terratorch.inert_objects import InertObject
from model.terratorch.training_file import read_section, unwrap_arguments

if TYPE_CHECKING:
    from model.terramind.token_merging import Merge

    # ^ with torch, which is not needed to check a job

_FIXED_OPTIONS: Mapping[str, Mapping[Any, None]] = {
    "patch_size": {PATCH_SIZE: None, None: None},
    "num_register_tokens": {0: None, None: None},
    "qk_norm": {False: None, None: None},
    "encoder_norm": {True: None, None: None},
}
# ^ of the backbone: with any other value it is not TerraMind

_IGNORED_OPTIONS = (
    *("pretrained", "ckpt_path", "modality_drop_rate", "drop_path_rate", "drop_rate"),
    *("attn_drop_rate", "use_temporal", "temporal_pooling", "temporal_n_timestamps"),
    *("temporal_subset_lengths", "temporal_features_permute_op", "temporal_concat"),
)
# ^ of the backbone: its initial weights, dropout during training, and how several dates are
#   combined, which has no effect with one date

_TIM_OPTIONS = (
    *("tim_modalities", "tim_decoding_steps", "tim_chained_generations"),
    *("tim_temps", "tim_top_p", "tim_top_k"),
)
# ^ of Thinking in Modalities; the last three are for sampling tokens, and here the likeliest are
#   taken, so that a map is reproducible

_UNSUPPORTED_OPTIONS = ("num_outputs", "image_size_out")
# ^ regression, and an output of another size than the image

_MERGES: Mapping[Any, Merge] = {"mean": "mean", "max": "max", "concat": "concat", None: None}
_DEFAULT_CHANNELS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationConfig:
    """The parsed `model_args`."""

    backbone: str
    modalities: tuple[ModalityDeclaration, ...]
    bands: Mapping[str, tuple[str, ...]]
    """Names of the channels of some modalities."""

    merge: Merge
    image_size: int
    tim_modalities: tuple[str, ...] | None
    """Modalities that a backbone with Thinking in Modalities generates; None for any other."""

    num_classes: int
    necks: tuple[Mapping[str, Any], ...]
    decoder: str
    decoder_options: Mapping[str, Any]
    head_options: Mapping[str, Any]
    rescale: bool
    peft_config: Mapping[str, Any] | None = None
    """How the backbone was adapted with PEFT; None without adapters."""

    crop: int | None = None
    """Side of the windows in which the authors run the model, px, if stated and square."""

    stride: int | None = None
    """Distance of these windows, px."""

    has_modality_dropout: bool = False
    """Whether training left out modalities at random."""

    @property
    def window(self) -> int:
        """Side of one input, px: that of the authors' windows, or of the model's images."""
        is_whole = self.crop is not None and not self.crop % PATCH_SIZE
        return self.crop if self.crop and is_whole else self.image_size

    @property
    def overlap(self) -> int | None:
        """Pixels that two windows of the authors share; None if not stated."""
        if self.window != self.crop or self.stride is None or not 0 < self.stride <= self.crop:
            return None
        return min(self.crop - self.stride, self.crop // 2)


def to_plain_values(value: object) -> Any:
    """Return numbers, texts, lists and mappings, and any other value as `<its type>`."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain_values(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain_values(entry) for entry in value]
    if isinstance(value, InertObject) and value.plain_value is not None:
        return to_plain_values(value.plain_value)
    return f"<{type(value).__name__}>"


def read_task_arguments(source: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of a task as one flat mapping of plain values.

    Args:
        source: `hyper_parameters` of a checkpoint, or the .yaml of a training, or its `model`.

    Raises:
        ModelError: the file cannot be read, or does not hold a mapping.
    """
    content = read_section(source, "model") if isinstance(source, (str, Path)) else source
    if content is not None and not isinstance(content, Mapping):
        raise ModelError(f"hyper-parameters must be a mapping, not {type(content).__name__}")
    arguments = {str(key): to_plain_values(value) for key, value in (content or {}).items()}
    return unwrap_arguments(arguments)


def parse_hyper_parameters(hyper_parameters: Mapping[str, Any]) -> SegmentationConfig:
    """Parse the hyper-parameters of a segmentation task.

    Raises:
        ModelError: another task, or an option that is missing or not supported.
    """
    _check_task(hyper_parameters)
    args = hyper_parameters.get("model_args")
    if not isinstance(args, Mapping):
        raise ModelError(
            "the checkpoint does not describe its model (no hyper_parameters with model_args): in "
            "a job write `stats: fit.yaml`, the .yaml of its training (in Python also "
            "`hyper_parameters`)"
        )
    parts = {part: _select_part_options(args, part) for part in ("backbone", "decoder", "head")}
    model_options = [
        name for name in args if not name.startswith(tuple(f"{part}_" for part in parts))
    ]
    known = (
        "backbone",
        "decoder",
        "necks",
        "num_classes",
        "rescale",
        "aux_decoders",
        "peft_config",
        *_UNSUPPORTED_OPTIONS,
    )
    options.check_names("model_args", dict.fromkeys(model_options), known)
    for name in _UNSUPPORTED_OPTIONS:
        options.parse_choice("model_args", name, args.get(name), {None: None})
    parts["head"].pop("num_classes", None)
    # ^ TerraTorch sets it itself, also in the stored `head_kwargs`
    check_dates(hyper_parameters)
    name, tim_modalities = _parse_backbone(args.get("backbone"), parts["backbone"])
    num_classes = options.parse_int("model_args", "num_classes", args.get("num_classes"))
    crop, stride = _parse_tiling(hyper_parameters.get("tiled_inference_parameters"))
    return SegmentationConfig(
        **_parse_encoder_options(parts["backbone"], tim_modalities is not None),
        backbone=name,
        tim_modalities=tim_modalities,
        num_classes=num_classes,
        necks=_parse_necks(args.get("necks")),
        decoder=_strip_registry_prefix(args.get("decoder")),
        decoder_options=parts["decoder"],
        head_options=parts["head"],
        rescale=options.parse_bool("model_args", "rescale", args.get("rescale", True)),
        peft_config=_parse_peft_config(args.get("peft_config")),
        crop=crop,
        stride=stride,
        has_modality_dropout=bool(parts["backbone"].get("modality_drop_rate")),
    )


def _parse_peft_config(value: object) -> Mapping[str, Any] | None:
    if value is None or isinstance(value, Mapping):
        return value or None
    raise ModelError(f"model_args: peft_config must be a mapping, not {value!r}")


def _parse_tiling(parameters: object) -> tuple[int | None, int | None]:
    """Return side and distance of the windows of `tiled_inference_parameters`, where square."""
    if not isinstance(parameters, Mapping):
        return None, None
    values = []
    for name in ("crop", "stride"):
        sides = {_parse_whole_number(parameters.get(key)) for key in (f"h_{name}", f"w_{name}")} - {
            None
        }
        # ^ as they were called before 1.1
        side = _parse_whole_number(parameters.get(name))
        values.append(side if side or len(sides) != 1 else sides.pop())
    return values[0], values[1]


def _parse_whole_number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def check_dates(hyper_parameters: Mapping[str, Any]) -> None:
    """Check that a model takes one date of each input.

    Raises:
        ModelError: it takes several.
    """
    args = hyper_parameters.get("model_args")
    settings = _select_part_options(args, "backbone") if isinstance(args, Mapping) else {}
    if not settings.get("use_temporal"):
        return
    dates = settings.get("temporal_n_timestamps")
    pooling = settings.get("temporal_pooling", "mean")
    raise ModelError(
        f"the checkpoint was trained on {dates or 'several'} dates of each input "
        f"(backbone_use_temporal, pooling {pooling!r}), and only models of one date are supported: "
        "use a checkpoint that was trained on one image of each input"
    )


def _check_task(arguments: Mapping[str, Any]) -> None:
    task = arguments.get("task")
    path = arguments.get("_class_path")
    name = str(task if path is None else path).rpartition(".")[2]
    if task not in (None, "segmentation") or (path and not name.endswith("SegmentationTask")):
        raise ModelError(
            f"the checkpoint is of the task {name!r}, which gives no class for each pixel, and "
            "only segmentation is supported: use a checkpoint of SemanticSegmentationTask"
        )
    factory = str(arguments.get("model_factory") or "EncoderDecoderFactory").rpartition(".")[2]
    if arguments.get("model") is not None or factory != "EncoderDecoderFactory":
        raise ModelError(
            f"the model was built by {arguments.get('model') or factory}, and only models of "
            "EncoderDecoderFactory are supported"
        )


def _select_part_options(args: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return the options of one part: those with its prefix, or those of `<part>_kwargs`."""
    prefix = f"{part}_"
    prefixed = {
        name.removeprefix(prefix): value for name, value in args.items() if name.startswith(prefix)
    }
    kwargs = prefixed.pop("kwargs", None) or {}
    if (prefixed and kwargs) or not isinstance(kwargs, Mapping):
        raise ModelError(f"model_args: give either {part}_kwargs, a mapping, or {prefix}… options")
    return prefixed or dict(kwargs)


def _parse_backbone(
    name: object, settings: Mapping[str, Any]
) -> tuple[str, tuple[str, ...] | None]:
    """Return the backbone's name without `_tim`, and the modalities that it generates."""
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
        "the backbone", "tim_decoding_steps", settings.get("tim_decoding_steps", 1), {1: 1}
    )
    modalities = settings.get("tim_modalities") or ["LULC"]
    if not isinstance(modalities, list) or not all(isinstance(name, str) for name in modalities):
        raise ModelError(
            f"the backbone: tim_modalities must be a list of names, not {modalities!r}"
        )
    return plain_name.removesuffix("_tim"), tuple(modalities)


def _strip_registry_prefix(name: object) -> str:
    return str(name).removeprefix("terratorch_")
    # ^ the name of the registry, which may be a prefix of any name


def _parse_encoder_options(settings: Mapping[str, Any], is_tim: bool) -> dict[str, Any]:
    owner = "the backbone"
    known = ("modalities", "bands", "merge_method", "img_size", "in_chans")
    options.check_names(
        owner,
        settings,
        (*known, *_FIXED_OPTIONS, *_IGNORED_OPTIONS, *(_TIM_OPTIONS if is_tim else ())),
    )
    for name, values in _FIXED_OPTIONS.items():
        options.parse_choice(owner, name, settings.get(name), values)
    merge = settings.get("merge_method", "mean")
    return {
        "modalities": _parse_modalities(settings),
        "bands": _parse_bands(settings.get("bands")),
        "merge": options.parse_choice(owner, "merge_method", merge, _MERGES),
        "image_size": options.parse_int(owner, "img_size", settings.get("img_size", IMAGE_SIZE)),
    }


def _parse_modalities(settings: Mapping[str, Any]) -> tuple[ModalityDeclaration, ...]:
    modalities = settings.get("modalities")
    if not modalities:
        channels = settings.get("in_chans", _DEFAULT_CHANNELS)
        return ({"image": options.parse_int("the backbone", "in_chans", channels)},)
        # ^ TerraTorch's name of a modality without a name
    declarations = [modalities] if isinstance(modalities, Mapping) else modalities
    if not isinstance(declarations, Sequence) or not all(
        isinstance(declaration, (str, Mapping)) for declaration in declarations
    ):
        raise ModelError(f"the backbone: modalities must be a list of names, not {modalities!r}")
    return tuple(declarations)


def _parse_bands(bands: object) -> dict[str, tuple[str, ...]]:
    if bands is None:
        return {}
    if not isinstance(bands, Mapping) or not all(isinstance(v, list) for v in bands.values()):
        raise ModelError(f"the backbone: bands must be {{modality: [names]}}, not {bands!r}")
    return {modality: tuple(str(name) for name in names) for modality, names in bands.items()}


def _parse_necks(necks: object) -> tuple[Mapping[str, Any], ...]:
    steps = [] if necks is None else necks
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        raise ModelError(f"model_args: necks must be a list of mappings, not {necks!r}")
    return tuple({**step, "name": _strip_registry_prefix(step.get("name"))} for step in steps)
