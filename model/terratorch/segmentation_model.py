"""Segmentation models in four parts: encoder, necks, decoder, head, as TerraTorch puts them.

    pad to multiples of 32 -> encoder -> necks -> decoder -> head -> upsample -> crop the padding

Keys are `encoder.*`, `neck.<i>.*`, `decoder.*` and `head.head.*`, so that weights that TerraTorch
trained load key for key (`model.terratorch.lightning_checkpoint`). Notation: B batch, K classes,
H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import ModelError, join_names
from model.terramind import architectures
from model.terramind.encoder import Encoder
from model.terramind.generation.tim import TiMEncoder
from model.terramind.keys import CheckpointModule
from model.terramind.modalities import PATCH_SIZE
from model.terramind.token_merging import MergedTokens
from model.terratorch import necks, options
from model.terratorch.decoders import DECODERS, Decoder, LinearDecoder, SegmentationHead
from model.terratorch.hyperparameters import SegmentationConfig

PADDING_MULTIPLE = 2 * PATCH_SIZE
"""Inputs are padded to multiples of this many pixels, so that the patches can be halved once."""

_RASTER_NDIM = 4
# ^ dimensions of a raster: (B, C, H, W)

Inputs = Tensor | Mapping[str, Tensor]
NeckConfigs = Sequence[Mapping[str, Any]]
FeatureReader = Callable[[Mapping[str, Tensor], Sequence[int]], list[MergedTokens]]


class PixelWiseModel(CheckpointModule):
    """Encoder, necks, decoder and head: from standardised rasters to logits of every pixel."""

    def __init__(
        self,
        encoder: Encoder,
        neck: nn.ModuleList,
        decoder: Decoder,
        head: nn.Module,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.encoder, self.neck, self.decoder, self.head = encoder, neck, decoder, head
        self.num_classes = num_classes
        self.rescale = True
        self.hyper_parameters: Mapping[str, Any] = {}
        """Hyper-parameters of the checkpoint, as plain values; empty without one."""

        self.settings: SegmentationConfig | None = None
        """The same, parsed; None without a checkpoint."""

    @property
    def architecture(self) -> architectures.Architecture:
        """Architecture of the encoder."""
        return self.encoder.architecture

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """Bands by modality, in the order of the channels; none for a modality of token ids.

        Modalities that the encoder generates itself (`model.tim`) are not among them.
        """
        generated = self.encoder.tim_keys if isinstance(self.encoder, TiMEncoder) else ()
        names = [name for name, key in self.encoder.modality_keys.items() if key not in generated]
        return {name: self.encoder.band_names(name) for name in names}

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, if the hyper-parameters hold them."""
        names = self.hyper_parameters.get("class_names")
        return tuple(str(name) for name in names) if isinstance(names, list) else None

    def forward(self, inputs: Inputs) -> Tensor:
        """Return logits (B, K, H, W); of the decoder's own size if they are not rescaled.

        Args:
            inputs: standardised rasters (B, C, H, W) by modality, all of one size, at least 12
                px; token ids for token modalities; a bare tensor is the first modality.

        Raises:
            ModelError: an input that is unknown, of a wrong shape or size, or not finite.
        """
        return self._forward(inputs, self.encoder.features)

    def forward_unchecked(self, inputs: Inputs) -> Tensor:
        """Return what a call does, without the check that pixels are finite."""
        return self._forward(inputs, self._features_unchecked)

    def _features_unchecked(
        self, inputs: Mapping[str, Tensor], layers: Sequence[int] | None
    ) -> list[MergedTokens]:
        checked = self.encoder.check_inputs(inputs, check_values=False)
        return self.encoder.forward_layers(checked, layers)

    def predict_probabilities(self, inputs: Inputs) -> Tensor:
        """Return the probability of every class (B, K, H, W), in fp32."""
        logits: Tensor = self(inputs)
        return logits.float().softmax(dim=1)

    def optional_keys(self) -> set[str]:
        """Return the keys that a checkpoint may lack: buffers that the encoder can compute."""
        return {f"encoder.{key}" for key in self.encoder.optional_keys() - {"missing_mod_token"}}
        # ^ fine-tuning starts from a new token of a missing modality, so the result must hold it

    def is_ignored_key(self, key: str) -> bool:
        """Tell whether a key is of training alone, or of a tokenizer that is not used."""
        return key.startswith(("aux_heads.", "encoder.tokenizer."))

    def convert_state_dict(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors with the keys of this module.

        They differ only for an encoder with a sampler (Thinking in Modalities).
        """
        prefix = "encoder."
        has_sampler = any(key.startswith("encoder.sampler.") for key in tensors)
        if not has_sampler or not isinstance(self.encoder, TiMEncoder):
            return tensors
        encoder = {
            key.removeprefix(prefix): tensor
            for key, tensor in tensors.items()
            if key.startswith(prefix)
        }
        decoder = {key: tensor for key, tensor in tensors.items() if not key.startswith(prefix)}
        converted = self.encoder.convert_state_dict(encoder)
        return decoder | {prefix + key: tensor for key, tensor in converted.items()}

    def _forward(self, inputs: Inputs, read_features: FeatureReader) -> Tensor:
        rasters = self._prepare_rasters(inputs)
        height, width = _common_size(rasters)
        padded = {name: _pad(values) for name, values in rasters.items()}
        size = (height + -height % PADDING_MULTIPLE, width + -width % PADDING_MULTIPLE)
        layers, steps = self._split_neck()
        maps: list[Tensor] = []
        for tokens in read_features(padded, layers):
            if not isinstance(tokens, Tensor):
                raise ModelError("the encoder must merge its modalities: merge mean")
            maps.append(tokens.to(self._dtype))
        for step in steps:
            maps = step(maps, (size[0] // PATCH_SIZE, size[1] // PATCH_SIZE))
        logits: Tensor = self.head(self.decoder(maps))
        # ^ (B, K, h, w) at the resolution of the decoder
        if self.rescale and logits.shape[-2:] != size:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        top, left = max(logits.shape[-2] - height, 0) // 2, max(logits.shape[-1] - width, 0) // 2
        return logits[..., top : top + height, left : left + width]

    @property
    def _dtype(self) -> torch.dtype:
        """Number format of decoder and head, which may differ from the encoder's."""
        return next(chain(self.decoder.parameters(), self.head.parameters())).dtype

    def _prepare_rasters(self, inputs: Inputs) -> dict[str, Tensor]:
        resolved = self.encoder.resolve_inputs(inputs)
        with_tokenizer = {
            name
            for name in resolved
            if self.encoder.tokenizer.get_raster_tokenizer(self.encoder.modality_keys[name])
        }
        return {
            name: values[:, None]
            if name in with_tokenizer and values.ndim == _RASTER_NDIM - 1
            else values
            for name, values in resolved.items()
        }
        # ^ classes (B, H, W) with a tokenizer are an image of one band

    def _split_neck(self) -> tuple[Sequence[int], list[nn.Module]]:
        steps = list(self.neck)
        if isinstance(steps[0], necks.SelectIndices):
            return steps[0].indices, steps[1:]
            # ^ the encoder stops after the last layer that is read
        return range(self.encoder.depth), steps


def assemble_model(
    encoder: Encoder,
    num_classes: int,
    neck_configs: NeckConfigs | None = None,
    decoder: str = "UNetDecoder",
    decoder_options: Mapping[str, Any] | None = None,
    head_options: Mapping[str, Any] | None = None,
) -> PixelWiseModel:
    """Build a segmentation model on an encoder, ready for inference or training.

    A LinearDecoder with the option `num_classes` gets a head on top of it, as published;
    without the option it is the head itself.

    Args:
        encoder: with or without weights.
        num_classes: at least two.
        neck_configs: `{name: …, option: …}` entries; None for the usual ones of the decoder.
        decoder: UNetDecoder, UperNetDecoder, FCNDecoder, LinearDecoder or IdentityDecoder.
        decoder_options: by TerraTorch's names, without the prefix `decoder_`.
        head_options: `channel_list` and `dropout`.

    Raises:
        ModelError: anything unknown, or parts that do not fit together.
    """
    if decoder not in DECODERS:
        raise ModelError(f"decoder {decoder!r} is not supported; {join_names(DECODERS)} are")
    if options.parse_int("model", "num_classes", num_classes) == 1:
        raise ModelError(
            "num_classes 1: a map of classes needs at least two (a mask has background and "
            "foreground); models of one channel, regression or binary, are not supported"
        )
    _check_merge(encoder)
    if neck_configs is None:
        neck_configs = default_necks(encoder.architecture, decoder)
    neck, channels = necks.build_necks(neck_configs, [encoder.out_dim] * encoder.depth)
    settings = dict(decoder_options or {})
    is_headless = DECODERS[decoder] is LinearDecoder and "num_classes" not in settings
    if is_headless:
        settings["num_classes"] = num_classes
        options.check_names("a head on LinearDecoder without num_classes", head_options or {}, ())
    decoder_module = DECODERS[decoder](channels, settings)
    head = SegmentationHead(decoder_module.out_channels, num_classes, head_options or {})
    return PixelWiseModel(
        encoder, neck, decoder_module, nn.Identity() if is_headless else head, num_classes
    ).eval()


def default_necks(size: architectures.Architecture, decoder: str) -> NeckConfigs:
    """Return the usual necks of a decoder."""
    reshape = {"name": "ReshapeTokensToImage", "remove_cls_token": False}
    if decoder not in ("UNetDecoder", "UperNetDecoder"):
        return [reshape]
    select = {"name": "SelectIndices", "indices": list(size.feature_layers)}
    return [select, reshape, {"name": "LearnedInterpolateToPyramidal"}]


def _check_merge(encoder: Encoder) -> None:
    if encoder.merge == "dict" or (encoder.merge is None and len(encoder.modality_keys) > 1):
        raise ModelError(
            f"merge {encoder.merge!r} keeps the modalities separate, and decoders read one image: "
            "use mean, max or concat"
        )


def _common_size(rasters: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return height and width that all rasters share."""
    sizes = {
        name: tuple(values.shape[2:])
        for name, values in rasters.items()
        if values.ndim == _RASTER_NDIM
    }
    if len(set(sizes.values())) != 1:
        raise ModelError(f"rasters (B, C, H, W) of one size expected, but sizes are {sizes}")
    height, width = next(iter(sizes.values()))
    for side in (height, width):
        if (-side % PADDING_MULTIPLE + 1) // 2 >= side:
            # ^ reflection needs more pixels than it adds
            raise ModelError(
                f"{height} x {width} px are too few to be padded by reflection to multiples of "
                f"{PADDING_MULTIPLE}: give at least 12 x 12"
            )
    return height, width


def _pad(values: Tensor) -> Tensor:
    """Pad a raster by reflection to multiples of 32; an odd row goes to the bottom."""
    if values.ndim != _RASTER_NDIM:
        return values
    rows, columns = (-side % PADDING_MULTIPLE for side in values.shape[2:])
    if not rows and not columns:
        return values
    padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    if not values.is_floating_point():
        return F.pad(values.double(), padding, mode="reflect").to(values.dtype)
        # ^ reflection is not implemented for integers (classes)
    return F.pad(values, padding, mode="reflect")
