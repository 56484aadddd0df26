"""Build the models of the library by name: the door for `model.backbone` and `model.segmenter`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model import config
from model.encoder import Declared, Encoder, Merge
from model.heads import PixelHead, Segmenter
from model.modalities import IMAGE_SIZE
from model.weights import Source, obtain


def backbone(
    name_or_config: str | Path | Mapping[str, Any] | config.Architecture,
    modalities: Sequence[Declared],
    bands: Mapping[str, Sequence[str]] | None = None,
    merge: Merge = "mean",
    weights: Source = None,
    image_size: int = IMAGE_SIZE,
    revision: str | None = None,
) -> Encoder:
    """Build TerraMind's encoder, ready for inference or fine-tuning.

    Args:
        name_or_config: terramind_v1_{tiny,small,base,large}, a mapping, or a .yaml file.
        modalities: names, or {name: channels} for a new one.
        bands: for some modalities, the bands kept, in the wanted order (B02 or BLUE).
        merge: mean, max, concat, dict, or None for the whole token sequence.
        weights: None, hub, a path, a state dict, {random: seed} or {path: …, sha256: …}.
        image_size: leave it at 224; other sizes are interpolated from that table at call time.
        revision: of the hub repository.

    Raises:
        ModelError: anything unknown. WeightsError: weights that do not fit.
    """
    size = config.architecture(name_or_config)
    encoder = Encoder(size, modalities, merge=merge, image_size=image_size)
    obtain(encoder, weights, str(name_or_config), revision)
    if bands:
        encoder.select_bands(bands)
        # ^ after loading, so that every kept band finds its own pre-trained weights
    return encoder.eval()


def segmenter(
    name_or_config: str | Path | Mapping[str, Any] | config.Architecture,
    modalities: Sequence[str],
    classes: int,
    bands: Mapping[str, Sequence[str]] | None = None,
    layers: Sequence[int] | None = None,
    width: int = 48,
    weights: Source = None,
    backbone_weights: Source = None,
    image_size: int = IMAGE_SIZE,
) -> Segmenter:
    """Build an encoder with our segmentation head.

    Args:
        name_or_config: as for `backbone`.
        modalities: raster modalities, by name.
        classes: number of classes.
        bands: as for `backbone`.
        layers: encoder layers that the head reads, shallow to deep, one to four.
        width: channels of the head.
        weights: of the whole (encoder and head).
        backbone_weights: of the encoder alone, loaded before `weights`.
        image_size: as for `backbone`.

    Raises:
        ModelError: anything unknown. WeightsError: weights that do not fit.
    """
    encoder = backbone(
        name_or_config,
        modalities,
        bands=bands,
        weights=backbone_weights,
        image_size=image_size,
    )
    chosen = tuple(encoder.size.taps if layers is None else layers)
    channels = {name: len(encoder.bands_of(name)) for name in encoder.keys}
    head = PixelHead(encoder.size.dim, len(chosen), channels, classes, width)
    whole = Segmenter(encoder, head, chosen)
    return obtain(whole, weights, str(name_or_config)).eval()
