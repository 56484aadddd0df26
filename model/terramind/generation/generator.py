"""Generate modalities from other ones.

    rasters -> encoder -> decoder -> token ids of each output -> its tokenizer -> raster

Nothing is random unless requested; then the outputs of a sample depend on its own seed. Samples are
computed in chunks of one fixed size, the last one filled up, because the bits of a matrix product
can depend on its number of rows: a window has the same bits alone and in any batch. The inputs are
never modified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model.errors import ModelError, join_names
from model.terramind.architectures import Architecture
from model.terramind.decoder import EmbeddedInputs, EncoderDecoder, PatchGrid
from model.terramind.generation.expected_classes import compute_class_probabilities
from model.terramind.generation.request import (
    DiffusionOptions,
    GenerationRequest,
    GeneratorSpec,
    Inputs,
)
from model.terramind.generation.sampler import Sampler
from model.terramind.generation.sampling_strategy import (
    DEFAULT_TEMPERATURE,
    DEFAULT_TOP_P,
    SamplingMode,
    SamplingStrategy,
    Seeds,
    StepSchedule,
)
from model.terramind.generation.value_scaling import BoaOffset, Scaling
from model.terramind.keys import GeneratorKeys
from model.terramind.modalities import IMAGE_SIZE, PATCH_SIZE, is_sequence_key
from model.terramind.modality_names import resolve_modality_keys, resolve_output_keys
from model.terramind.tokenizers.collection import Tokenizers

CHUNK_SIZES = {"cpu": 1, "cuda": 8}
"""Samples per chunk by kind of device: one fills a CPU's caches, a GPU needs more work."""


class Generator(GeneratorKeys):
    """An encoder-decoder with the tokenizers of its inputs and outputs."""

    tokenizer: Tokenizers

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
        if any(not isinstance(name, str) for name in inputs):
            raise ModelError("a generator takes known modalities only, by name")
        self.spec = GeneratorSpec(
            input_keys=resolve_modality_keys(inputs), output_keys=resolve_output_keys(outputs)
        )
        targets = list(self.spec.output_keys.values())
        fed_back = targets[: None if embed_last else -1] if chained else []
        encoded = [*inputs, *(key for key in fed_back if key not in self.spec.input_keys.values())]
        self.sampler = Sampler(
            EncoderDecoder(architecture, encoded, targets, image_size=image_size)
        )
        self.tokenizer = Tokenizers() if tokenizers is None else tokenizers
        self.scaling = Scaling.from_offset(boa_offset)
        self.chunk_size: int | None = None
        # ^ samples per chunk; None = that of CHUNK_SIZES for the device

    @property
    def model(self) -> EncoderDecoder:
        """The encoder-decoder."""
        return self.sampler.model

    @torch.no_grad()
    def generate(  # noqa: PLR0913
        # ^ the settings of sampling, each by its name
        self,
        inputs: Inputs,
        outputs: Sequence[str] | None = None,
        *,
        seed: Seeds = 0,
        sampling: SamplingMode = "argmax",
        decoding_steps: int = 1,
        schedule: StepSchedule = "linear",
        temperature: float = DEFAULT_TEMPERATURE,
        top_k: float = 0,
        top_p: float = DEFAULT_TOP_P,
        chained: bool = True,
        timesteps: int = 10,
        clamp: bool = True,
        noise: Mapping[str, Tensor] | None = None,
        standardize: bool = True,
        boa_offset: BoaOffset | None = None,
        size: tuple[int, int] | None = None,
    ) -> dict[str, Tensor]:
        """Return the outputs, by the names they are requested with.

        Images are (B, C, H, W) float32 in their own unit, or standardised where the inputs are.
        LULC is (B, 10, H, W) class scores: logits, whose softmax is the probability given the
        chosen tokens (`class_probabilities` is over all tokens). Coords is (B, 2) degrees lon, lat;
        NaN where the generated tokens are not a place.

        Args:
            inputs: rasters (B, C, H, W) by name, any of the declared ones; sides are multiples of
                16, and of 32 where an output is made by diffusion (all but LULC and Coords). LULC
                also as class indices (B, H, W) or (B, 1, H, W); Coords as degrees (B, 2) lon, lat.
            outputs: some of the declared outputs, in the order in which they are generated.
            seed: of tokens, orders and noise; one for all samples, or one for each.
            sampling: argmax takes the likeliest tokens, sample draws from their distribution.
            decoding_steps: 1 decodes all positions at once; see `generation.sampler`.
            schedule: how many positions each of several steps decodes.
            temperature: see `SamplingStrategy`.
            top_k: see `SamplingStrategy`.
            top_p: see `SamplingStrategy`.
            chained: whether an output is an input of those after it.
            timesteps: steps of the diffusion.
            clamp: see `Tokenizer.decode`.
            noise: start of the diffusion, (B, C, H, W), by output; else drawn from the seed.
            standardize: whether the inputs are in their own units, and the outputs shall be.
            boa_offset: DN that Sentinel-2 values carry (1000 since baseline 04.00 where it was not
                removed), in inputs and outputs; None = as the generator was built.
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
            chained=chained,
        )
        scaling = self.scaling if boa_offset is None else Scaling.from_offset(boa_offset)
        request = self._make_request(
            inputs,
            self.spec.resolve_outputs(outputs),
            seed,
            scaling if standardize else None,
            size=size,
        )
        diffusion = DiffusionOptions(timesteps=timesteps, clamp=clamp, noise=noise or {})
        request.check_decoding(self.tokenizer, diffusion)
        chunks: list[dict[str, Tensor]] = []
        for rows, count in request.iter_chunks(self._resolve_chunk_size()):
            ids = self._sample_ids(request, rows, strategy)
            chunks.append(
                {
                    name: self._decode(request, name, ids[name], rows, diffusion)[:count]
                    for name in request.output_keys
                }
            )
        return {name: torch.cat([part[name] for part in chunks]) for name in request.output_keys}

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
        """Return the token ids of the outputs, (B, h, w), or (B, 3) for Coords; see `generate`.

        As for `encode_inputs`, the inputs are standardised unless `standardize` is true.
        """
        scaling = self.scaling if standardize else None
        request = self._make_request(
            inputs, self.spec.resolve_outputs(outputs), seed, scaling, size=size
        )
        chunks = [
            {name: ids[:count] for name, ids in self._sample_ids(request, rows, strategy).items()}
            for rows, count in request.iter_chunks(self._resolve_chunk_size())
        ]
        return {name: torch.cat([part[name] for part in chunks]) for name in request.output_keys}

    @torch.no_grad()
    def encode_inputs(
        self,
        inputs: Inputs,
        tokens: Mapping[str, Tensor] | None = None,
        *,
        standardize: bool = False,
    ) -> Tensor:
        """Return the encoder's output (B, M, D), normalised, inputs in the declared order.

        Args:
            inputs: standardised, as for a backbone, unless `standardize` is true.
            tokens: ids (B, h, w) of outputs that exist already, appended in their order.
            standardize: see `generate`.
        """
        scaling = self.scaling if standardize else None
        request = self._make_request(inputs, {}, 0, scaling, tokens)
        chunks = [
            self.model.encode_context(self._embed_rows(request, rows)).encoded[:count]
            for rows, count in request.iter_chunks(self._resolve_chunk_size())
        ]
        return torch.cat(chunks)

    @torch.no_grad()
    def token_logits(
        self,
        inputs: Inputs,
        modality: str,
        tokens: Mapping[str, Tensor] | None = None,
        *,
        standardize: bool = False,
    ) -> Tensor:
        """Return the logits (B, h * w, V) of an output's tokens, all positions decoded at once.

        Args:
            inputs: as for `encode_inputs`.
            modality: an output on the grid; those of Coords follow each other.
            tokens: ids of outputs that exist already, as for `encode_inputs`.
            standardize: see `generate`.
        """
        scaling = self.scaling if standardize else None
        outputs = self.spec.resolve_outputs([modality])
        request = self._make_request(inputs, outputs, 0, scaling, tokens)
        chunks = [
            self._logits(request, rows)[0][:count]
            for rows, count in request.iter_chunks(self._resolve_chunk_size())
        ]
        return torch.cat(chunks)

    @torch.no_grad()
    def class_probabilities(
        self,
        inputs: Inputs,
        modality: str = "LULC",
        *,
        temperature: float = DEFAULT_TEMPERATURE,
        top_k: float = 0,
        top_p: float = 0.0,
        standardize: bool = True,
    ) -> Tensor:
        """Return class probabilities (B, 10, H, W) over the distribution of the tokens.

        All positions are decoded at once, and the tokenizer's decoder runs once, at the mean code;
        see `model.terramind.generation.expected_classes`.

        Args:
            inputs: as for `generate`, in their own units unless `standardize` is false.
            modality: LULC, the one output that has classes.
            temperature: of the distribution; 0 leaves the likeliest tokens only.
            top_k: see `SamplingStrategy`; off by default.
            top_p: see `SamplingStrategy`; off by default.
            standardize: see `generate`.

        Raises:
            ModelError: as for `generate`; an output without classes.
        """
        strategy = SamplingStrategy(
            sampling="sample", temperature=temperature, top_k=top_k, top_p=top_p
        )
        outputs = self.spec.resolve_outputs([modality])
        scaling = self.scaling if standardize else None
        request = self._make_request(inputs, outputs, 0, scaling)
        tokenizer = self.tokenizer.get_decoder(modality, outputs[modality])
        if not tokenizer.config.has_classes:
            raise ModelError(f"{modality} has no classes: LULC expected")
        chunks: list[Tensor] = []
        for rows, count in request.iter_chunks(self._resolve_chunk_size()):
            logits, grid = self._logits(request, rows)
            chunks.append(compute_class_probabilities(tokenizer, logits, grid, strategy)[:count])
        return torch.cat(chunks)

    def _make_request(
        self,
        inputs: Inputs,
        outputs: Mapping[str, str],
        seed: Seeds,
        scaling: Scaling | None,
        tokens: Inputs | None = None,
        size: tuple[int, int] | None = None,
    ) -> GenerationRequest:
        request = self.spec.make_request(inputs, outputs, seed, scaling, tokens, size)
        for name, value in request.input_tensors.items():
            if not self.tokenizer.takes_raw(request.input_keys[name], value):
                self.model.embedding(name).check_input(name, value)
        return request

    def _resolve_chunk_size(self) -> int:
        return self.chunk_size or CHUNK_SIZES.get(self.model.mask_token.device.type, 1)

    def _embed_rows(self, request: GenerationRequest, rows: list[int]) -> EmbeddedInputs:
        """Standardise, tokenise and embed the inputs of some samples."""
        device = self.model.mask_token.device
        values: dict[str, Tensor] = {}
        for name, tensor in request.input_tensors.items():
            key, value = request.input_keys[name], tensor[rows].to(device)
            if request.scaling is not None:
                value = request.scaling.standardise(key, value, self.model.band_names(name))
            values[name] = self.tokenizer.tokenize(name, key, value)
        embedded = self.model.embed_inputs(values)
        for key, tensor in request.tokens.items():
            ids = tensor[rows].to(device)
            if embedded.grid and not is_sequence_key(key):
                ids = ids.reshape(len(rows), *embedded.grid)
            embedded = self.model.append_tokens(embedded, key, ids)
        return embedded

    def _resolve_grid(self, request: GenerationRequest, embedded: EmbeddedInputs) -> PatchGrid:
        side = IMAGE_SIZE // PATCH_SIZE
        return embedded.grid or request.grid or (side, side)

    def _sample_ids(
        self, request: GenerationRequest, rows: list[int], strategy: SamplingStrategy | None
    ) -> dict[str, Tensor]:
        embedded = self._embed_rows(request, rows)
        ids = self.sampler.sample_tokens(
            embedded,
            list(request.output_keys.values()),
            strategy or SamplingStrategy(),
            [request.seeds[row] for row in rows],
            self._resolve_grid(request, embedded),
        )
        return {name: ids[key] for name, key in request.output_keys.items()}

    def _logits(self, request: GenerationRequest, rows: list[int]) -> tuple[Tensor, PatchGrid]:
        (key,) = request.output_keys.values()
        if is_sequence_key(key):
            raise ModelError(
                f"{join_names(request.output_keys)} has no positions on the grid: call `generate`"
            )
        embedded = self._embed_rows(request, rows)
        grid = self._resolve_grid(request, embedded)
        context = self.model.encode_context(embedded)
        return self.model.logits(context, [key], grid)[0].float(), grid

    def _decode(
        self,
        request: GenerationRequest,
        name: str,
        ids: Tensor,
        rows: list[int],
        diffusion: DiffusionOptions,
    ) -> Tensor:
        """Return an output for the ids of some samples: (B, C, H, W) float32, or degrees (B, 2)."""
        key = request.output_keys[name]
        if is_sequence_key(key):
            return self.tokenizer.get_coords_tokenizer(name).decode(ids).to(ids.device)
        noise = diffusion.noise.get(name)
        values = self.tokenizer.get_decoder(name, key).decode(
            ids,
            noise=None if noise is None else noise[rows],
            timesteps=diffusion.timesteps,
            clamp=diffusion.clamp,
            seed=[request.seeds[row] for row in rows],
        )
        scaling = request.scaling
        return values.float() if scaling is None else scaling.restore_units(key, values.float())
