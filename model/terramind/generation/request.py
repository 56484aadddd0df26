"""Requests to a generator, checked as a whole before the first sample is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from model.errors import ModelError, join_names
from model.terramind.decoder import PatchGrid
from model.terramind.generation.sampling_strategy import Seeds, expand_seeds
from model.terramind.generation.value_scaling import Scaling
from model.terramind.input_validation import (
    check_batch_sizes,
    check_finite,
    check_is_mapping,
    check_standardised,
    check_tensor,
    check_token_ids,
    check_units,
)
from model.terramind.modalities import (
    MODALITIES_BY_KEY,
    PATCH_SIZE,
    RasterModality,
    TokenModality,
    find_modality_key,
    find_target_key,
    is_sequence_key,
)
from model.terramind.tokenizers import ddim
from model.terramind.tokenizers.collection import Tokenizers

Inputs = Mapping[str, Tensor]
"""Tensors by modality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionOptions:
    """Options of the decoding of tokens to pixels; see `Tokenizer.decode`."""

    timesteps: int
    clamp: bool
    noise: Mapping[str, Tensor]
    """Start of the diffusion, (B, C, H, W), by the name of the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorSpec:
    """Inputs and outputs of a generator: official keys by the names they were declared with."""

    input_keys: Mapping[str, str]
    output_keys: Mapping[str, str]

    def make_request(
        self,
        inputs: Inputs,
        outputs: Mapping[str, str],
        seed: Seeds,
        scaling: Scaling | None,
        tokens: Inputs | None = None,
        size: tuple[int, int] | None = None,
    ) -> GenerationRequest:
        """Return a request whose inputs are checked.

        Args:
            inputs: tensors by any name of the modality.
            outputs: official keys by name, as `resolve_outputs` returns them.
            seed: one for all samples, or one for each.
            scaling: None where the inputs are standardised.
            tokens: ids of outputs that exist already.
            size: (H, W) of the outputs where no input is a raster.

        Raises:
            ModelError: inputs that are unknown, given twice, differ in number, are not finite, or
                in a wrong unit; an output that is an input; a size that is not a number of patches.
        """
        tensors = self._resolve_inputs(inputs)
        input_keys = {name: self.input_keys[name] for name in tensors}
        repeated = [name for name, key in outputs.items() if key in input_keys.values()]
        if repeated:
            raise ModelError(
                f"{join_names(repeated)}: requested as an output, but given as an input: leave out "
                "one of them"
            )
        for name, value in tensors.items():
            check_finite(name, value)
            check_values = check_standardised if scaling is None else check_units
            check_values(name, input_keys[name], value)
        return GenerationRequest(
            input_tensors=tensors,
            input_keys=input_keys,
            output_keys=outputs,
            tokens=self._resolve_tokens(tokens or {}),
            seeds=expand_seeds(seed, len(next(iter(tensors.values())))),
            scaling=scaling,
            grid=_parse_size(size),
        )

    def resolve_outputs(self, outputs: Sequence[str] | None) -> dict[str, str]:
        """Return the official keys of outputs, by the names they are requested with; None = all.

        Raises:
            ModelError: no output, an unknown one, or one twice.
        """
        if outputs is None:
            return dict(self.output_keys)
        if isinstance(outputs, str) or not outputs:
            raise ModelError(f"outputs {outputs!r}: a list, of {join_names(self.output_keys, 9)}")
        keys = {name: self.output_keys.get(name) or find_target_key(name) or "" for name in outputs}
        unknown = [name for name, key in keys.items() if key not in self.output_keys.values()]
        if unknown or len(set(keys.values())) < len(outputs):
            raise ModelError(
                f"outputs {join_names(outputs)}: each once, of those that this generator was built "
                f"for: {join_names(self.output_keys, 9)}"
            )
        return keys

    def _resolve_inputs(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the inputs in the order of their declaration: another order changes bits."""
        check_is_mapping(inputs, self.input_keys)
        known = join_names(self.input_keys, 9)
        tensors: dict[str, Tensor] = {}
        for user_name, value in inputs.items():
            user_key = self.input_keys.get(user_name, find_modality_key(user_name))
            name = next((name for name, key in self.input_keys.items() if key == user_key), None)
            if name is None or name in tensors:
                reason = "is given twice" if name else "is not among them"
                raise ModelError(f"this generator takes {known}: {user_name!r} {reason}")
            check_tensor(name, value)
            tensors[name] = value
        if not tensors:
            raise ModelError(f"no input given; this generator takes {known}")
        check_batch_sizes(tensors)
        return {name: tensors[name] for name in self.input_keys if name in tensors}

    def _resolve_tokens(self, tokens: Inputs) -> dict[str, Tensor]:
        """Return ids of outputs by official key, after a check of their values."""
        resolved: dict[str, Tensor] = {}
        for name, ids in tokens.items():
            check_tensor(name, ids)
            key = self.resolve_outputs([name])[name]
            modality = MODALITIES_BY_KEY.get(key)
            if isinstance(modality, TokenModality):
                check_token_ids(name, ids, modality.vocab_size)
            resolved[key] = ids
        return resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A request whose inputs are checked."""

    input_tensors: Mapping[str, Tensor]
    """Inputs, by the names they were declared with."""

    input_keys: Mapping[str, str]
    """Official keys of the inputs, by the same names."""

    output_keys: Mapping[str, str]
    """Official keys of the outputs, by the names they are requested with."""

    tokens: Mapping[str, Tensor]
    """Ids of outputs that exist already, (B, h, w), by official key."""

    seeds: Sequence[int]
    """One for each sample."""

    scaling: Scaling | None
    """None where inputs and outputs are standardised."""

    grid: PatchGrid | None
    """Rows and columns of tokens where no input is a raster."""

    def raster_inputs(self) -> dict[str, Tensor]:
        """Return the inputs of raster modalities, (B, C, H, W)."""
        return {
            name: value
            for name, value in self.input_tensors.items()
            if isinstance(MODALITIES_BY_KEY.get(self.input_keys[name]), RasterModality)
        }

    def iter_chunks(self, size: int) -> Iterator[tuple[list[int], int]]:
        """Yield the sample indices of each chunk, and how many of them count.

        All chunks have the same size; the last one is filled up with copies of the last sample.
        """
        batch = len(self.seeds)
        for start in range(0, batch, size):
            count = min(size, batch - start)
            yield [start + min(offset, count - 1) for offset in range(size)], count

    def check_decoding(self, tokenizers: Tokenizers, diffusion: DiffusionOptions) -> None:
        """Refuse a request whose tokens could not be decoded.

        Raises:
            ModelError: a tokenizer that is not here, a size that it cannot decode, an impossible
                number of steps, or noise that fits no output or is not finite.
        """
        ddim.timesteps(diffusion.timesteps)
        for name, key in self.output_keys.items():
            if is_sequence_key(key):
                tokenizers.get_coords_tokenizer(name)
            else:
                self._check_sides(name, tokenizers.get_decoder(name, key).config.side_multiple)
        for name, noise in diffusion.noise.items():
            check_tensor(f"noise of {name!r}", noise)
            if name not in self.output_keys or noise.ndim != 4 or len(noise) != len(self.seeds):
                raise ModelError(
                    f"noise of {name!r} {tuple(noise.shape)}: (B, C, H, W) for an output expected"
                )
            ddim.check_noise(noise)

    def _check_sides(self, name: str, multiple: int) -> None:
        images = list(self.raster_inputs().values())
        grid = self.grid or ()
        sides = tuple(images[0].shape[2:]) if images else tuple(PATCH_SIZE * n for n in grid)
        if any(side % multiple for side in sides):
            raise ModelError(
                f"{name} is generated with sides that are multiples of {multiple} px, not {sides}: "
                "pad the inputs, and crop the outputs"
            )


def _parse_size(size: object) -> PatchGrid | None:
    """Return the rows and columns of tokens of an image of (H, W) pixels; None for None."""
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if (
        len(sides) != 2
        or not whole
        or any(side < PATCH_SIZE or side % PATCH_SIZE for side in sides)
    ):
        raise ModelError(
            f"size={size!r}: (H, W) in px expected, multiples of {PATCH_SIZE} (of 32 where an "
            f"output is made by diffusion) from {PATCH_SIZE} on, such as (224, 224)"
        )
    return sides[0] // PATCH_SIZE, sides[1] // PATCH_SIZE
