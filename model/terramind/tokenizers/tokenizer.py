"""Tokenizers: a raster to token ids, and ids back to a raster.

    pixels -> transformer -> five numbers per patch -> rounded (`fsq`) -> one id per patch
    ids -> codes -> U-Net from noise (`diffusion_unet`, `ddim`) -> pixels
                    for land cover a transformer instead -> class scores

Encoder and decoder can be built alone: the outputs of a generator need decoders only, inputs of
token ids need encoders only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import ModelError, join_names
from model.terramind.input_validation import check_finite, check_standardised, check_tensor
from model.terramind.keys import TokenizerKeys
from model.terramind.modalities import LULC_CLASSES, PATCH_SIZE, RASTER_MODALITIES
from model.terramind.tokenizers import ddim
from model.terramind.tokenizers.config import TokenizerConfig
from model.terramind.tokenizers.diffusion_unet import UNet
from model.terramind.tokenizers.vit import PointwiseConv, ViTDecoder, ViTEncoder

TokenizerPart = Literal["both", "encoder", "decoder"]
TOKENIZER_PARTS = ("both", "encoder", "decoder")


class Tokenizer(TokenizerKeys):
    """The tokenizer of one raster modality.

    State-dict keys and shapes are the published ones. With `part="encoder"` they are those of the
    published encoder-only models. (The reference's own LULC model of that kind cannot load its
    file, because `post_quant_proj` is in it, which belongs to the decoder.)
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
        """Return the latents (B, 5, H / 16, W / 16): five numbers per patch, not rounded.

        Args:
            x: standardised pixels (B, C, H, W), sides multiples of 16; for LULC class indices
                (B, H, W) or (B, 1, H, W), or one channel a class (B, 10, H, W).

        Raises:
            ModelError: another shape, pixels that are not finite, or unknown classes.
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
        """Return the ids (B, H / 16, W / 16) int64 of a raster; see `encode_latents`.

        Raises:
            ModelError: as for `encode_latents`; or pixels that are clearly not standardised.
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

        LULC gives class scores (logits) and ignores the other arguments; all other modalities give
        standardised pixels, float32.

        Args:
            ids: whole numbers below `vocab_size`.
            noise: start of the diffusion, (B, C, H, W), standard normal; None draws it.
            timesteps: requested number of diffusion steps; see `ddim.timesteps` for the actual one.
            clamp: clamp each prediction to one standard deviation around the mean, as published.
                It limits DEM to 1622 m, NDVI to 0.65, S1GRD VV to -7.4 dB.
            seed: of the noise; one for all samples, or one for each. The noise of a sample
                depends on its seed and its size only.

        Raises:
            ModelError: ids, noise, steps or seeds that do not fit, or sides that are not multiples
                of 32 px, which the U-Net cannot halve often enough.
        """
        self._require_part("decoder")
        codes = self.ids_to_codes(ids)
        if self.config.has_classes:
            return self.class_logits(codes)
        shape = self._image_shape(codes)
        steps = ddim.make_steps(timesteps)
        if noise is None:
            noise = ddim.draw_noise(shape, seed).to(codes.device)
        else:
            check_tensor(f"{self.modality}, noise", noise)
            if tuple(noise.shape) != shape:
                raise ModelError(f"noise {shape} expected, not {tuple(noise.shape)}")
            ddim.check_noise(noise)
        return self._diffuse(codes, noise.to(codes.device), steps, clamp=clamp)

    def class_logits(self, codes: Tensor) -> Tensor:
        """Return the class scores (B, 10, H, W) of land cover's codes (B, 5, h, w).

        The codes need not be those of ids: a mean code of several ids lies between them.

        Raises:
            ModelError: this is not a tokenizer of land cover.
        """
        self._require_part("decoder")
        if not self.config.has_classes:
            raise ModelError(f"{self.modality} has no class scores; use decode")
        tokens = codes.flatten(2).transpose(1, 2).to(self.post_quant_proj.weight.dtype)
        out: Tensor = self.decoder(self.post_quant_proj(tokens), *codes.shape[2:])
        return out

    def denoise(self, x: Tensor, t: int | Tensor, codes: Tensor) -> Tensor:
        """Return the U-Net's prediction of the clean image (B, C, H, W) from a noisy one.

        Args:
            x: the noisy image, (B, C, H, W).
            t: step of the diffusion, 0 to 999; or one for each sample, (B,).
            codes: (B, 5, H / 16, W / 16).

        Raises:
            ModelError: a tokenizer of land cover; shapes or steps that do not fit.
        """
        unet = self._require_unet()
        if tuple(x.shape) != self._image_shape(codes):
            raise ModelError(
                f"image {self._image_shape(codes)} expected for these codes, not {tuple(x.shape)}"
            )
        steps = torch.as_tensor(t, device=x.device)
        if steps.ndim > 1 or steps.is_floating_point() or (steps.ndim and len(steps) != len(x)):
            raise ModelError(f"t={t!r}: one whole number expected, or one for each sample")
        if not 0 <= int(steps.min()) <= int(steps.max()) < ddim.TRAINING_STEPS:
            raise ModelError(f"t={t!r}: steps lie in 0..{ddim.TRAINING_STEPS - 1}")
        prepared = unet.prepare_steps(steps.reshape(-1), *x.shape[2:])
        condition = unet.embed_codes(codes.to(x.device))
        out: Tensor = unet(x, condition, prepared, None if steps.ndim else 0)
        return out

    def _diffuse(
        self, codes: Tensor, noise: Tensor, steps: Sequence[ddim.DDIMStep], *, clamp: bool
    ) -> Tensor:
        unet = self._require_unet()
        t = torch.tensor([step.t for step in steps], device=noise.device)
        prepared = unet.prepare_steps(t, *noise.shape[2:])
        chunk = 1 if noise.device.type == "cpu" else max(1, len(noise))
        # ^ on a CPU, convolutions sum in an order that depends on the size of the batch, and a
        #   window must have the same bits alone and in a batch; a batch is hardly faster there
        parts: list[Tensor] = []
        for start in range(0, len(noise), chunk):
            condition = unet.embed_codes(codes[start : start + chunk])
            x = noise[start : start + chunk]
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
            halvings = len(self.config.unet.multipliers) - 1
            raise ModelError(
                f"{self.modality} can be decoded to sides that are multiples of {multiple} px, "
                f"not to {sides}: its U-Net halves the image {halvings} times. Pad the ids to a "
                f"multiple of {multiple // PATCH_SIZE} tokens, and crop the result"
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
                f"{self.modality}: height and width must be multiples of {PATCH_SIZE}, "
                f"not {shape[2:]}"
            )
        if not self.config.has_classes and not x.is_floating_point():
            raise ModelError(
                f"{self.modality}: standardised pixels expected, not {x.dtype}: subtract the "
                "mean and divide by the standard deviation first"
            )
        check_finite(self.modality, x)
        return x


def one_hot(classes: Tensor, count: int = len(LULC_CLASSES)) -> Tensor:
    """Return one channel per class, (B, 10, H, W) float32, of indices (B, H, W) or (B, 1, H, W).

    Raises:
        ModelError: indices that are not whole numbers, or not a class.
    """
    values = classes[:, 0] if classes.ndim == 4 else classes
    indices = values.long()
    if values.is_floating_point() and not bool((indices == values).all()):
        raise ModelError("land cover has whole class indices; resample it with nearest neighbour")
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < count:
        raise ModelError(
            f"land cover has the classes 0..{count - 1} ({join_names(LULC_CLASSES, count)}), but "
            f"{int(indices.min())}..{int(indices.max())} are given; translate the codes of other "
            "products first"
        )
    return F.one_hot(indices, count).permute(0, 3, 1, 2).float()
