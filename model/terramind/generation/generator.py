"""Any to any: what other sensors, or a map, would have shown, from what is there.

    rasters -> encoder -> decoder -> token ids of each output -> its tokenizer -> a raster

Notable: nothing is random unless asked for, and then a sample's answer depends on its own seed.
Samples go through in chunks of one fixed size, the last one filled up, because the bits of a matrix
product can depend on the number of its rows: a window gives the same bits alone, in any batch and
at any place in it. The inputs are never modified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model.errors import ModelError, join_names
from model.terramind.config import Architecture
from model.terramind.decoder import EmbeddedInputs, EncoderDecoder, PatchGrid
from model.terramind.embeddings import Tokenizers, check_shape, resolve_modality_keys
from model.terramind.generation import detokenize
from model.terramind.generation.detokenize import DiffusionOptions
from model.terramind.generation.expected_classes import expected_classes
from model.terramind.generation.request import (
    GenerationRequest,
    GeneratorSpec,
    Inputs,
    resolve_output_keys,
)
from model.terramind.generation.sampler import Sampler, is_sequence_key
from model.terramind.generation.sampling import (
    PositionOrder,
    SamplingMode,
    SamplingStrategy,
    Seeds,
    StepSchedule,
)
from model.terramind.generation.standardise import BoaOffset, Scaling
from model.terramind.layers import CheckpointModule
from model.terramind.modalities import IMAGE_SIZE, PATCH_SIZE

CHUNK_SIZES = {"cpu": 1, "cuda": 8}
"""Samples at a time: one fills a CPU's caches, a GPU wants more to do."""


class Generator(CheckpointModule):
    """An encoder-decoder with the halves of the tokenizers that it needs."""

    def __init__(
        self,
        architecture: Architecture,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        tokenizers: Tokenizers | None = None,
        embed_last: bool = False,
        chained: bool = True,
        image_size: int = IMAGE_SIZE,
        boa_offset: BoaOffset = 0.0,
    ) -> None:
        super().__init__()
        if any(not isinstance(entry, str) for entry in inputs):
            raise ModelError("a generator takes known modalities only, by name")
        self.spec = GeneratorSpec(
            input_keys=resolve_modality_keys(inputs), output_keys=resolve_output_keys(outputs)
        )
        targets = list(self.spec.output_keys.values())
        fed = targets[: None if embed_last else -1] if chained else []
        known = [*inputs, *(key for key in fed if key not in self.spec.input_keys.values())]
        model = EncoderDecoder(architecture, known, targets, image_size=image_size)
        self.sampler = Sampler(model)
        self.tokenizer = Tokenizers() if tokenizers is None else tokenizers
        self.scaling = Scaling.from_offset(boa_offset)
        self.chunk_size: int | None = None
        # ^ samples at a time; None = as CHUNK says

    @property
    def model(self) -> EncoderDecoder:
        """The encoder-decoder."""
        return self.sampler.model

    @torch.no_grad()
    def generate(  # noqa: PLR0913
        self,
        inputs: Inputs,
        outputs: Sequence[str] | None = None,
        *,
        seed: Seeds = 0,
        sampling: SamplingMode = "argmax",
        decoding_steps: int = 1,
        schedule: StepSchedule = "linear",
        order: PositionOrder = "random",
        temperature: float = 1.0,
        top_k: float = 0,
        top_p: float = 0.8,
        chained: bool = True,
        timesteps: int = 10,
        clamp: bool = True,
        noise: Mapping[str, Tensor] | None = None,
        standardize: bool = True,
        boa_offset: BoaOffset | None = None,
        size: tuple[int, int] | None = None,
    ) -> dict[str, Tensor]:
        """Return what was asked for, by the names it was asked with.

        Image modalities are (B, C, H, W) float32 in their own unit, or standardised where the
        inputs are; LULC is (B, 10, H, W) class scores (logits, whose softmax is the probability
        *given* the chosen tokens; `expected` is over all tokens); Coords is (B, 2) degrees lon,
        lat, NaN where the model's words are no place.

        Args:
            inputs: rasters (B, C, H, W) by name, sides multiples of 16, and of 32 where an output
                is made by diffusion (all but LULC and Coords); any of the declared may be absent.
                LULC also (B, H, W) or (B, 1, H, W) class indices; Coords degrees (B, 2) lon, lat.
            outputs: some of the declared outputs, in the order in which they are made.
            seed: of tokens, orders and noise; one for all samples, or one for each.
            sampling: the likeliest tokens, or tokens drawn from their distribution.
            decoding_steps: 1 decides all positions at once; see `model.terramind.generation.sampler`.
            schedule: how many positions each of several steps decides.
            order: which positions come first.
            temperature: see `model.terramind.generation.sampling.SamplingStrategy`.
            top_k: see `model.terramind.generation.sampling.SamplingStrategy`.
            top_p: see `model.terramind.generation.sampling.SamplingStrategy`.
            chained: whether an output is an input of those after it.
            timesteps: steps of the diffusion.
            clamp: see `Tokenizer.decode`.
            noise: where the diffusion starts, (B, C, H, W) by output; else drawn by the seed.
            standardize: whether the inputs are in their own units and the outputs shall be.
            boa_offset: DN that Sentinel-2 values carry (1000 since baseline 04.00 where it was not
                taken off), in inputs and outputs; None = as the generator was built.
            size: (H, W) of the outputs where no input is a raster; default 224 x 224.

        Raises:
            ModelError: inputs that are unknown, of a wrong shape or unit or not finite; options
                that do not exist; an output whose tokenizer is not here.
        """
        strategy = SamplingStrategy(
            sampling=sampling,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            decoding_steps=decoding_steps,
            schedule=schedule,
            order=order,
            chained=chained,
        )
        scaling = self.scaling if boa_offset is None else Scaling.from_offset(boa_offset)
        asked = self._make_request(
            inputs,
            self.spec.resolve_outputs(outputs),
            seed,
            scaling if standardize else None,
            size=size,
        )
        diffusion = DiffusionOptions(timesteps=timesteps, clamp=clamp, noise=noise or {})
        detokenize.check_request(self.tokenizer, asked, diffusion)
        found: list[dict[str, Tensor]] = []
        for rows, kept in asked.iter_chunks(self._resolve_chunk_size()):
            ids = self._sample_ids(asked, rows, strategy)
            made = {
                name: detokenize.decode_output(
                    self.tokenizer, asked, name, ids[name], rows, diffusion
                )
                for name in asked.output_keys
            }
            found.append({name: value[:kept] for name, value in made.items()})
        return {name: torch.cat([part[name] for part in found]) for name in asked.output_keys}

    @torch.no_grad()
    def generate_tokens(
        self,
        inputs: Inputs,
        outputs: Sequence[str] | None = None,
        *,
        strategy: SamplingStrategy | None = None,
        seed: Seeds = 0,
        standardize: bool = False,
        size: tuple[int, int] | None = None,
    ) -> dict[str, Tensor]:
        """Return the ids of the outputs, (B, h, w), or (B, 3) for Coords; see `generate`.

        As for `context`, the inputs are standardised already, unless told otherwise.
        """
        scaling = self.scaling if standardize else None
        asked = self._make_request(
            inputs, self.spec.resolve_outputs(outputs), seed, scaling, size=size
        )
        found = [
            {name: ids[:kept] for name, ids in self._sample_ids(asked, rows, strategy).items()}
            for rows, kept in asked.iter_chunks(self._resolve_chunk_size())
        ]
        return {name: torch.cat([part[name] for part in found]) for name in asked.output_keys}

    @torch.no_grad()
    def encode_inputs(
        self,
        inputs: Inputs,
        tokens: Mapping[str, Tensor] | None = None,
        *,
        standardize: bool = False,
    ) -> Tensor:
        """Return what the encoder made of the inputs, (B, M, D), normed, inputs as declared.

        Args:
            inputs: standardised, as a backbone takes them, unless `standardize`.
            tokens: ids of outputs that are there already, (B, h, w), appended in their order.
            standardize: see `generate`.
        """
        scaling = self.scaling if standardize else None
        asked = self._make_request(inputs, {}, 0, scaling, tokens)
        parts = [
            self.model.encode_context(self._embed_rows(asked, rows)).encoded[:kept]
            for rows, kept in asked.iter_chunks(self._resolve_chunk_size())
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def token_logits(
        self,
        inputs: Inputs,
        modality: str,
        tokens: Mapping[str, Tensor] | None = None,
        *,
        standardize: bool = False,
    ) -> Tensor:
        """Return the logits (B, h * w, V) of an output's tokens, asked for all at once.

        Args:
            inputs: as for `context`.
            modality: an output on the grid; the words of Coords come one after the other.
            tokens: ids of outputs that are there already, as for `context`.
            standardize: see `generate`.
        """
        scaling = self.scaling if standardize else None
        asked = self._make_request(
            inputs, self.spec.resolve_outputs([modality]), 0, scaling, tokens
        )
        parts = [
            self._logits(asked, rows)[0][:kept]
            for rows, kept in asked.iter_chunks(self._resolve_chunk_size())
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def class_probabilities(
        self,
        inputs: Inputs,
        modality: str = "LULC",
        *,
        draws: int = 0,
        seed: Seeds = 0,
        temperature: float = 1.0,
        top_k: float = 0,
        top_p: float = 0.0,
        standardize: bool = True,
    ) -> Tensor:
        """Return class probabilities (B, 10, H, W) over the distribution of the tokens.

        The tokens' distribution is that of one parallel step; see `model.terramind.generation.expected_classes`.

        `draws=0`, one pass: the decoder at the mean code. Exact where the model is sure of a token,
        smooth between tokens whose codes lie near each other; where two far ones are equally
        likely, the decoder sees a code between them, which may mean neither.

        `draws=n`, n passes of the tokenizer's decoder: the average over n token maps. Unbiased, and
        the better the more; 8 to 16 make a good map.

        Args:
            inputs: as for `generate`, in their own units unless told otherwise.
            modality: LULC, the one output that has classes.
            draws: 0 for the mean code, or the number of token maps.
            seed: of the draws; one for all samples, or one for each.
            temperature: of the distribution; 0 leaves the likeliest tokens alone.
            top_k: see `model.terramind.generation.sampling.SamplingStrategy`; off by default.
            top_p: see `model.terramind.generation.sampling.SamplingStrategy`; off by default.
            standardize: see `generate`.

        Raises:
            ModelError: as for `generate`; an output without classes, or no number of draws.
        """
        strategy = SamplingStrategy(
            sampling="sample", temperature=temperature, top_k=top_k, top_p=top_p
        )
        wanted, scaling = (
            self.spec.resolve_outputs([modality]),
            self.scaling if standardize else None,
        )
        asked = self._make_request(inputs, wanted, seed, scaling)
        tokenizer = detokenize.get_decoder(self.tokenizer, modality, asked.output_keys[modality])
        counted = isinstance(draws, int) and not isinstance(draws, bool) and draws >= 0
        if not tokenizer.config.has_classes or not counted:
            raise ModelError(
                f"{modality}, draws={draws!r}: LULC, and a whole number from 0 on, expected"
            )
        parts: list[Tensor] = []
        for rows, kept in asked.iter_chunks(self._resolve_chunk_size()):
            logits, grid = self._logits(asked, rows)
            own = [asked.seeds[row] for row in rows]
            parts.append(expected_classes(tokenizer, logits, grid, strategy, own, draws)[:kept])
        return torch.cat(parts)

    def checkpoint_parts(self) -> dict[str, CheckpointModule]:
        """Return the encoder-decoder and the tokenizers."""
        return {"sampler.model.": self.model, **self.tokenizer.checkpoint_parts("tokenizer.")}

    def is_ignored_key(self, key: str) -> bool:
        """Tell a key of a modality, of a tokenizer or of half of one, that is not here."""
        ours = key.startswith(tuple(self.checkpoint_parts()))
        return super().is_ignored_key(key) if ours else key.startswith("tokenizer.")

    def convert_state_dict(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors in this layout, also from the plain official one."""
        if not any(key.startswith("sampler.") for key in tensors):
            tensors = {
                key if key.startswith("tokenizer.") else f"sampler.model.{key}": value
                for key, value in tensors.items()
            }
        return super().convert_state_dict(self.tokenizer.add_missing_tensors(tensors, "tokenizer."))

    def _make_request(
        self,
        inputs: Inputs,
        outputs: Mapping[str, str],
        seed: Seeds,
        scaling: Scaling | None,
        tokens: Inputs | None = None,
        size: tuple[int, int] | None = None,
    ) -> GenerationRequest:
        asked = self.spec.make_request(inputs, outputs, seed, scaling, tokens, size)
        for name, value in asked.raster_inputs().items():
            check_shape(name, self.model.embedding(name), value)
        return asked

    def _resolve_chunk_size(self) -> int:
        return self.chunk_size or CHUNK_SIZES.get(self.model.mask_token.device.type, 1)

    def _embed_rows(self, request: GenerationRequest, rows: list[int]) -> EmbeddedInputs:
        device = self.model.mask_token.device
        given: dict[str, Tensor] = {}
        for name, value in request.input_tensors.items():
            key, part = request.input_keys[name], value[rows].to(device)
            if request.scaling is not None:
                part = request.scaling.standardise(key, part, self.model.band_names(name))
            given[name] = self.tokenizer.tokenize(name, key, part)
        laid = self.model.embed_inputs(given)
        for key, ids in request.tokens.items():
            square = ids[rows].to(device)
            if laid.grid and not is_sequence_key(key):
                square = square.reshape(len(rows), *laid.grid)
            laid = self.model.append_tokens(laid, key, square)
        return laid

    def _resolve_grid(self, request: GenerationRequest, embedded: EmbeddedInputs) -> PatchGrid:
        side = IMAGE_SIZE // PATCH_SIZE
        return embedded.grid or request.grid or (side, side)

    def _sample_ids(
        self, request: GenerationRequest, rows: list[int], strategy: SamplingStrategy | None
    ) -> dict[str, Tensor]:
        laid = self._embed_rows(request, rows)
        seeds = [request.seeds[row] for row in rows]
        keys, grid = list(request.output_keys.values()), self._resolve_grid(request, laid)
        ids = self.sampler.sample_tokens(laid, keys, strategy or SamplingStrategy(), seeds, grid)
        return {name: ids[key] for name, key in request.output_keys.items()}

    def _logits(self, request: GenerationRequest, rows: list[int]) -> tuple[Tensor, PatchGrid]:
        (key,) = request.output_keys.values()
        if is_sequence_key(key):
            raise ModelError(
                f"{join_names(request.output_keys)} has no positions on the grid: use generate"
            )
        laid = self._embed_rows(request, rows)
        grid = self._resolve_grid(request, laid)
        return self.model.logits(self.model.encode_context(laid), [key], grid)[0].float(), grid
