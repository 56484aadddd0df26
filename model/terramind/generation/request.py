"""What a generator was asked, looked at as a whole before the first sample is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from model.errors import ModelError, listed
from model.terramind.decoder import Grid
from model.terramind.embeddings import refuse_holes
from model.terramind.generation.sampling import Seeds, each
from model.terramind.generation.standardise import Scaling, check_units
from model.terramind.modalities import KEYS, PATCH, TARGETS, Modality, key_of, target, target_key_of
from model.terramind.validation import check_named, check_standardised, check_tensor

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a generator takes and makes: official keys by the names they were declared with."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    def request(
        self,
        inputs: Inputs,
        outputs: Mapping[str, str],
        seed: Seeds,
        scaling: Scaling | None,
        tokens: Inputs | None = None,
        size: tuple[int, int] | None = None,
    ) -> Request:
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
        given = self._given(inputs)
        again = [name for name, key in outputs.items() if key in map(self.inputs.get, given)]
        if again:
            raise ModelError(f"{listed(again)} given and asked for: nothing is left to generate")
        refuse_holes(given)
        for name, value in given.items():
            check = check_standardised if scaling is None else check_units
            check(name, self.inputs[name], value)
        return Request(
            given=given,
            inputs={name: self.inputs[name] for name in given},
            outputs=outputs,
            tokens={self.wanted([name])[name]: ids for name, ids in (tokens or {}).items()},
            seeds=each(seed, len(next(iter(given.values())))),
            scaling=scaling,
            grid=_grid(size),
        )

    def wanted(self, outputs: Sequence[str] | None) -> dict[str, str]:
        """Return the official keys of outputs by the names they are asked with; None = all.

        Raises:
            ModelError: none, an unknown one, or one twice.
        """
        if outputs is None:
            return dict(self.outputs)
        if isinstance(outputs, str) or not outputs:
            raise ModelError(f"outputs {outputs!r}: a list, of {listed(self.outputs, 9)}")
        wanted = {name: self.outputs.get(name) or target_key_of(name) or "" for name in outputs}
        unknown = [name for name, key in wanted.items() if key not in self.outputs.values()]
        if unknown or len(set(wanted.values())) < len(outputs):
            raise ModelError(
                f"outputs {listed(outputs)}: each once, of those that this generator was built "
                f"for: {listed(self.outputs, 9)}"
            )
        return wanted

    def _given(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the inputs in the order they were declared in: another order changes bits."""
        check_named(inputs, self.inputs)
        given: dict[str, Tensor] = {}
        for user, value in inputs.items():
            key = self.inputs.get(user, key_of(user))
            name = next((name for name, own in self.inputs.items() if own == key), None)
            if name is None or name in given:
                why = "is given twice" if name else "is not among them"
                raise ModelError(f"this generator takes {listed(self.inputs, 9)}: {user!r} {why}")
            check_tensor(name, value)
            given[name] = value
        if not given:
            raise ModelError(f"no input given; this generator takes {listed(self.inputs, 9)}")
        sizes = {name: len(value) if value.ndim else 0 for name, value in given.items()}
        if len(set(sizes.values())) > 1 or not min(sizes.values()):
            raise ModelError(f"the batch sizes differ, or are zero: {sizes}")
        return {name: given[name] for name in self.inputs if name in given}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked, looked at once, before the first sample is computed."""

    given: Mapping[str, Tensor]
    """Inputs by the names that they were declared with."""

    inputs: Mapping[str, str]
    """Their official keys."""

    outputs: Mapping[str, str]
    """Official keys of what is wanted, by the names it was asked with."""

    tokens: Mapping[str, Tensor]
    """Ids that are there already, (B, h, w), by official key."""

    seeds: Sequence[int]
    """One for each sample."""

    scaling: Scaling | None
    """None where everything is standardised already."""

    grid: Grid | None
    """Rows and columns of tokens where no input tells."""

    def images(self) -> dict[str, Tensor]:
        """Return the inputs that are given as pixels, (B, C, H, W)."""
        known = {name: KEYS.get(key) for name, key in self.inputs.items()}
        return {n: v for n, v in self.given.items() if isinstance(known[n], Modality)}

    def chunks(self, count: int) -> Iterator[tuple[list[int], int]]:
        """Yield the rows of each chunk of `count`, the last filled up, and how many are meant."""
        batch = len(self.seeds)
        for start in range(0, batch, count):
            kept = min(count, batch - start)
            yield [start + min(place, kept - 1) for place in range(count)], kept


def _grid(size: object) -> Grid | None:
    """Return the rows and columns of tokens of an image of a size (H, W); None for none."""
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if len(sides) != 2 or not whole or any(side < PATCH or side % PATCH for side in sides):
        raise ModelError(
            f"size={size!r}: (H, W) in px expected, multiples of {PATCH} (of 32 where an output is "
            f"made by diffusion) from {PATCH} on, such as (224, 224)"
        )
    return sides[0] // PATCH, sides[1] // PATCH


def declared_outputs(outputs: Sequence[str]) -> dict[str, str]:
    """Return the official key of each output, by the name it was declared with.

    Raises:
        ModelError: none, one that cannot be generated, or one twice.
    """
    if isinstance(outputs, str) or not outputs:
        raise ModelError(f"give a list of outputs, of {listed(TARGETS, 9)}")
    keys = {name: target(name).key for name in outputs}
    if len(set(keys.values())) < len(outputs):
        raise ModelError(f"outputs {listed(outputs)}: one is declared twice")
    return keys
