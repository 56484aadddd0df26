"""Tokenizers: a raster to token ids, and ids back to a raster.

    pixels -> transformer -> five numbers a patch -> rounded (`fsq`) -> one id a patch
    ids -> codes -> U-Net from noise (`unet`, `ddim`); land cover: a transformer, class scores

Parameter names are those of the published checkpoints. A half can be built alone: a model that
generates needs decoders only, one that takes tokens as input needs encoders only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from model.errors import ModelError, join_names
from model.terramind.layers import CheckpointModule
from model.terramind.modalities import LULC_CLASSES, PATCH_SIZE, RASTER_MODALITIES
from model.terramind.tokenizers import ddim
from model.terramind.tokenizers.config import TokenizerConfig
from model.terramind.tokenizers.diffusion_unet import UNet
from model.terramind.tokenizers.vit import PointwiseConv, ViTDecoder, ViTEncoder
from model.terramind.validation import check_standardised, check_tensor
from model.weights.initialise import skip_init
from model.weights.loading import WeightSource, load_weights

TokenizerPart = Literal["both", "encoder", "decoder"]
TOKENIZER_PARTS = ("both", "encoder", "decoder")

_PART_PREFIXES = {
    "encoder": ("encoder.", "quant_proj."),
    "decoder": ("decoder.", "post_quant_proj."),
}


class Tokenizer(CheckpointModule):
    """The tokenizer of one raster modality.

    State-dict keys and shapes are the published ones. Of `part="encoder"` they are those of the
    published encoder-only models for all modalities; the reference's own LULC model of that kind
    cannot load its file, because `post_quant_proj` is in it, which belongs to the decoder.
    """

    def __init__(self, config: TokenizerConfig, part: TokenizerPart = "both") -> None:
        super().__init__()
        if part not in TOKENIZER_PARTS:
            raise ModelError(f"unknown part {part!r}; known are {join_names(TOKENIZER_PARTS)}")
        self.config, self.part = config, part
        self.modality, self.channels = config.modality, config.channels
        self.quantizer = config.quantizer
        self.vocab_size = self.quantizer.codebook_size
        digits = len(self.quantizer.levels)
        if part != "decoder":
            self.encoder = ViTEncoder(config.architecture, self.channels, config.image_size)
            self.quant_proj = PointwiseConv(config.dim, digits)
        if part != "encoder":
            if config.has_classes:
                self.post_quant_proj = PointwiseConv(digits, config.dim)
                self.decoder: nn.Module = ViTDecoder(
                    config.architecture, self.channels, config.image_size
                )
            else:
                self.decoder = UNet(config.unet, self.channels, digits)

    def encode_latents(self, x: Tensor) -> Tensor:
        """Return five numbers for each patch, (B, 5, H / 16, W / 16), before rounding.

        Args:
            x: standardised pixels (B, C, H, W), sides multiples of 16; for LULC class indices
                (B, H, W) or (B, 1, H, W), or one channel a class (B, 10, H, W).

        Raises:
            ModelError: another shape, pixels that are not finite, or classes that do not exist.
        """
        self._require_part("encoder")
        check_tensor(self.modality, x)
        pixels = self._to_pixels(x)
        rows, columns = pixels.shape[2] // PATCH_SIZE, pixels.shape[3] // PATCH_SIZE
        tokens: Tensor = self.quant_proj(self.encoder(pixels))
        return tokens.transpose(1, 2).reshape(len(x), -1, rows, columns)

    def quantize(self, latents: Tensor) -> Tensor:
        """Return the ids (B, h, w) int64 of latents (B, 5, h, w), computed in float32."""
        return self.quantizer.latents_to_ids(latents)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the ids (B, H / 16, W / 16) int64 of a raster; see `latents`.

        Raises:
            ModelError: as for `latents`; or pixels that are clearly not standardised.
        """
        check_tensor(self.modality, x)
        if self.modality in RASTER_MODALITIES:
            check_standardised(self.modality, RASTER_MODALITIES[self.modality].key, x)
        return self.quantize(self.encode_latents(x))

    def ids_to_codes(self, ids: Tensor) -> Tensor:
        """Return the codes (B, 5, h, w), float32 in [0, 1], of ids (B, h, w)."""
        check_tensor(f"{self.modality}, token ids", ids)
        return self.quantizer.ids_to_codes(ids)

    @torch.no_grad()
    def decode(
        self,
        ids: Tensor,
        noise: Tensor | None = None,
        timesteps: int = 10,
        clamp: bool = True,
        seed: int | Sequence[int] = 0,
    ) -> Tensor:
        """Return the raster (B, C, 16 * h, 16 * w) of ids (B, h, w).

        LULC gives class scores (logits) and takes no heed of the other arguments; everything else
        gives standardised pixels, float32.

        Args:
            ids: whole numbers below `vocabulary`.
            noise: where the diffusion starts, (B, C, H, W), standard normal; None draws it.
            timesteps: diffusion steps asked for; see `ddim.timesteps` for those taken.
            clamp: cut each prediction to one standard deviation around the mean, as published.
                It caps DEM at 1622 m, NDVI at 0.65, S1GRD VV at -7.4 dB. False leaves it.
            seed: of the noise drawn; one for all samples, or one for each. A sample's noise
                depends on its seed and its size alone.

        Raises:
            ModelError: ids, noise, steps or seeds that do not fit, or a size that the U-Net
                cannot halve often enough: sides must be multiples of 32 px.
        """
        self._require_part("decoder")
        codes = self.ids_to_codes(ids)
        if self.config.has_classes:
            return self.class_logits(codes)
        shape = self._image_shape(codes)
        taken = ddim.make_steps(timesteps)
        if noise is None:
            noise = ddim.draw_noise(shape, seed).to(codes.device)
        else:
            check_tensor(f"{self.modality}, noise", noise)
            if tuple(noise.shape) != shape:
                raise ModelError(f"noise {shape} expected, not {tuple(noise.shape)}")
            ddim.check_noise(noise)
        return self._diffuse(codes, noise.to(codes.device), taken, clamp=clamp)

    def class_logits(self, codes: Tensor) -> Tensor:
        """Return the class scores (B, 10, H, W) of land cover's codes (B, 5, h, w).

        Codes need not be those of ids: the mean code of several candidates is a point between.

        Raises:
            ModelError: this is no tokenizer of land cover.
        """
        self._require_part("decoder")
        if not self.config.has_classes:
            raise ModelError(f"{self.modality} has no class scores; use decode")
        tokens = codes.flatten(2).transpose(1, 2).to(self.post_quant_proj.weight.dtype)
        out: Tensor = self.decoder(self.post_quant_proj(tokens), *codes.shape[2:])
        return out

    def denoise(self, x: Tensor, t: int | Tensor, codes: Tensor) -> Tensor:
        """Return the clean image (B, C, H, W) that the U-Net sees in a noisy one.

        Args:
            x: the noisy image, (B, C, H, W).
            t: the step, 0 to 999; or one for each sample, (B,).
            codes: (B, 5, H / 16, W / 16).

        Raises:
            ModelError: land cover has no diffusion; shapes or steps that do not fit.
        """
        unet = self._require_unet()
        if tuple(x.shape) != self._image_shape(codes):
            raise ModelError(
                f"image {self._image_shape(codes)} expected for these codes, not {tuple(x.shape)}"
            )
        steps = torch.as_tensor(t, device=x.device)
        if steps.ndim > 1 or steps.is_floating_point() or (steps.ndim and len(steps) != len(x)):
            raise ModelError(f"t={t!r}: one whole step expected, or one for each sample")
        if not 0 <= int(steps.min()) <= int(steps.max()) < ddim.TRAINING_STEPS:
            raise ModelError(f"t={t!r}: steps lie in 0..{ddim.TRAINING_STEPS - 1}")
        prepared = unet.prepare_steps(steps.reshape(-1), *x.shape[2:])
        condition = unet.embed_codes(codes.to(x.device))
        out: Tensor = unet(x, condition, prepared, None if steps.ndim else 0)
        return out

    def optional_keys(self) -> set[str]:
        """Return the keys that a checkpoint may lack: the position tables."""
        return {name for name, _ in self.named_buffers()}

    def is_ignored_key(self, key: str) -> bool:
        """Tell a key of the half that was not built."""
        return self.part != "both" and key.startswith(
            _PART_PREFIXES["encoder" if self.part == "decoder" else "decoder"]
        )

    def _diffuse(
        self, codes: Tensor, noise: Tensor, steps: Sequence[ddim.DDIMStep], *, clamp: bool
    ) -> Tensor:
        unet = self._require_unet()
        t = torch.tensor([step.t for step in steps], device=noise.device)
        prepared = unet.prepare_steps(t, *noise.shape[2:])
        together = 1 if noise.device.type == "cpu" else max(1, len(noise))
        # ^ convolutions on a CPU add up in an order that depends on the size of the batch, and a
        #   window must give the same bits alone and among others; a batch is hardly quicker there
        parts: list[Tensor] = []
        for start in range(0, len(noise), together):
            condition = unet.embed_codes(codes[start : start + together])
            x = noise[start : start + together]
            for index, step in enumerate(steps):
                x = ddim.advance(x, unet(x, condition, prepared, index), step, clamp=clamp)
            parts.append(x)
        return torch.cat(parts) if parts else noise

    def _require_unet(self) -> UNet:
        self._require_part("decoder")
        if not isinstance(self.decoder, UNet):
            raise ModelError(f"{self.modality} is decoded in one pass, not by diffusion")
        return self.decoder

    def _require_part(self, part: str) -> None:
        if self.part not in ("both", part):
            raise ModelError(
                f"this {self.modality} tokenizer was built with part={self.part!r}; "
                f"build it with part={part!r} or 'both'"
            )

    def _image_shape(self, codes: Tensor) -> tuple[int, ...]:
        sides = tuple(PATCH_SIZE * count for count in codes.shape[2:])
        multiple = self.config.side_multiple
        if any(side % multiple for side in sides):
            raise ModelError(
                f"{self.modality} can be decoded to sides that are multiples of {multiple} px, "
                f"not to {sides}: its U-Net halves the image {len(self.config.unet.multipliers) - 1}"
                f" times. Pad the ids to a multiple of {multiple // PATCH_SIZE} tokens, and crop after"
            )
        return (codes.shape[0], self.channels, *sides)

    def _to_pixels(self, x: Tensor) -> Tensor:
        if self.config.has_classes and (x.ndim == 3 or (x.ndim == 4 and x.shape[1] == 1)):
            x = one_hot(x, self.channels)
        shape = tuple(x.shape)
        if x.ndim != 4 or shape[1] != self.channels:
            forms = f"(B, {self.channels}, H, W)"
            forms += ", (B, 1, H, W) or (B, H, W)" if self.config.has_classes else ""
            raise ModelError(f"{self.modality}: {forms} expected, not {shape}")
        if shape[2] % PATCH_SIZE or shape[3] % PATCH_SIZE or not shape[2] * shape[3]:
            raise ModelError(
                f"{self.modality}: height and width must be multiples of {PATCH_SIZE}, not {shape[2:]}"
            )
        if not self.config.has_classes and not x.is_floating_point():
            raise ModelError(
                f"{self.modality}: standardised pixels expected, not {x.dtype}: subtract the "
                "mean and divide by the deviation first"
            )
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise ModelError(
                f"{self.modality} holds NaN or infinite pixels: attention would spread them to "
                "every token; fill them first (0 after standardisation = the mean)"
            )
        return x


def one_hot(classes: Tensor, count: int = len(LULC_CLASSES)) -> Tensor:
    """Return one channel a class, (B, 10, H, W) float32, of indices (B, H, W) or (B, 1, H, W).

    Raises:
        ModelError: indices that are not whole, or that are no class.
    """
    flat = classes[:, 0] if classes.ndim == 4 else classes
    whole = flat.long()
    if flat.is_floating_point() and not bool((whole == flat).all()):
        raise ModelError("land cover has whole class indices; resample it with nearest neighbour")
    if whole.numel() and not 0 <= int(whole.min()) <= int(whole.max()) < count:
        raise ModelError(
            f"land cover has the classes 0..{count - 1} ({join_names(LULC_CLASSES, count)}), but "
            f"{int(whole.min())}..{int(whole.max())} are given; codes of other products must be "
            "translated first"
        )
    return F.one_hot(whole, count).permute(0, 3, 1, 2).float()


def tokenizer(
    modality_or_config: str | Path | Mapping[str, Any] | TokenizerConfig,
    weights: WeightSource = None,
    part: TokenizerPart = "both",
    revision: str | None = None,
) -> Tokenizer:
    """Build the tokenizer of a raster modality, ready for use.

    Args:
        modality_or_config: S2L2A, S1GRD, S1RTC, DEM, NDVI or LULC; a published name
            (terramind_v1_tokenizer_s2l2a); a mapping with `modality` and sizes; a .yaml file.
        weights: None, hub, a path, a state dict, {random: seed} or {path: …, sha256: …}.
        part: both halves, or one: the other's weights are neither built nor asked for.
        revision: of the hub repository.

    Raises:
        ModelError: anything unknown. WeightsError: weights that do not fit.
    """
    size = TokenizerConfig.parse(modality_or_config)
    with skip_init(enabled=weights is not None):
        built = Tokenizer(size, part)
    return load_weights(built, weights, size.name, revision).eval()
