"""Tokenizers of coordinates and captions.

Coordinates are two words of the vocabulary and an end: `lat=-3.50 lon=7.00 [EOS]`, rounded to a
quarter of a degree. The vocabulary is a file of the `tokenizers` library. For coordinates it is
read as plain JSON; for captions (version 0.1 only) that library splits the sentences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from model.errors import ModelError, WeightsError, join_names
from model.terramind.input_validation import check_tensor

PAD_ID, EOS_ID = 0, 3
"""Ids of [PAD] and [EOS]."""

CAPTION_END = "[S_1]"
"""Word after a caption, before [EOS]."""

STEPS_PER_DEGREE = 4
"""Steps of the grid of coordinates per degree."""

DEGREE_LIMITS = {"lon": 180.0, "lat": 90.0}
"""Largest absolute value of each axis, degrees."""


class CoordsTokenizer:
    """Longitude and latitude to three ids [lat, lon, EOS], and back."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self.eos_id = vocabulary.get("[EOS]")
        word_ids = {
            word: word_id
            for word, word_id in vocabulary.items()
            if _parse_degrees(word) is not None
        }
        if self.eos_id is None or {word[:4] for word in word_ids} != {"lat=", "lon="}:
            raise WeightsError(
                "this is not the vocabulary of coordinates: it needs [EOS] and words such as "
                f"'lat=0.25' and 'lon=-7.50', but has {join_names(vocabulary, 4)}"
            )
        self._word_to_id = word_ids
        self._id_to_word = {word_id: word for word, word_id in word_ids.items()}

    def to_words(self, lonlat: Tensor | Sequence[Sequence[float]]) -> list[tuple[str, str]]:
        """Return the words of coordinates (B, 2), rounded to a quarter of a degree (half to even).

        Args:
            lonlat: degrees [lon, lat].

        Raises:
            ModelError: not (B, 2), or outside -180..180 and -90..90 degrees.
        """
        try:
            degrees = torch.as_tensor(lonlat)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"coordinates (B, 2) as [lon, lat] expected: {error}") from error
        if degrees.ndim != 2 or degrees.shape[1] != 2 or degrees.dtype == torch.bool:
            raise ModelError(
                f"coordinates (B, 2) as [lon, lat] expected, not {_describe_tensor(degrees)}"
            )
        return [
            (_format_word("lat", latitude), _format_word("lon", longitude))
            for longitude, latitude in degrees.double().tolist()
        ]

    def encode(self, lonlat: Tensor | Sequence[Sequence[float]]) -> Tensor:
        """Return the ids (B, 3) int64, [lat, lon, EOS], of coordinates (B, 2), [lon, lat].

        Args:
            lonlat: degrees east and north.

        Raises:
            ModelError: not (B, 2), out of range, or a word that the vocabulary lacks.
        """
        pairs = self.to_words(lonlat)
        lacking = sorted({word for pair in pairs for word in pair if word not in self._word_to_id})
        if lacking:
            raise ModelError(f"the vocabulary of coordinates has no word for {join_names(lacking)}")
        rows = [
            [self._word_to_id[latitude], self._word_to_id[longitude], self.eos_id]
            for latitude, longitude in pairs
        ]
        return torch.tensor(rows, dtype=torch.long).reshape(-1, 3)

    def decode(self, ids: Tensor) -> Tensor:
        """Return coordinates (B, 2) float32, [lon, lat] in degrees, of ids (B, L), L at least 2.

        A row whose first two ids are not a latitude and a longitude gives NaN.

        Raises:
            ModelError: another shape, or not whole numbers.
        """
        check_tensor("token ids", ids)
        if ids.ndim != 2 or ids.shape[1] < 2 or ids.is_floating_point():
            raise ModelError(f"token ids (B, L), L >= 2, expected, not {_describe_tensor(ids)}")
        return torch.tensor([self._decode_lonlat(*row[:2]) for row in ids.tolist()]).reshape(-1, 2)

    def _decode_lonlat(self, first: int, second: int) -> tuple[float, float]:
        latitude, longitude = self._id_to_word.get(first, ""), self._id_to_word.get(second, "")
        if not (latitude.startswith("lat=") and longitude.startswith("lon=")):
            return math.nan, math.nan
        return float(longitude[4:]), float(latitude[4:])


class CaptionsTokenizer:
    """Captions to ids, for version 0.1 of TerraMind: the text, [S_1], and the end."""

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer  # noqa: PLC0415

            # ^ an extra: no model of version 1 takes captions
        except ImportError as error:
            raise ModelError(
                "captions need the package tokenizers: pip install 'terramosaic[captions]'"
            ) from error
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            # ^ the library raises bare Exceptions
            raise WeightsError(f"{path} is not a vocabulary of `tokenizers`: {error}") from error
        if self._tokenizer.token_to_id(CAPTION_END) is None:
            raise WeightsError(
                f"the vocabulary {path} lacks {CAPTION_END}: it belongs to another model"
            )

    def encode(self, texts: Sequence[str], length: int | None = None) -> Tensor:
        """Return the ids (B, L) int64 of captions; shorter ones are padded with 0.

        Args:
            texts: one caption for each sample.
            length: L; None = that of the longest caption.

        Raises:
            ModelError: a single string, no text, or one that is longer than `length`.
        """
        if isinstance(texts, str) or not texts:
            raise ModelError("a list of captions expected, one for each sample")
        rows = [[*self._tokenizer.encode(f"{text} {CAPTION_END}").ids, EOS_ID] for text in texts]
        width = max(len(row) for row in rows) if length is None else length
        for text, row in zip(texts, rows, strict=True):
            if len(row) > width:
                raise ModelError(f"{text[:40]!r}… has {len(row)} ids, more than {width}")
        return torch.tensor([row + [PAD_ID] * (width - len(row)) for row in rows], dtype=torch.long)

    def decode(self, ids: Tensor) -> list[str]:
        """Return the captions of ids (B, L), each up to its end."""
        check_tensor("token ids", ids)
        if ids.ndim != 2 or ids.is_floating_point():
            raise ModelError(f"token ids (B, L) expected, not {_describe_tensor(ids)}")
        rows = [row[: row.index(EOS_ID)] if EOS_ID in row else row for row in ids.tolist()]
        return [str(self._tokenizer.decode(row, skip_special_tokens=True)) for row in rows]


def _format_word(axis: str, degrees: float) -> str:
    limit = DEGREE_LIMITS[axis]
    if not -limit <= degrees <= limit:
        # ^ NaN is out of range as well
        raise ModelError(
            f"{axis}={degrees:g} is outside -{limit:g}..{limit:g} degrees; coordinates are given "
            "as [lon, lat]"
        )
    nearest = round(degrees * STEPS_PER_DEGREE) / STEPS_PER_DEGREE
    return f"{axis}={nearest + 0.0:.2f}"
    # ^ adding zero turns -0.0 into 0.0: the vocabulary has no "lat=-0.00"


def _parse_degrees(word: str) -> float | None:
    try:
        return float(word[4:]) if word.startswith(("lat=", "lon=")) else None
    except ValueError:
        return None


def _describe_tensor(values: Tensor) -> str:
    return f"{tuple(values.shape)} of {values.dtype}"
