"""Build the models of the library by name: the door for `model.backbone` and its siblings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from model.errors import ModelError, listed
from model.segmenter import PixelHead, Segmenter
from model.terramind import config
from model.terramind.embeddings import Tokenizers, declared_keys
from model.terramind.encoder import Declared, Encoder, Merge
from model.terramind.generation.generator import Generator
from model.terramind.generation.request import declared_outputs
from model.terramind.generation.sampling import Strategy
from model.terramind.generation.standardise import Offsets
from model.terramind.generation.tim import ThinkingEncoder
from model.terramind.modalities import IMAGE_SIZE
from model.terramind.precision import built_in
from model.tokenizer_loading import Equipment, Given, Needs
from model.weights.initialise import unset
from model.weights.loading import Source, obtain

_FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def backbone(
    name_or_config: str | Path | Mapping[str, Any] | config.Architecture,
    modalities: Sequence[Declared],
    bands: Mapping[str, Sequence[str]] | None = None,
    merge: Merge = "mean",
    weights: Source = None,
    image_size: int = IMAGE_SIZE,
    revision: str | None = None,
    tokenizers: Mapping[str, Given] | None = None,
    modality_drop_rate: float = 0.0,
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
        tokenizers: for LULC, NDVI and Coords whose rasters and degrees, not ids, will be given:
            {modality: what `model.tokenizer_loading` says}.
        modality_drop_rate: in training, how often each modality is left out; one image stays.

    Raises:
        ModelError: anything unknown. WeightsError: weights that do not fit.
    """
    size = config.architecture(name_or_config)
    keys = list(declared_keys(modalities).values())
    with unset(when=weights is not None):
        equipment = Equipment.of(Needs.of(keys), tokenizers or {}, weights)
        encoder = Encoder(
            size,
            modalities,
            merge=merge,
            image_size=image_size,
            tokenizers=Tokenizers(equipment.pending, equipment.coordinates),
            drop_rate=modality_drop_rate,
        )
    equipment.fill(encoder, encoder.tokenizer, weights, str(name_or_config), revision)
    if bands:
        encoder.select_bands(bands)
        # ^ after loading, so that every kept band finds its own pre-trained weights
    return encoder.eval()


def generator(  # noqa: PLR0913
    name_or_config: str | Path | Mapping[str, Any] | config.Architecture,
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: Source = None,
    tokenizers: Mapping[str, Given] | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    boa_offset: Offsets = 0.0,
    embed_last: bool = False,
    revision: str | None = None,
    *,
    chained: bool = True,
) -> Generator:
    """Build a generator: any to any, in the order of the outputs.

    Args:
        name_or_config: terramind_v1_{tiny,small,base,large}, also with `_generate`; a mapping, or
            a .yaml file, with a decoder_depth.
        inputs: what can be given: S2L2A, S2L1C, RGB, S1GRD, S1RTC, DEM, LULC, NDVI, Coords; or an
            official key such as tok_sen2l2a@224 for a raster that goes in as tokens.
        outputs: what is made: S2L2A, S1GRD, S1RTC, DEM, LULC, NDVI, Coords.
        weights: as for `backbone`; also a state dict of a whole generator.
        tokenizers: {modality: what `model.tokenizer_loading` says}, for those built; None = the published
            ones of all outputs (their decoders) and token inputs (their encoders), with weights
            where the model's are: hub with hub, random with random, in the file with a file.
        precision: fp32 or bf16.
        boa_offset: DN that Sentinel-2 values carry on top; see `Generator.generate`.
        embed_last: whether the last output, too, can be fed back to the encoder, which several
            decoding steps need. The published files hold the embedding.
        revision: of the hub repository.
        chained: whether an output can be an input of those after it; False leaves out what only
            that needs.

    Raises:
        ModelError: anything unknown; S2L1C and RGB cannot be made, only given.
        WeightsError: weights that do not fit.
    """
    name = str(name_or_config)
    if precision not in _FORMATS:
        raise ModelError(f"unknown precision {precision!r}; known are {listed(_FORMATS)}")
    made = list(declared_outputs(outputs).values())
    needs = Needs.of(list(declared_keys(inputs).values()), made)
    with unset(when=weights is not None), built_in(_FORMATS[precision]):
        equipment = Equipment.of(needs, tokenizers, weights)
        built = Generator(
            _architecture(name_or_config, "_generate"),
            inputs,
            outputs,
            tokenizers=Tokenizers(equipment.pending, equipment.coordinates),
            embed_last=embed_last,
            chained=chained,
            boa_offset=boa_offset,
        )
    filled = equipment.fill(built, built.tokenizer, weights, name, revision)
    return filled.to(_FORMATS[precision]).eval()
    # ^ tokenizers that were given ready may be in another format


def tim(  # noqa: PLR0913
    name_or_config: str | Path | Mapping[str, Any] | config.Architecture,
    modalities: Sequence[str],
    tim_modalities: Sequence[str] = ("LULC",),
    merge: Merge = "mean",
    weights: Source = None,
    tokenizers: Mapping[str, Given] | None = None,
    *,
    chained: bool = True,
    strategy: Strategy | None = None,
    image_size: int = IMAGE_SIZE,
    revision: str | None = None,
    modality_drop_rate: float = 0.0,
) -> ThinkingEncoder:
    """Build a backbone that thinks in modalities; it is called as a plain one is.

    Args:
        name_or_config: terramind_v1_{tiny,small,base,large}, also with `_tim`; a mapping, or a
            .yaml file, with a decoder_depth.
        modalities: what can be given, by name.
        tim_modalities: what is imagined where it is not given.
        merge: as for `backbone`.
        weights: as for `backbone`: the official file, or a fine-tuned model's state.
        tokenizers: as for `backbone`; what is imagined needs none.
        chained: whether a thought is an input of the next, with embeddings that are shared and
            frozen, as published since 2026; False is what was published before.
        strategy: how tokens are chosen; the likeliest by default, so that features repeat.
        image_size: as for `backbone`.
        revision: of the hub repository.
        modality_drop_rate: as for `backbone`.

    Raises:
        ModelError: anything unknown. WeightsError: weights that do not fit.
    """
    keys = list(declared_keys(modalities).values())
    with unset(when=weights is not None):
        equipment = Equipment.of(Needs.of(keys), tokenizers or {}, weights)
        encoder = ThinkingEncoder(
            _architecture(name_or_config, "_tim"),
            modalities,
            tim_modalities,
            merge=merge,
            strategy=strategy,
            chained=chained,
            image_size=image_size,
            tokenizers=Tokenizers(equipment.pending, equipment.coordinates),
            drop_rate=modality_drop_rate,
        )
    filled = equipment.fill(encoder, encoder.tokenizer, weights, str(name_or_config), revision)
    return filled.eval()


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


def _architecture(
    source: str | Path | Mapping[str, Any] | config.Architecture, variant: str
) -> config.Architecture:
    named = source.removesuffix(variant) if isinstance(source, str) else source
    return config.architecture(named)
