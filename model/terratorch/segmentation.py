"""Segmentation models in four parts: encoder, necks, decoder, head, as TerraTorch puts them.

    pad to multiples of 32 -> encoder -> necks -> decoder -> head -> enlarge -> cut the padding off

Keys are `encoder.*`, `neck.<i>.*`, `decoder.*` and `head.head.*`, so that what TerraTorch has
trained loads key for key (`model.terratorch.checkpoint`). Notation: B batch, K classes, H x W
pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from model.errors import ModelError, join_names
from model.factory import backbone
from model.terramind import config
from model.terramind.declarations import ModalityDeclaration
from model.terramind.encoder import Encoder
from model.terramind.generation.tim import TiMEncoder
from model.terramind.keys import CheckpointModule
from model.terramind.merging import Merge, MergedTokens
from model.terramind.modalities import PATCH_SIZE
from model.terratorch import necks, options
from model.terratorch.decoders import DECODERS, Decoder, LinearDecoder, SegmentationHead

PADDING_MULTIPLE = 2 * PATCH_SIZE
"""Inputs are padded to multiples of this many pixels, so that the patches can be halved once."""

_RASTER_NDIM = 4
# ^ dimensions of a raster: (B, C, H, W)

Inputs = Tensor | Mapping[str, Tensor]
NeckConfigs = Sequence[Mapping[str, Any]]
FeatureReader = Callable[[Mapping[str, Tensor], Sequence[int]], list[MergedTokens]]


class PixelWiseModel(CheckpointModule):
    """From standardised rasters to a score of every class for every pixel."""

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
        """What the checkpoint says of its training, as plain values; empty without one."""

    @property
    def architecture(self) -> config.Architecture:
        """Size and style of the encoder."""
        return self.encoder.architecture

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """Bands by modality, in the order of the channels; none for a modality of token ids.

        What the encoder imagines by itself (`model.tim`) is not among them.
        """
        thoughts = self.encoder.tim_keys if isinstance(self.encoder, TiMEncoder) else ()
        named = [name for name, key in self.encoder.modality_keys.items() if key not in thoughts]
        return {name: self.encoder.band_names(name) for name in named}

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, where the training gave them."""
        names = self.hyper_parameters.get("class_names")
        return tuple(str(name) for name in names) if isinstance(names, list) else None

    def forward(self, inputs: Inputs) -> Tensor:
        """Return logits (B, K, H, W).

        Args:
            inputs: standardised rasters (B, C, H, W) by modality, all of one size, at least 12
                px; token ids for token modalities; a bare tensor is the first modality.

        Raises:
            ModelError: an input that is unknown, of a wrong shape or size, or not finite.
        """
        return self._forward(inputs, self.encoder.features)

    def forward_unchecked(self, inputs: Inputs) -> Tensor:
        """Do what a call does, without looking for pixels that are not finite."""
        return self._forward(inputs, self._features_unchecked)

    def _features_unchecked(
        self, inputs: Mapping[str, Tensor], layers: Sequence[int] | None
    ) -> list[MergedTokens]:
        checked = self.encoder.check_inputs(inputs, check_values=False)
        return self.encoder.forward_layers(checked, layers)

    def predict_probabilities(self, inputs: Inputs) -> Tensor:
        """Return the probability of every class (B, K, H, W), in single precision."""
        logits: Tensor = self(inputs)
        return logits.float().softmax(dim=1)

    def optional_keys(self) -> set[str]:
        """Return the keys that a checkpoint may lack: buffers that the encoder computes."""
        return {f"encoder.{key}" for key in self.encoder.optional_keys() - {"missing_mod_token"}}
        # ^ that token is made anew for fine-tuning, but what was fine-tuned must have it

    def is_ignored_key(self, key: str) -> bool:
        """Tell keys that only training reads, and tokenizers that ride along unused."""
        return key.startswith(("aux_heads.", "encoder.tokenizer."))

    def convert_state_dict(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors in this module's layout: as they are, but for a sampler."""
        start = "encoder."
        whole = any(key.startswith("encoder.sampler.") for key in tensors)
        if not whole or not isinstance(self.encoder, TiMEncoder):
            return tensors
        own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        rest = {key: value for key, value in tensors.items() if not key.startswith(start)}
        return rest | {start + k: v for k, v in self.encoder.convert_state_dict(own).items()}

    def _forward(self, inputs: Inputs, read: FeatureReader) -> Tensor:
        given = self._prepare_rasters(inputs)
        height, width = _common_size(given)
        padded = {name: _pad(value) for name, value in given.items()}
        size = (height + -height % PADDING_MULTIPLE, width + -width % PADDING_MULTIPLE)
        first, steps = self._split_neck()
        maps: list[Tensor] = []
        for tokens in read(padded, first):
            if not isinstance(tokens, Tensor):
                raise ModelError("the encoder has to merge its modalities: merge mean")
            maps.append(tokens.to(self._dtype))
        for step in steps:
            maps = step(maps, (size[0] // PATCH_SIZE, size[1] // PATCH_SIZE))
        logits: Tensor = self.head(self.decoder(maps))
        # ^ (B, K, h, w): h x w as fine as the decoder goes
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        return self._upsample(logits, size)[..., top : top + height, left : left + width]

    @property
    def _dtype(self) -> torch.dtype:
        """Number format of decoder and head; the encoder may keep another one for its sums."""
        return next(chain(self.decoder.parameters(), self.head.parameters())).dtype

    def _prepare_rasters(self, inputs: Inputs) -> dict[str, Tensor]:
        given = self.encoder.resolve_inputs(inputs)
        held = {
            name
            for name in given
            if self.encoder.tokenizer.get_raster_tokenizer(self.encoder.modality_keys[name])
        }
        return {
            name: value[:, None] if name in held and value.ndim == _RASTER_NDIM - 1 else value
            for name, value in given.items()
        }
        # ^ classes (B, H, W) are an image, too, where there is a tokenizer for them

    def _split_neck(self) -> tuple[Sequence[int], list[nn.Module]]:
        steps = list(self.neck)
        if isinstance(steps[0], necks.SelectIndices):
            return steps[0].indices, steps[1:]
            # ^ the encoder stops after the last layer that somebody reads
        return range(self.encoder.depth), steps

    def _upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        if logits.shape[-2:] == size:
            return logits
        if not self.rescale:
            raise ModelError(
                f"the decoder gives {tuple(logits.shape[-2:])} for {size} px and `rescale` is "
                "false: classes of single pixels cannot be had from this model"
            )
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def build_model(
    name_or_config: str | Path | Mapping[str, Any] | config.Architecture,
    modalities: Sequence[ModalityDeclaration],
    num_classes: int,
    necks: NeckConfigs | None = None,
    decoder: str = "UNetDecoder",
    decoder_options: Mapping[str, Any] | None = None,
    head_options: Mapping[str, Any] | None = None,
    merge: Merge = "mean",
    bands: Mapping[str, Sequence[str]] | None = None,
) -> PixelWiseModel:
    """Build a segmentation model without weights, ready for inference or training.

    Args:
        name_or_config: as for `model.backbone`.
        modalities: as for `model.backbone`.
        num_classes: at least two.
        necks: `{name: …, option: …}` entries; None for what the decoder usually stands on.
        decoder: UNetDecoder, UperNetDecoder, FCNDecoder, LinearDecoder or IdentityDecoder.
        decoder_options: by TerraTorch's names, without the prefix `decoder_`.
        head_options: `channel_list` and `dropout`.
        merge: mean, max or concat.
        bands: as for `model.backbone`.

    Raises:
        ModelError: anything unknown, or parts that do not fit together.
    """
    encoder = backbone(name_or_config, modalities, bands=bands, merge=merge)
    return assemble_model(encoder, num_classes, necks, decoder, decoder_options, head_options)


def assemble_model(
    encoder: Encoder,
    num_classes: int,
    neck_configs: NeckConfigs | None = None,
    decoder: str = "UNetDecoder",
    decoder_options: Mapping[str, Any] | None = None,
    head_options: Mapping[str, Any] | None = None,
) -> PixelWiseModel:
    """Put necks, decoder and head on an encoder, which may have weights; see `build`.

    A LinearDecoder with the option `num_classes` gets a head on top of it, as published;
    without the option it is the head itself.

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
    usual = default_necks(encoder.architecture, decoder) if neck_configs is None else neck_configs
    steps, channels = necks.build_necks(usual, [encoder.out_dim] * encoder.depth)
    wanted = dict(decoder_options or {})
    direct = DECODERS[decoder] is LinearDecoder and "num_classes" not in wanted
    if direct:
        wanted["num_classes"] = num_classes
        options.check_names("a head on LinearDecoder without num_classes", head_options or {}, ())
    made = DECODERS[decoder](channels, wanted)
    head = SegmentationHead(made.out_channels, num_classes, head_options or {})
    whole = PixelWiseModel(encoder, steps, made, nn.Identity() if direct else head, num_classes)
    return whole.eval()


def default_necks(size: config.Architecture, decoder: str) -> NeckConfigs:
    """Return the necks that a decoder usually stands on."""
    reshape = {"name": "ReshapeTokensToImage", "remove_cls_token": False}
    if decoder not in ("UNetDecoder", "UperNetDecoder"):
        return [reshape]
    taps = {"name": "SelectIndices", "indices": list(size.feature_layers)}
    return [taps, reshape, {"name": "LearnedInterpolateToPyramidal"}]


def _check_merge(encoder: Encoder) -> None:
    if encoder.merge == "dict" or (encoder.merge is None and len(encoder.modality_keys) > 1):
        raise ModelError(
            f"merge {encoder.merge!r} leaves the modalities apart, and decoders read one image: "
            "mean, max or concat"
        )


def _common_size(given: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return height and width that all rasters share."""
    sizes = {
        name: tuple(value.shape[2:]) for name, value in given.items() if value.ndim == _RASTER_NDIM
    }
    if len(set(sizes.values())) != 1:
        raise ModelError(f"rasters (B, C, H, W) of one size expected, but sizes are {sizes}")
    height, width = next(iter(sizes.values()))
    for side in (height, width):
        if (-side % PADDING_MULTIPLE + 1) // 2 >= side:
            # ^ a border cannot be mirrored farther than the raster reaches
            raise ModelError(
                f"{height} x {width} px are too few to be mirrored to multiples of {PADDING_MULTIPLE}: give "
                "at least 12 x 12"
            )
    return height, width


def _pad(value: Tensor) -> Tensor:
    """Mirror a raster's border until its sides are multiples of 32; the odd row goes below."""
    if value.ndim != _RASTER_NDIM:
        return value
    below, right = (-side % PADDING_MULTIPLE for side in value.shape[2:])
    if not below and not right:
        return value
    edges = (right // 2, right - right // 2, below // 2, below - below // 2)
    if not value.is_floating_point():
        return F.pad(value.double(), edges, mode="reflect").to(value.dtype)
        # ^ whole numbers (classes) have no kernel of their own
    return F.pad(value, edges, mode="reflect")
