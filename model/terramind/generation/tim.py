"""Thinking in Modalities (TiM): an encoder that first imagines what it was not given.

    inputs -> sampler (encoder-decoder, frozen) -> token ids, of land cover by default
    inputs and these ids -> encoder (fine-tuned) -> merged tokens

Notable: the ids are the likeliest ones, so that the same inputs give the same features; the
published model draws them anew at each call. `merge` counts what was imagined as one more image,
last in the order; "dict" leaves it out of the answer.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from model.errors import ModelError
from model.terramind.config import Architecture
from model.terramind.decoder import EncoderDecoder
from model.terramind.embeddings import Tokenizers, resolve_modality_keys
from model.terramind.encoder import Encoder, Merge, MergedTokens
from model.terramind.generation.request import resolve_output_keys
from model.terramind.generation.sampler import Sampler
from model.terramind.generation.sampling import SamplingStrategy, Seeds, expand_seeds
from model.terramind.layers import CheckpointModule
from model.terramind.modalities import IMAGE_SIZE

_SAMPLER_PREFIX = "sampler.model."
_EMBEDDINGS_PREFIX = "encoder_embeddings."


class TiMEncoder(Encoder):
    """The fine-tuning backbone with a sampler inside; it is called as the plain one is."""

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
        """Build it.

        Args:
            architecture: of the encoder, and of the encoder and decoder inside the sampler.
            modalities: what can be given, by name; new ones are not possible.
            tim_modalities: what is imagined where it is not given.
            merge: as for the backbone.
            strategy: how tokens are chosen; the likeliest by default.
            chained: whether a thought is an input of the next one, as published since 2026. The
                sampler then uses the encoder's own embeddings, which are frozen.
            image_size: as for the backbone.
            tokenizers: for rasters given of token modalities.
            modality_drop_rate: as for the backbone.
        """
        if any(not isinstance(entry, str) for entry in modalities):
            raise ModelError("Thinking in Modalities takes known modalities only, by name")
        keys = list(resolve_output_keys(tim_modalities).values())
        given = resolve_modality_keys(modalities).values()
        imagined = [key for key in keys if key not in given]
        super().__init__(
            architecture,
            [*modalities, *imagined],
            merge=merge,
            image_size=image_size,
            tokenizers=tokenizers,
            modality_drop_rate=modality_drop_rate,
        )
        self.tim_keys = keys
        self.strategy = replace(strategy or SamplingStrategy(), chained=chained)
        known = [*modalities, *(imagined if chained else ())]
        self.sampler = Sampler(EncoderDecoder(architecture, known, keys, image_size=image_size))
        if chained:
            self._share_embeddings()
        self.sampler.requires_grad_(requires_grad=False)

    @property
    def has_shared_embeddings(self) -> bool:
        """Whether encoder and sampler have the same embeddings, and not copies of them."""
        theirs = self.sampler.model.encoder_embeddings
        return all(theirs[key] is self.encoder_embeddings[key] for key in theirs)

    def forward(self, inputs: Tensor | Mapping[str, Tensor], seed: Seeds = 0) -> MergedTokens:
        """Return the last layer's tokens (B, N, D), normed and merged.

        Args:
            inputs: as for `Encoder.forward`; a thought that is given is not imagined.
            seed: of what is drawn, where the strategy draws; one for all, or one for each.

        Raises:
            ModelError: an input that is unknown, of a wrong shape, or not finite.
        """
        return self.features(inputs, [self.depth - 1], seed)[0]

    def features(
        self,
        inputs: Tensor | Mapping[str, Tensor],
        layers: Sequence[int] | None = None,
        seed: Seeds = 0,
    ) -> list[MergedTokens]:
        """Return merged tokens after the given layers (default all); only the last is normed."""
        given = self.resolve_inputs(inputs)
        self.check_pixels(given)
        return self.features_unchecked(given, layers, seed)

    def features_unchecked(
        self,
        inputs: Tensor | Mapping[str, Tensor],
        layers: Sequence[int] | None = None,
        seed: Seeds = 0,
    ) -> list[MergedTokens]:
        """Do what `features` does, without looking at the pixels' values."""
        given = self.tokenize_inputs(inputs)
        tokens, _ = self.embed(given)
        imagined = self.generate_missing(given, tokens, expand_seeds(seed, len(tokens)))
        if imagined:
            more, _ = self.embed(imagined)
            tokens = torch.cat([tokens, more], dim=1)
        found = self.run_blocks(tokens, self.token_spans({**given, **imagined}), layers)
        return [
            {name: part for name, part in layer.items() if name not in imagined}
            if isinstance(layer, dict)
            else layer
            for layer in found
        ]

    @torch.no_grad()
    def generate_missing(
        self, inputs: Mapping[str, Tensor], tokens: Tensor, seeds: Sequence[int]
    ) -> dict[str, Tensor]:
        """Return the ids of what is not given, by name: (B, h, w), or (B, 3) for Coords.

        Args:
            inputs: inputs as `read` returns them.
            tokens: the same, embedded by this encoder, (B, M, D).
            seeds: one for each sample.
        """
        there = [self.modality_keys[name] for name in inputs]
        wanted = [key for key in self.tim_keys if key not in there]
        if not wanted:
            return {}
        model = self.sampler.model
        seen = {name: value for name, value in inputs.items() if name in model.modality_keys}
        if not seen:
            raise ModelError("nothing is given that the sampler could imagine from")
        whole = len(seen) == len(inputs) and self.has_shared_embeddings
        laid = model.wrap_embedded(seen, tokens) if whole else model.embed_inputs(seen)
        found = self.sampler.sample_tokens(laid, wanted, self.strategy, seeds)
        names = {key: name for name, key in self.modality_keys.items()}
        return {names[key]: ids for key, ids in found.items()}

    def select_bands(self, bands: Mapping[str, Sequence[str]]) -> None:
        """Refuse: the sampler needs all bands.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"Thinking in Modalities needs all bands, not {dict(bands)}")

    def checkpoint_parts(self) -> dict[str, CheckpointModule]:
        """Return the sampler's model, and the tokenizers."""
        return {_SAMPLER_PREFIX: self.sampler.model, **super().checkpoint_parts()}

    def convert_state_dict(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors in this layout.

        Of the plain official file everything is taken twice, for the encoder and the sampler. A
        fine-tuned checkpoint holds both; where they differ, the sampler gets embeddings of its own.
        """
        if not any(key.startswith(_SAMPLER_PREFIX) for key in tensors):
            twice = {_SAMPLER_PREFIX + key: tensors[key] for key in tensors if _is_model_key(key)}
            tensors = tensors | twice
        if self.has_shared_embeddings and _has_own_sampler_embeddings(tensors):
            self._separate_embeddings()
        return super().convert_state_dict(tensors)

    def _share_embeddings(self) -> None:
        theirs = self.sampler.model.encoder_embeddings
        for key in theirs:
            theirs[key] = self.encoder_embeddings[key]
        self.sampler.model.tie_weights()

    def _separate_embeddings(self) -> None:
        theirs = self.sampler.model.encoder_embeddings
        for key in theirs:
            theirs[key] = copy.deepcopy(self.encoder_embeddings[key])
        self.sampler.model.tie_weights()
        self.encoder_embeddings.requires_grad_(requires_grad=True)


def _is_model_key(key: str) -> bool:
    return not key.startswith(("tokenizer.", "missing_mod_token"))


def _has_own_sampler_embeddings(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether a checkpoint gives an embedding two values, one for each side."""
    own = [
        key
        for key in tensors
        if key.startswith(_EMBEDDINGS_PREFIX) and _SAMPLER_PREFIX + key in tensors
    ]
    return any(not _is_equal(tensors[key], tensors[_SAMPLER_PREFIX + key]) for key in own)


def _is_equal(first: Tensor, second: Tensor) -> bool:
    return first is second or first.is_meta or torch.equal(first, second)
