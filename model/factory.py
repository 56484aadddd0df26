"""Build the models of the library by name: the door for `model.backbone` and its siblings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from model.errors import ModelError, join_names
from model.segmentation_head import PixelHead, Segmenter
from model.terramind import config
from model.terramind.embeddings import Tokenizers, resolve_modality_keys
from model.terramind.encoder import Encoder, Merge, ModalityDeclaration
from model.terramind.generation.generator import Generator
from model.terramind.generation.request import resolve_output_keys
from model.terramind.generation.sampling import SamplingStrategy
from model.terramind.generation.standardise import BoaOffset
from model.terramind.generation.tim import TiMEncoder
from model.terramind.modalities import IMAGE_SIZE
from model.terramind.precision import default_dtype
from model.tokenizer_loading import TokenizerBundle, TokenizerRequirements, TokenizerSource
from model.weights.initialise import skip_init
from model.weights.loading import WeightSource, load_weights

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def backbone(
    name_or_config: str | Path | Mapping[str, Any] | config.Architecture,
    modalities: Sequence[ModalityDeclaration],
    bands: Mapping[str, Sequence[str]] | None = None,
    merge: Merge = "mean",
    weights: WeightSource = None,
    image_size: int = IMAGE_SIZE,
    revision: str | None = None,
    tokenizers: Mapping[str, TokenizerSource] | None = None,
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
    size = config.resolve_architecture(name_or_config)
    keys = list(resolve_modality_keys(modalities).values())
    with skip_init(enabled=weights is not None):
        equipment = TokenizerBundle.build(
            TokenizerRequirements.from_keys(keys), tokenizers or {}, weights
        )
        encoder = Encoder(
            size,
            modalities,
            merge=merge,
            image_size=image_size,
            tokenizers=Tokenizers(equipment.pending, equipment.coordinates),
            modality_drop_rate=modality_drop_rate,
        )
    equipment.load_into(encoder, encoder.tokenizer, weights, str(name_or_config), revision)
    if bands:
        encoder.select_bands(bands)
        # ^ after loading, so that every kept band finds its own pre-trained weights
    return encoder.eval()


def generator(  # noqa: PLR0913
    name_or_config: str | Path | Mapping[str, Any] | config.Architecture,
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: WeightSource = None,
    tokenizers: Mapping[str, TokenizerSource] | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    boa_offset: BoaOffset = 0.0,
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
    if precision not in _DTYPES:
        raise ModelError(f"unknown precision {precision!r}; known are {join_names(_DTYPES)}")
    made = list(resolve_output_keys(outputs).values())
    needs = TokenizerRequirements.from_keys(list(resolve_modality_keys(inputs).values()), made)
    with skip_init(enabled=weights is not None), default_dtype(_DTYPES[precision]):
        equipment = TokenizerBundle.build(needs, tokenizers, weights)
        built = Generator(
            _resolve_architecture(name_or_config, "_generate"),
            inputs,
            outputs,
            tokenizers=Tokenizers(equipment.pending, equipment.coordinates),
            embed_last=embed_last,
            chained=chained,
            boa_offset=boa_offset,
        )
    filled = equipment.load_into(built, built.tokenizer, weights, name, revision)
    return filled.to(_DTYPES[precision]).eval()
    # ^ tokenizers that were given ready may be in another format


def tim(  # noqa: PLR0913
    name_or_config: str | Path | Mapping[str, Any] | config.Architecture,
    modalities: Sequence[str],
    tim_modalities: Sequence[str] = ("LULC",),
    merge: Merge = "mean",
    weights: WeightSource = None,
    tokenizers: Mapping[str, TokenizerSource] | None = None,
    *,
    chained: bool = True,
    strategy: SamplingStrategy | None = None,
    image_size: int = IMAGE_SIZE,
    revision: str | None = None,
    modality_drop_rate: float = 0.0,
) -> TiMEncoder:
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
    keys = list(resolve_modality_keys(modalities).values())
    with skip_init(enabled=weights is not None):
        equipment = TokenizerBundle.build(
            TokenizerRequirements.from_keys(keys), tokenizers or {}, weights
        )
        encoder = TiMEncoder(
            _resolve_architecture(name_or_config, "_tim"),
            modalities,
            tim_modalities,
            merge=merge,
            strategy=strategy,
            chained=chained,
            image_size=image_size,
            tokenizers=Tokenizers(equipment.pending, equipment.coordinates),
            modality_drop_rate=modality_drop_rate,
        )
    filled = equipment.load_into(encoder, encoder.tokenizer, weights, str(name_or_config), revision)
    return filled.eval()


def segmenter(
    name_or_config: str | Path | Mapping[str, Any] | config.Architecture,
    modalities: Sequence[str],
    classes: int,
    bands: Mapping[str, Sequence[str]] | None = None,
    layers: Sequence[int] | None = None,
    width: int = 48,
    weights: WeightSource = None,
    backbone_weights: WeightSource = None,
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
    chosen = tuple(encoder.architecture.feature_layers if layers is None else layers)
    channels = {name: len(encoder.band_names(name)) for name in encoder.modality_keys}
    head = PixelHead(encoder.architecture.dim, len(chosen), channels, classes, width)
    whole = Segmenter(encoder, head, chosen)
    return load_weights(whole, weights, str(name_or_config)).eval()


def _resolve_architecture(
    source: str | Path | Mapping[str, Any] | config.Architecture, variant: str
) -> config.Architecture:
    named = source.removesuffix(variant) if isinstance(source, str) else source
    return config.resolve_architecture(named)
