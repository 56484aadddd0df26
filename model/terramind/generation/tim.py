"""Thinking in Modalities (TiM): an encoder that generates missing modalities as further inputs.

    inputs -> sampler (encoder-decoder, frozen) -> token ids, of land cover by default
    inputs and these ids -> encoder (fine-tuned) -> merged tokens

The ids are the likeliest ones, so that the same inputs give the same features; the published model
draws them anew at each call. `merge` counts a generated modality as one more image, last in the
order; the output of merge "dict" leaves it out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from model.errors import ModelError, join_names
from model.terramind.architectures import Architecture
from model.terramind.decoder import EncoderDecoder
from model.terramind.encoder import Encoder, Inputs
from model.terramind.generation.sampler import Sampler
from model.terramind.generation.sampling_strategy import SamplingStrategy, Seeds, expand_seeds
from model.terramind.keys import TiMEncoderKeys
from model.terramind.modalities import IMAGE_SIZE
from model.terramind.modality_names import resolve_modality_keys, resolve_output_keys
from model.terramind.token_merging import Merge, MergedTokens
from model.terramind.tokenizers.collection import Tokenizers


class TiMEncoder(TiMEncoderKeys, Encoder):
    """An encoder with a sampler inside; it is called as a plain encoder is."""

    def __init__(
        self,
        architecture: Architecture,
        modalities: Sequence[str],
        tim_modalities: Sequence[str] = ("LULC",),
        *,
        merge: Merge = "mean",
        strategy: SamplingStrategy | None = None,
        chained: bool = True,
        image_size: int = IMAGE_SIZE,
        tokenizers: Tokenizers | None = None,
        modality_drop_rate: float = 0.0,
    ) -> None:
        """Build encoder and sampler without weights.

        Args:
            architecture: of the encoder, and of the encoder and decoder inside the sampler.
            modalities: inputs, by name; new ones are not possible.
            tim_modalities: modalities that are generated where they are not given.
            merge: as for the backbone.
            strategy: how tokens are chosen; the likeliest by default.
            chained: whether a generated modality is an input of the next one, as published since
                2026. The sampler then uses the encoder's own embeddings, which are frozen.
            image_size: as for the backbone.
            tokenizers: for rasters of token modalities.
            modality_drop_rate: as for the backbone.
        """
        if any(not isinstance(name, str) for name in modalities):
            raise ModelError("Thinking in Modalities takes known modalities only, by name")
        tim_keys = list(resolve_output_keys(tim_modalities).values())
        input_keys = resolve_modality_keys(modalities).values()
        further_keys = [key for key in tim_keys if key not in input_keys]
        super().__init__(
            architecture,
            [*modalities, *further_keys],
            merge=merge,
            image_size=image_size,
            tokenizers=tokenizers,
            modality_drop_rate=modality_drop_rate,
        )
        self.tim_keys = tim_keys
        self.strategy = replace(strategy or SamplingStrategy(), chained=chained)
        sampler_inputs = [*modalities, *(further_keys if chained else ())]
        self.sampler = Sampler(
            EncoderDecoder(architecture, sampler_inputs, tim_keys, image_size=image_size)
        )
        if chained:
            self._set_sampler_embeddings(self.encoder_embeddings)
        self.sampler.requires_grad_(requires_grad=False)

    @property
    def sampler_model(self) -> EncoderDecoder:
        """The encoder-decoder that generates the missing modalities."""
        return self.sampler.model

    @property
    def has_shared_embeddings(self) -> bool:
        """Whether encoder and sampler have the same embeddings, and not copies of them."""
        embeddings = self.sampler.model.encoder_embeddings
        return all(embeddings[key] is self.encoder_embeddings[key] for key in embeddings)

    def forward(self, inputs: Mapping[str, Tensor], seed: Seeds = 0) -> MergedTokens:
        """Return the last layer's tokens (B, h * w, D), normalised and merged."""
        return self.forward_layers(inputs, [self.depth - 1], seed)[0]

    def forward_layers(
        self,
        inputs: Mapping[str, Tensor],
        layers: Sequence[int] | None = None,
        seed: Seeds = 0,
    ) -> list[MergedTokens]:
        """Return the merged tokens of some layers (None = all); only the last one is normalised.

        Args:
            inputs: as `check_inputs` returns them.
            layers: indices from 0, or from -1 backwards.
            seed: as for a call.
        """
        values = self.tokenize_inputs(inputs)  # pixels (B, C, H, W), ids (B, h, w) or (B, L)
        tokens = self.embed(values)  # (B, N, D)
        generated = self.generate_missing(values, tokens, expand_seeds(seed, len(tokens)))
        if generated:
            tokens = torch.cat([tokens, self.embed(generated)], dim=1)
        spans = self.token_spans({**values, **generated})
        return [
            {name: part for name, part in output.items() if name not in generated}
            if isinstance(output, dict)
            else output
            for output in self.run_blocks(tokens, spans, layers)
        ]

    @torch.no_grad()
    def generate_missing(
        self, values: Mapping[str, Tensor], tokens: Tensor, seeds: Sequence[int]
    ) -> dict[str, Tensor]:
        """Return the ids of the TiM modalities that are not given: (B, h, w), or (B, 3) for Coords.

        Args:
            values: inputs as `tokenize_inputs` returns them.
            tokens: the same, embedded by this encoder, (B, N, D).
            seeds: one for each sample.

        Raises:
            ModelError: no input that the sampler takes.
        """
        input_keys = [self.modality_keys[name] for name in values]
        missing_keys = [key for key in self.tim_keys if key not in input_keys]
        if not missing_keys:
            return {}
        model = self.sampler.model
        known = {name: value for name, value in values.items() if name in model.modality_keys}
        if not known:
            raise ModelError(
                "none of the inputs is one that the sampler can generate from: give one of "
                + join_names(model.modality_keys)
            )
        same_tokens = len(known) == len(values) and self.has_shared_embeddings
        embedded = model.wrap_embedded(known, tokens) if same_tokens else model.embed_inputs(known)
        ids = self.sampler.sample_tokens(embedded, missing_keys, self.strategy, seeds)
        names = {key: name for name, key in self.modality_keys.items()}
        return {names[key]: ids[key] for key in ids}

    def __call__(self, inputs: Inputs, seed: Seeds = 0) -> MergedTokens:
        """Return the last layer's tokens, normalised and merged, (B, h * w, D).

        Args:
            inputs: as for `Encoder`; a TiM modality that is given is not generated.
            seed: of drawn tokens, where the strategy draws; one for all samples, or one for each.

        Raises:
            ModelError: an input that is unknown, of a wrong shape, not finite, or clearly not
                standardised.
        """
        outputs: MergedTokens = nn.Module.__call__(self, self.check_inputs(inputs), seed)
        return outputs

    def features(
        self, inputs: Inputs, layers: Sequence[int] | None = None, seed: Seeds = 0
    ) -> list[MergedTokens]:
        """Return the merged tokens of some layers (None = all); only the last one is normalised.

        Args:
            inputs: as for a call.
            layers: indices from 0, or from -1 backwards.
            seed: as for a call.

        Raises:
            ModelError: as for a call; a layer that there is not.
        """
        return self.forward_layers(self.check_inputs(inputs), layers, seed)

    def select_bands(self, bands: Mapping[str, Sequence[str]]) -> None:
        """Refuse a choice of bands: the sampler needs all of them.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"Thinking in Modalities needs all bands, not {dict(bands)}")

    def separate_embeddings(self) -> None:
        """Give the sampler copies of the embeddings, and train those of the encoder."""
        self._set_sampler_embeddings(copy.deepcopy(self.encoder_embeddings))
        self.encoder_embeddings.requires_grad_(requires_grad=True)

    def _set_sampler_embeddings(self, source: nn.ModuleDict) -> None:
        embeddings = self.sampler.model.encoder_embeddings
        for key in embeddings:
            embeddings[key] = source[key]
        self.sampler.model.tie_weights()
