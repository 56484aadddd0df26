"""The tokenizers that a model carries."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from model.errors import ModelError
from model.terramind.modalities import MODALITIES_BY_KEY, TokenModality
from model.terramind.tokenizers.coordinates import CoordsTokenizer
from model.terramind.tokenizers.tokenizer import Tokenizer


class Tokenizers(nn.ModuleDict):
    """Tokenizers of rasters by official key, and the tokenizer of coordinates."""

    def __init__(
        self,
        rasters: Mapping[str, Tokenizer] | None = None,
        coordinates: CoordsTokenizer | None = None,
    ) -> None:
        super().__init__(dict(rasters or {}))
        self.coordinates = coordinates

    def get_raster_tokenizer(self, key: str) -> Tokenizer | None:
        """Return the tokenizer of a raster modality, or None if it is not here."""
        tokenizer = dict(self.items()).get(key)
        return tokenizer if isinstance(tokenizer, Tokenizer) else None

    def get_decoder(self, name: str, key: str) -> Tokenizer:
        """Return the tokenizer that decodes an output's tokens to a raster.

        Raises:
            ModelError: it is not here, or without its decoder.
        """
        tokenizer = self.get_raster_tokenizer(key)
        if tokenizer is None or tokenizer.part == "encoder":
            raise ModelError(
                f"{name}: this model has no tokenizer to decode its tokens to a raster; build the "
                "generator with tokenizers={…}, or call `generate_tokens`"
            )
        return tokenizer

    def get_coords_tokenizer(self, name: str) -> CoordsTokenizer:
        """Return the tokenizer that decodes tokens to degrees.

        Raises:
            ModelError: it is not here.
        """
        if self.coordinates is None:
            raise ModelError(
                f"{name}: this model has no tokenizer of coordinates to decode tokens to degrees; "
                "build the generator with tokenizers={'Coords': …}, or call `generate_tokens`"
            )
        return self.coordinates

    def takes_raw(self, key: str, value: Tensor) -> bool:
        """Return whether a value is to be tokenised: a raster or degrees, and not token ids."""
        modality = MODALITIES_BY_KEY.get(key)
        if not isinstance(modality, TokenModality):
            return False
        if modality.is_sequence:
            return value.is_floating_point()
        return self.get_raster_tokenizer(key) is not None

    def tokenize(self, name: str, key: str, value: Tensor) -> Tensor:
        """Return the token ids of a value; pixels of a raster modality and ids as they are.

        Args:
            name: the modality, as the caller names it.
            key: its official key.
            value: of a token modality that has a tokenizer here, a standardised raster
                (B, C, H, W), or class indices or one channel a class for LULC; for coordinates
                degrees (B, 2) lon, lat, or ids (B, L); else anything.

        Raises:
            ModelError: degrees without a tokenizer of coordinates, or a value that the tokenizer
                refuses.
        """
        if not self.takes_raw(key, value):
            return value
        tokenizer = self.get_raster_tokenizer(key)
        return self._tokenize_coords(name, value) if tokenizer is None else tokenizer.encode(value)

    def _tokenize_coords(self, name: str, lonlat: Tensor) -> Tensor:
        if self.coordinates is None:
            raise ModelError(
                f"{name}: degrees are given, but this model has no tokenizer of coordinates; "
                "build it with tokenizers={'Coords': …}, or give token ids"
            )
        if lonlat.ndim != 2 or lonlat.shape[1] != 2:
            raise ModelError(f"{name}: degrees (B, 2) lon, lat expected, not {tuple(lonlat.shape)}")
        return self.coordinates.encode(lonlat).to(lonlat.device)
