"""From the tokens of what was asked to rasters and degrees, in the units asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from model.errors import ModelError
from model.terramind.embeddings import Coordinates, Tokenizers
from model.terramind.generation.request import Request
from model.terramind.generation.sampler import in_words
from model.terramind.modalities import PATCH
from model.terramind.tokenizers import ddim
from model.terramind.tokenizers.tokenizer import Tokenizer
from model.terramind.validation import check_tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffusion:
    """How tokens become pixels; see `Tokenizer.decode`."""

    timesteps: int
    clamp: bool
    noise: Mapping[str, Tensor]
    """Where it starts, (B, C, H, W), by the name of the output."""


def raster(
    tokenizers: Tokenizers,
    asked: Request,
    name: str,
    ids: Tensor,
    rows: list[int],
    diffusion: Diffusion,
) -> Tensor:
    """Return an output for the ids of some rows: (B, C, H, W) float32, or degrees (B, 2)."""
    key = asked.outputs[name]
    if in_words(key):
        return places(tokenizers, name).decode(ids).to(ids.device)
    noise = diffusion.noise.get(name)
    made = decoder(tokenizers, name, key).decode(
        ids,
        noise=None if noise is None else noise[rows],
        timesteps=diffusion.timesteps,
        clamp=diffusion.clamp,
        seed=[asked.seeds[row] for row in rows],
    )
    return made.float() if asked.scaling is None else asked.scaling.restored(key, made.float())


def check(tokenizers: Tokenizers, asked: Request, diffusion: Diffusion) -> None:
    """Refuse now what would fail after the tokens are made.

    Raises:
        ModelError: a tokenizer that is not here, a size it cannot make, a number of steps that
            there cannot be, noise for nothing or that is not finite.
    """
    ddim.timesteps(diffusion.timesteps)
    for name, key in asked.outputs.items():
        if in_words(key):
            places(tokenizers, name)
        else:
            _check_sides(asked, name, decoder(tokenizers, name, key).size.multiple)
    for name, noise in diffusion.noise.items():
        check_tensor(f"noise of {name!r}", noise)
        if name not in asked.outputs or noise.ndim != 4 or len(noise) != len(asked.seeds):
            raise ModelError(
                f"noise of {name!r} {tuple(noise.shape)}: (B, C, H, W) for an output expected"
            )
        ddim.check_noise(noise)


def decoder(tokenizers: Tokenizers, name: str, key: str) -> Tokenizer:
    """Return what turns an output's tokens into a raster.

    Raises:
        ModelError: it is not here.
    """
    found = tokenizers.raster(key)
    if found is None or found.part == "encoder":
        raise ModelError(
            f"{name}: no tokenizer is here that turns its tokens into a raster; build the "
            "generator with tokenizers={…}, or ask for `tokens`"
        )
    return found


def places(tokenizers: Tokenizers, name: str) -> Coordinates:
    """Return what turns words into degrees.

    Raises:
        ModelError: it is not here.
    """
    if tokenizers.coordinates is None:
        raise ModelError(
            f"{name}: words become degrees by the tokenizer of coordinates; build the generator "
            "with tokenizers={'Coords': …}, or ask for `tokens`"
        )
    return tokenizers.coordinates


def _check_sides(asked: Request, name: str, multiple: int) -> None:
    seen = [tuple(value.shape[2:]) for value in asked.images().values()]
    sides = seen[0] if seen else tuple(PATCH * count for count in asked.grid or ())
    if any(side % multiple for side in sides):
        raise ModelError(
            f"{name} is made in sides that are multiples of {multiple} px, not {sides}: pad the "
            "inputs, and crop after"
        )
