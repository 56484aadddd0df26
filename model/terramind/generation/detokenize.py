"""From the tokens of what was asked to rasters and degrees, in the units asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from model.errors import ModelError
from model.terramind.embeddings import CoordsTokenizerProtocol, Tokenizers
from model.terramind.generation.request import GenerationRequest
from model.terramind.generation.sampler import is_sequence_key
from model.terramind.modalities import PATCH_SIZE
from model.terramind.tokenizers import ddim
from model.terramind.tokenizers.tokenizer import Tokenizer
from model.terramind.validation import check_tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionOptions:
    """How tokens become pixels; see `Tokenizer.decode`."""

    timesteps: int
    clamp: bool
    noise: Mapping[str, Tensor]
    """Where it starts, (B, C, H, W), by the name of the output."""


def decode_output(
    tokenizers: Tokenizers,
    request: GenerationRequest,
    name: str,
    ids: Tensor,
    rows: list[int],
    diffusion: DiffusionOptions,
) -> Tensor:
    """Return an output for the ids of some rows: (B, C, H, W) float32, or degrees (B, 2)."""
    key = request.output_keys[name]
    if is_sequence_key(key):
        return get_coords_tokenizer(tokenizers, name).decode(ids).to(ids.device)
    noise = diffusion.noise.get(name)
    made = get_decoder(tokenizers, name, key).decode(
        ids,
        noise=None if noise is None else noise[rows],
        timesteps=diffusion.timesteps,
        clamp=diffusion.clamp,
        seed=[request.seeds[row] for row in rows],
    )
    return (
        made.float()
        if request.scaling is None
        else request.scaling.restore_units(key, made.float())
    )


def check_request(
    tokenizers: Tokenizers, request: GenerationRequest, diffusion: DiffusionOptions
) -> None:
    """Refuse now what would fail after the tokens are made.

    Raises:
        ModelError: a tokenizer that is not here, a size it cannot make, a number of steps that
            there cannot be, noise for nothing or that is not finite.
    """
    ddim.timesteps(diffusion.timesteps)
    for name, key in request.output_keys.items():
        if is_sequence_key(key):
            get_coords_tokenizer(tokenizers, name)
        else:
            _check_sides(request, name, get_decoder(tokenizers, name, key).config.side_multiple)
    for name, noise in diffusion.noise.items():
        check_tensor(f"noise of {name!r}", noise)
        if name not in request.output_keys or noise.ndim != 4 or len(noise) != len(request.seeds):
            raise ModelError(
                f"noise of {name!r} {tuple(noise.shape)}: (B, C, H, W) for an output expected"
            )
        ddim.check_noise(noise)


def get_decoder(tokenizers: Tokenizers, name: str, key: str) -> Tokenizer:
    """Return what turns an output's tokens into a raster.

    Raises:
        ModelError: it is not here.
    """
    found = tokenizers.get_raster_tokenizer(key)
    if found is None or found.part == "encoder":
        raise ModelError(
            f"{name}: no tokenizer is here that turns its tokens into a raster; build the "
            "generator with tokenizers={…}, or ask for `tokens`"
        )
    return found


def get_coords_tokenizer(tokenizers: Tokenizers, name: str) -> CoordsTokenizerProtocol:
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


def _check_sides(request: GenerationRequest, name: str, multiple: int) -> None:
    seen = [tuple(value.shape[2:]) for value in request.raster_inputs().values()]
    sides = seen[0] if seen else tuple(PATCH_SIZE * count for count in request.grid or ())
    if any(side % multiple for side in sides):
        raise ModelError(
            f"{name} is made in sides that are multiples of {multiple} px, not {sides}: pad the "
            "inputs, and crop after"
        )
