"""What a generator was asked, looked at as a whole before the first sample is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from model.errors import ModelError, join_names
from model.terramind.decoder import PatchGrid
from model.terramind.embeddings import check_finite
from model.terramind.generation.sampling import Seeds, expand_seeds
from model.terramind.generation.standardise import Scaling, check_units
from model.terramind.modalities import (
    MODALITIES_BY_KEY,
    PATCH_SIZE,
    TARGET_MODALITIES,
    RasterModality,
    find_modality_key,
    find_target_key,
    get_target_modality,
)
from model.terramind.validation import check_is_mapping, check_standardised, check_tensor

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorSpec:
    """What a generator takes and makes: official keys by the names they were declared with."""

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
        """Return a request that can be met.

        Args:
            inputs: by any name of theirs.
            outputs: as `wanted` returns them.
            seed: one for all samples, or one for each.
            scaling: None where the inputs are standardised.
            tokens: ids of outputs that are there already.
            size: (H, W) where no input tells.

        Raises:
            ModelError: inputs that are unknown, given twice, differ in number, are not finite, or
                in a wrong unit; an output that is an input; a size that is no number of patches.
        """
        given = self._resolve_inputs(inputs)
        again = [name for name, key in outputs.items() if key in map(self.input_keys.get, given)]
        if again:
            raise ModelError(
                f"{join_names(again)} given and asked for: nothing is left to generate"
            )
        check_finite(given)
        for name, value in given.items():
            check = check_standardised if scaling is None else check_units
            check(name, self.input_keys[name], value)
        return GenerationRequest(
            input_tensors=given,
            input_keys={name: self.input_keys[name] for name in given},
            output_keys=outputs,
            tokens={
                self.resolve_outputs([name])[name]: ids for name, ids in (tokens or {}).items()
            },
            seeds=expand_seeds(seed, len(next(iter(given.values())))),
            scaling=scaling,
            grid=_parse_size(size),
        )

    def resolve_outputs(self, outputs: Sequence[str] | None) -> dict[str, str]:
        """Return the official keys of outputs by the names they are asked with; None = all.

        Raises:
            ModelError: none, an unknown one, or one twice.
        """
        if outputs is None:
            return dict(self.output_keys)
        if isinstance(outputs, str) or not outputs:
            raise ModelError(f"outputs {outputs!r}: a list, of {join_names(self.output_keys, 9)}")
        wanted = {
            name: self.output_keys.get(name) or find_target_key(name) or "" for name in outputs
        }
        unknown = [name for name, key in wanted.items() if key not in self.output_keys.values()]
        if unknown or len(set(wanted.values())) < len(outputs):
            raise ModelError(
                f"outputs {join_names(outputs)}: each once, of those that this generator was built "
                f"for: {join_names(self.output_keys, 9)}"
            )
        return wanted

    def _resolve_inputs(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the inputs in the order they were declared in: another order changes bits."""
        check_is_mapping(inputs, self.input_keys)
        given: dict[str, Tensor] = {}
        for user, value in inputs.items():
            key = self.input_keys.get(user, find_modality_key(user))
            name = next((name for name, own in self.input_keys.items() if own == key), None)
            if name is None or name in given:
                why = "is given twice" if name else "is not among them"
                raise ModelError(
                    f"this generator takes {join_names(self.input_keys, 9)}: {user!r} {why}"
                )
            check_tensor(name, value)
            given[name] = value
        if not given:
            raise ModelError(
                f"no input given; this generator takes {join_names(self.input_keys, 9)}"
            )
        sizes = {name: len(value) if value.ndim else 0 for name, value in given.items()}
        if len(set(sizes.values())) > 1 or not min(sizes.values()):
            raise ModelError(f"the batch sizes differ, or are zero: {sizes}")
        return {name: given[name] for name in self.input_keys if name in given}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What was asked, looked at once, before the first sample is computed."""

    input_tensors: Mapping[str, Tensor]
    """Inputs by the names that they were declared with."""

    input_keys: Mapping[str, str]
    """Their official keys."""

    output_keys: Mapping[str, str]
    """Official keys of what is wanted, by the names it was asked with."""

    tokens: Mapping[str, Tensor]
    """Ids that are there already, (B, h, w), by official key."""

    seeds: Sequence[int]
    """One for each sample."""

    scaling: Scaling | None
    """None where everything is standardised already."""

    grid: PatchGrid | None
    """Rows and columns of tokens where no input tells."""

    def raster_inputs(self) -> dict[str, Tensor]:
        """Return the inputs that are given as pixels, (B, C, H, W)."""
        known = {name: MODALITIES_BY_KEY.get(key) for name, key in self.input_keys.items()}
        return {n: v for n, v in self.input_tensors.items() if isinstance(known[n], RasterModality)}

    def iter_chunks(self, count: int) -> Iterator[tuple[list[int], int]]:
        """Yield the rows of each chunk of `count`, the last filled up, and how many are meant."""
        batch = len(self.seeds)
        for start in range(0, batch, count):
            kept = min(count, batch - start)
            yield [start + min(place, kept - 1) for place in range(count)], kept


def _parse_size(size: object) -> PatchGrid | None:
    """Return the rows and columns of tokens of an image of a size (H, W); None for none."""
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
            f"size={size!r}: (H, W) in px expected, multiples of {PATCH_SIZE} (of 32 where an output is "
            f"made by diffusion) from {PATCH_SIZE} on, such as (224, 224)"
        )
    return sides[0] // PATCH_SIZE, sides[1] // PATCH_SIZE


def resolve_output_keys(outputs: Sequence[str]) -> dict[str, str]:
    """Return the official key of each output, by the name it was declared with.

    Raises:
        ModelError: none, one that cannot be generated, or one twice.
    """
    if isinstance(outputs, str) or not outputs:
        raise ModelError(f"give a list of outputs, of {join_names(TARGET_MODALITIES, 9)}")
    keys = {name: get_target_modality(name).key for name in outputs}
    if len(set(keys.values())) < len(outputs):
        raise ModelError(f"outputs {join_names(outputs)}: one is declared twice")
    return keys
