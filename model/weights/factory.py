"""Build models by name and load their weights: backbone, generator, tim, segmenter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from model.errors import ModelError, join_names
from model.terramind import architectures
from model.terramind.encoder import Encoder
from model.terramind.generation.generator import Generator
from model.terramind.generation.sampling_strategy import SamplingStrategy
from model.terramind.generation.tim import TiMEncoder
from model.terramind.generation.value_scaling import BoaOffset
from model.terramind.modalities import IMAGE_SIZE
from model.terramind.modality_names import (
    ModalityDeclaration,
    resolve_modality_keys,
    resolve_output_keys,
)
from model.terramind.precision import default_dtype
from model.terramind.segmentation_head import PixelHead, Segmenter
from model.terramind.token_merging import Merge
from model.weights.initialise import skip_init
from model.weights.loading import WeightSource, load_weights
from model.weights.tokenizer_loading import TokenizerBundle, TokenizerRequirements, TokenizerSource

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def backbone(
    name_or_config: str | Path | Mapping[str, Any] | architectures.Architecture,
    modalities: Sequence[ModalityDeclaration],
    bands: Mapping[str, Sequence[str]] | None = None,
    merge: Merge = "mean",
    weights: WeightSource = None,
    image_size: int = IMAGE_SIZE,
    revision: str | None = None,
    tokenizers: Mapping[str, TokenizerSource] | None = None,
    modality_drop_rate: float = 0.0,
) -> Encoder:
    """Build TerraMind's encoder, for inference or fine-tuning.

    Args:
        name_or_config: terramind_v1_{tiny,small,base,large}, a mapping, or a .yaml file.
        modalities: names, or {name: channels} for a new one.
        bands: for some modalities, the bands that are kept, in this order (B02 or BLUE).
        merge: mean, max, concat, dict, or None for the whole token sequence.
        weights: None, hub, a path, a state dict, {random: seed} or {path: …, sha256: …}.
        image_size: side of the images that the position tables are made for, px. Leave it at 224;
            other sizes are interpolated from that table when the model is called.
        revision: of the hub repository.
        tokenizers: for LULC, NDVI and Coords whose inputs are rasters and degrees, not ids:
            {modality: source}, see `model.weights.tokenizer_loading`.
        modality_drop_rate: in training, the probability that a modality is left out; at least one
            image stays.

    Raises:
        ModelError: an unknown name or option.
        WeightsError: weights that do not fit.
    """
    architecture = architectures.resolve_architecture(name_or_config)
    keys = list(resolve_modality_keys(modalities).values())
    with skip_init(enabled=weights is not None):
        bundle = TokenizerBundle.build(
            TokenizerRequirements.from_keys(keys), tokenizers or {}, weights
        )
        encoder = Encoder(
            architecture,
            modalities,
            merge=merge,
            image_size=image_size,
            tokenizers=bundle.make_collection(),
            modality_drop_rate=modality_drop_rate,
        )
    bundle.load_into(encoder, encoder.tokenizer, weights, str(name_or_config), revision)
    if bands:
        encoder.select_bands(bands)
        # ^ after loading, so that every band keeps its own pre-trained weights
    return encoder.eval()


def generator(  # noqa: PLR0913
    # ^ the parts of a network, each by its name
    name_or_config: str | Path | Mapping[str, Any] | architectures.Architecture,
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
    """Build a generator of modalities from any other ones.

    Args:
        name_or_config: terramind_v1_{tiny,small,base,large}, also with `_generate`; a mapping, or
            a .yaml file, with a decoder_depth.
        inputs: S2L2A, S2L1C, RGB, S1GRD, S1RTC, DEM, LULC, NDVI, Coords; or an official key such
            as tok_sen2l2a@224 for a raster that is an input as tokens.
        outputs: S2L2A, S1GRD, S1RTC, DEM, LULC, NDVI, Coords, in the order of generation.
        weights: as for `backbone`; also a state dict of a whole generator.
        tokenizers: {modality: source}, see `model.weights.tokenizer_loading`; others are not built.
            None = the published ones of all outputs (their decoders) and token inputs (their
            encoders), with weights of the model's kind: from the hub with hub, random with random,
            in the file with a file.
        precision: fp32 or bf16.
        boa_offset: DN that Sentinel-2 values carry; see `Generator.generate`.
        embed_last: whether the last output, too, can be an input of the encoder, which several
            decoding steps need. The published files hold its embedding.
        revision: of the hub repository.
        chained: whether an output can be an input of those after it; False leaves out the
            embeddings that only this needs.

    Raises:
        ModelError: an unknown name or option; S2L1C and RGB cannot be generated.
        WeightsError: weights that do not fit.
    """
    name = str(name_or_config)
    if precision not in _DTYPES:
        raise ModelError(f"unknown precision {precision!r}; known are {join_names(_DTYPES)}")
    output_keys = list(resolve_output_keys(outputs).values())
    input_keys = list(resolve_modality_keys(inputs).values())
    requirements = TokenizerRequirements.from_keys(input_keys, output_keys)
    with skip_init(enabled=weights is not None), default_dtype(_DTYPES[precision]):
        bundle = TokenizerBundle.build(requirements, tokenizers, weights)
        module = Generator(
            _resolve_architecture(name_or_config, "_generate"),
            inputs,
            outputs,
            tokenizers=bundle.make_collection(),
            embed_last=embed_last,
            chained=chained,
            boa_offset=boa_offset,
        )
    bundle.load_into(module, module.tokenizer, weights, name, revision)
    return module.to(_DTYPES[precision]).eval()
    # ^ tokenizers that the caller built may be in another format


def tim(  # noqa: PLR0913
    # ^ the parts of a network, each by its name
    name_or_config: str | Path | Mapping[str, Any] | architectures.Architecture,
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
    """Build an encoder with Thinking in Modalities; it is called as a plain one is.

    Args:
        name_or_config: terramind_v1_{tiny,small,base,large}, also with `_tim`; a mapping, or a
            .yaml file, with a decoder_depth.
        modalities: inputs, by name.
        tim_modalities: modalities that are generated where they are not given.
        merge: as for `backbone`.
        weights: as for `backbone`: the official file, or a fine-tuned model's state dict.
        tokenizers: as for `backbone`; generated modalities need none.
        chained: whether a generated modality is an input of the next one, with embeddings that
            are shared and frozen, as published since 2026; False is what was published before.
        strategy: how tokens are chosen; the likeliest by default, so that features repeat.
        image_size: as for `backbone`.
        revision: of the hub repository.
        modality_drop_rate: as for `backbone`.

    Raises:
        ModelError: an unknown name or option.
        WeightsError: weights that do not fit.
    """
    keys = list(resolve_modality_keys(modalities).values())
    with skip_init(enabled=weights is not None):
        bundle = TokenizerBundle.build(
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
            tokenizers=bundle.make_collection(),
            modality_drop_rate=modality_drop_rate,
        )
    bundle.load_into(encoder, encoder.tokenizer, weights, str(name_or_config), revision)
    return encoder.eval()


def segmenter(
    name_or_config: str | Path | Mapping[str, Any] | architectures.Architecture,
    modalities: Sequence[str],
    classes: int,
    bands: Mapping[str, Sequence[str]] | None = None,
    layers: Sequence[int] | None = None,
    width: int = 48,
    weights: WeightSource = None,
    backbone_weights: WeightSource = None,
    image_size: int = IMAGE_SIZE,
) -> Segmenter:
    """Build an encoder with this package's segmentation head.

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
        ModelError: an unknown name or option.
        WeightsError: weights that do not fit.
    """
    encoder = backbone(
        name_or_config,
        modalities,
        bands=bands,
        weights=backbone_weights,
        image_size=image_size,
    )
    head_layers = tuple(encoder.architecture.feature_layers if layers is None else layers)
    channels = {name: len(encoder.band_names(name)) for name in encoder.modality_keys}
    head = PixelHead(encoder.architecture.dim, len(head_layers), channels, classes, width)
    module = Segmenter(encoder, head, head_layers)
    return load_weights(module, weights, str(name_or_config)).eval()


def _resolve_architecture(
    source: str | Path | Mapping[str, Any] | architectures.Architecture, variant: str
) -> architectures.Architecture:
    name_or_config = source.removesuffix(variant) if isinstance(source, str) else source
    return architectures.resolve_architecture(name_or_config)
