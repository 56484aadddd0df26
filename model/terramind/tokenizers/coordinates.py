"""Places and sentences as token ids, and back.

A place is two words of the vocabulary and an end: `lat=-3.50 lon=7.00 [EOS]`, on a grid of a
quarter of a degree. The vocabulary is a file of the `tokenizers` library; for places it is read as
plain JSON, for sentences (version 0.1 only) that library does the splitting.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import ModelError, WeightsError, join_names
from model.terramind.validation import check_tensor
from model.weights import hub

PAD_ID, EOS_ID = 0, 3
"""Ids of [PAD] and [EOS]."""

SENTINEL_TOKEN = "[S_1]"
"""What stands after a sentence, before its end."""

HUB_NAME = "terramind_v1_tokenizer_coords"

STEPS_PER_DEGREE = 4
"""Places per degree."""

DEGREE_LIMITS = {"lon": 180.0, "lat": 90.0}


class CoordsTokenizer:
    """Longitude and latitude to three ids [lat, lon, EOS], and back."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self.eos_id = vocabulary.get("[EOS]")
        words = {
            word: place for word, place in vocabulary.items() if _parse_degrees(word) is not None
        }
        if self.eos_id is None or {word[:4] for word in words} != {"lat=", "lon="}:
            raise WeightsError(
                "this is not the vocabulary of coordinates: it needs [EOS] and words such as "
                f"'lat=0.25' and 'lon=-7.50', but has {join_names(vocabulary, 4)}"
            )
        self._word_to_id = words
        self._id_to_word = {place: word for word, place in words.items()}

    def to_words(self, lonlat: Tensor | Sequence[Sequence[float]]) -> list[tuple[str, str]]:
        """Return each place's two words, rounded to the quarter of a degree (half to even).

        Raises:
            ModelError: not (B, 2), or outside -180..180 and -90..90 degrees.
        """
        try:
            places = torch.as_tensor(lonlat)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"coordinates (B, 2) as [lon, lat] expected: {error}") from error
        if places.ndim != 2 or places.shape[1] != 2 or places.dtype == torch.bool:
            raise ModelError(
                f"coordinates (B, 2) as [lon, lat] expected, not {_describe_tensor(places)}"
            )
        return [
            (_format_word("lat", latitude), _format_word("lon", longitude))
            for longitude, latitude in places.double().tolist()
        ]

    def encode(self, lonlat: Tensor | Sequence[Sequence[float]]) -> Tensor:
        """Return the ids (B, 3) int64 of places (B, 2): [lon, lat] in, [lat, lon, EOS] out.

        Args:
            lonlat: degrees east and north.

        Raises:
            ModelError: not (B, 2), out of range, or a place that the vocabulary lacks.
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
        """Return places (B, 2) float32, [lon, lat], of ids (B, L), L at least 2.

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
    """Sentences to ids, for version 0.1 of TerraMind: the text, [S_1], and the end."""

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer  # noqa: PLC0415

            # ^ an extra: no version 1 model takes sentences
        except ImportError as error:
            raise ModelError(
                "captions need the package tokenizers: pip install 'terramosaic[captions]'"
            ) from error
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            # ^ the library raises bare Exceptions
            raise WeightsError(f"{path} is not a vocabulary of `tokenizers`: {error}") from error
        if self._tokenizer.token_to_id(SENTINEL_TOKEN) is None:
            raise WeightsError(
                f"the vocabulary {path} lacks {SENTINEL_TOKEN}: it is another model's"
            )

    def encode(self, texts: Sequence[str], length: int | None = None) -> Tensor:
        """Return the ids (B, L) int64; shorter ones are filled up with 0.

        Args:
            texts: one sentence for each sample.
            length: L; None takes that of the longest.

        Raises:
            ModelError: a single string, no text, or one that is longer than `length`.
        """
        if isinstance(texts, str) or not texts:
            raise ModelError("a list of sentences expected, one for each sample")
        rows = [[*self._tokenizer.encode(f"{text} {SENTINEL_TOKEN}").ids, EOS_ID] for text in texts]
        wanted = max(len(row) for row in rows) if length is None else length
        for text, row in zip(texts, rows, strict=True):
            if len(row) > wanted:
                raise ModelError(f"{text[:40]!r}… takes {len(row)} ids, more than {wanted}")
        return torch.tensor(
            [row + [PAD_ID] * (wanted - len(row)) for row in rows], dtype=torch.long
        )

    def decode(self, ids: Tensor) -> list[str]:
        """Return the sentences of ids (B, L), each up to its end."""
        check_tensor("token ids", ids)
        if ids.ndim != 2 or ids.is_floating_point():
            raise ModelError(f"token ids (B, L) expected, not {_describe_tensor(ids)}")
        rows = [row[: row.index(EOS_ID)] if EOS_ID in row else row for row in ids.tolist()]
        return [str(self._tokenizer.decode(row, skip_special_tokens=True)) for row in rows]


def coords_tokenizer(source: str | Path = "hub", revision: str | None = None) -> CoordsTokenizer:
    """Build the tokenizer of coordinates from its vocabulary.

    Args:
        source: hub, or the path of the official `config.json`.
        revision: of the hub repository.

    Raises:
        WeightsError: the file is absent (and where it is to be had), or is another one.
    """
    path = hub.fetch_path(HUB_NAME, revision) if source == "hub" else Path(source)
    return CoordsTokenizer(_read_vocabulary(path))


def captions_tokenizer(source: str | Path) -> CaptionsTokenizer:
    """Build the tokenizer of sentences from its vocabulary, which is published for none but 0.1.

    Raises:
        ModelError: the package `tokenizers` is absent. WeightsError: the file is.
    """
    path = Path(source)
    if not path.is_file():
        raise WeightsError(
            f"no vocabulary of captions at {path}: give the path of the config.json of version "
            "0.1's text tokenizer (its repository is private); version 1 takes no captions"
        )
    return CaptionsTokenizer(path)


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Read the words of a file of the `tokenizers` library: those of its model and those added."""
    wanted = hub.OFFICIAL_FILES[HUB_NAME]
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(
            f"cannot read the vocabulary of coordinates {path} ({error.strerror}). Download "
            f"{wanted.file} of {wanted.repo} from {wanted.page}, put it anywhere, and give its path"
        ) from error
    except ValueError as error:
        raise WeightsError(f"the vocabulary {path} is damaged ({error}): fetch it again") from error
    try:
        words = dict(content["model"]["vocab"])
        words |= {entry["content"]: entry["id"] for entry in content.get("added_tokens") or []}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{path} is not a vocabulary of the `tokenizers` library (no model.vocab): "
            f"{wanted.file} of {wanted.repo} is wanted"
        ) from error
    return {str(word): int(place) for word, place in words.items()}


def _format_word(axis: str, degrees: float) -> str:
    limit = DEGREE_LIMITS[axis]
    if not -limit <= degrees <= limit:
        # ^ NaN is refused as well
        raise ModelError(
            f"{axis}={degrees:g} is outside -{limit:g}..{limit:g} degrees; coordinates are given "
            "as [lon, lat]"
        )
    nearest = round(degrees * STEPS_PER_DEGREE) / STEPS_PER_DEGREE
    return f"{axis}={nearest + 0.0:.2f}"
    # ^ adding zero turns -0.0 into 0.0: "lat=-0.00" is no word


def _parse_degrees(word: str) -> float | None:
    try:
        return float(word[4:]) if word.startswith(("lat=", "lon=")) else None
    except ValueError:
        return None


def _describe_tensor(values: Tensor) -> str:
    return f"{tuple(values.shape)} of {values.dtype}"
