"""Merge the tokens of several modalities into one grid.

Notation: B batch, N tokens, D width of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.errors import ModelError

Merge = Literal["mean", "max", "concat", "dict"] | None
"""How modalities are merged: mean or maximum over them, side by side, by name, or not at all."""

MERGES = ("mean", "max", "concat", "dict", None)

MergedTokens = Tensor | dict[str, Tensor]
"""(B, N, D); (B, N, modalities * D) for concat; by name for dict."""


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Position of a modality's tokens in the sequence."""

    name: str
    start: int
    stop: int
    is_sequence: bool
    """True for coordinates, which have no place in a grid and are left out of a merge."""


def merge_tokens(
    x: Tensor,
    spans: Sequence[TokenSpan],
    merge: Merge,
    missing_token: Tensor | None = None,
    width: int = 0,
) -> MergedTokens:
    """Merge the tokens (B, N, D) of a sequence.

    Args:
        x: the sequence.
        spans: of its modalities.
        merge: the kind of merge.
        missing_token: for concat, the vector (D,) of a modality that is absent.
        width: for concat, the width of the result.

    Raises:
        ModelError: the images differ in size, or there is none.
    """
    if merge is None:
        return x
    if merge == "dict":
        return {span.name: x[:, span.start : span.stop] for span in spans}
    images = split_images(x, spans, merge)  # each (B, h * w, D)
    if merge == "mean":
        return torch.stack(images).mean(dim=0)
    if merge == "max" or missing_token is None:
        return torch.stack(images).amax(dim=0)
    absent = width // x.shape[2] - len(images)
    token = missing_token.to(x.dtype).expand_as(images[0])
    return torch.cat([*images, *[token] * absent], dim=-1)
    # ^ present modalities first, in the order of the call, then the absent ones: the published
    #   behaviour, which fine-tuned heads rely on


def split_images(x: Tensor, spans: Sequence[TokenSpan], merge: Merge) -> list[Tensor]:
    """Return the tokens of each image, (B, h * w, D); sequences are left out.

    Raises:
        ModelError: the images differ in size, or there is none.
    """
    images = [span for span in spans if not span.is_sequence]
    if len({span.stop - span.start for span in images}) != 1:
        counts = {span.name: span.stop - span.start for span in images}
        raise ModelError(f"merge {merge!r} needs images of one size, but tokens: {counts}")
    return [x[:, span.start : span.stop] for span in images]
