"""Keys of the published checkpoints, and how they map onto the modules of this package.

All parameter and buffer names are the published ones, so that most state dicts load key for key.
The rest of the translation is in this module:

    published file                            our module
    terramind_v1_*, encoder and decoder       Encoder: the decoder's keys are ignored
                                              EncoderDecoder: key for key
                                              Generator: below `sampler.model.`
                                              TiMEncoder: twice, also below `sampler.model.`
    terramind_v1_tokenizer_*                  Tokenizer: the half that is not built is ignored
    projections of all bands                  cut to the bands of the embedding
    keys of a wrapper (`model.`, `module.`)   the wrapper's prefix is removed
    tied tensors                              one name is enough; two names must agree

`model.weights.loading` compares keys strictly. It gets three things from a `CheckpointModule`: the
keys that a checkpoint may lack, the keys that are ignored, and the converted tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from model.terramind.embeddings import RasterEmbedding
from model.terramind.modalities import (
    MODALITIES_BY_KEY,
    PATCH_SIZE,
    RasterModality,
    band_indices,
)

SAMPLER_PREFIX = "sampler.model."
"""Prefix of the encoder-decoder inside a generator or a TiM encoder."""

ENCODER_EMBEDDINGS = "encoder_embeddings."
DECODER_EMBEDDINGS = "decoder_embeddings."
TOKENIZER_PREFIX = "tokenizer."
MISSING_MODALITY_KEY = "missing_mod_token"
"""The vector that stands for an absent modality where modalities are concatenated."""

WRAPPER_PREFIXES = ("model.", "module.", "_orig_mod.")
"""Prefixes of a Lightning task, of a model trained on several GPUs, and of a compiled one."""

LOSS_WEIGHT_KEY = "criterion.weight"
"""Weights of the loss, which Lightning tasks store beside those of the model."""

_DECODER_PREFIXES = (DECODER_EMBEDDINGS, "decoder.", "decoder_norm.", "decoder_proj_context.")
_TOKENIZER_PARTS = {
    "encoder": ("encoder.", "quant_proj."),
    "decoder": ("decoder.", "post_quant_proj."),
}


class CheckpointModule(nn.Module):
    """A module that checkpoints are translated for; by default by its parts alone."""

    def checkpoint_parts(self) -> dict[str, CheckpointModule]:
        """Return the checkpoint modules inside this one, by the prefix of their keys."""
        return {}

    def optional_keys(self) -> set[str]:
        """Return the keys that a checkpoint may lack."""
        return {
            prefix + key
            for prefix, part in self.checkpoint_parts().items()
            for key in part.optional_keys()
        }

    def is_ignored_key(self, key: str) -> bool:
        """Return whether a key belongs to something that this module does not have."""
        return any(
            key.startswith(prefix) and part.is_ignored_key(key.removeprefix(prefix))
            for prefix, part in self.checkpoint_parts().items()
        )

    def convert_state_dict(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors by this module's keys."""
        converted = dict(tensors)
        for prefix, part in self.checkpoint_parts().items():
            own = {
                key.removeprefix(prefix): converted.pop(key)
                for key in tensors
                if key.startswith(prefix)
            }
            converted |= {
                prefix + key: value for key, value in part.convert_state_dict(own).items()
            }
        return converted


class EncoderKeys(CheckpointModule):
    """Keys of `Encoder`."""

    modality_keys: dict[str, str]
    encoder_embeddings: nn.ModuleDict
    tokenizer: nn.ModuleDict

    def checkpoint_parts(self) -> dict[str, CheckpointModule]:
        """Return the tokenizers."""
        return _tokenizer_parts(self.tokenizer)

    def optional_keys(self) -> set[str]:
        """Return the keys of buffers, which are computed, and of the missing modality's vector."""
        buffers = {name for name, _ in self.named_buffers()}
        return buffers | {MISSING_MODALITY_KEY} | super().optional_keys()

    def is_ignored_key(self, key: str) -> bool:
        """Return whether a key is of the decoder, of another modality or of another tokenizer."""
        if key.startswith(tuple(self.checkpoint_parts())):
            return super().is_ignored_key(key)
        if key.startswith(ENCODER_EMBEDDINGS):
            return not _is_embedding_of(key, ENCODER_EMBEDDINGS, self.encoder_embeddings)
        others = ("mask_token", MISSING_MODALITY_KEY, TOKENIZER_PREFIX)
        return key.startswith((*_DECODER_PREFIXES, *others))

    def convert_state_dict(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors, with full projections cut to this encoder's bands."""
        parts = _tokenizer_parts(self.tokenizer)
        converted = super().convert_state_dict(_add_absent_tokenizers(tensors, parts))
        for key, embedding in self.encoder_embeddings.items():
            projection = f"{ENCODER_EMBEDDINGS}{key}.proj.weight"
            if isinstance(embedding, RasterEmbedding) and projection in converted:
                converted[projection] = _cut_projection(key, embedding, converted[projection])
        return converted


class EncoderDecoderKeys(EncoderKeys):
    """Keys of `EncoderDecoder`, which are those of the published encoder-decoder files."""

    decoder_embeddings: nn.ModuleDict

    def optional_keys(self) -> set[str]:
        """Return the keys of buffers, which are computed."""
        return super().optional_keys() - {MISSING_MODALITY_KEY}

    def is_ignored_key(self, key: str) -> bool:
        """Return whether a key is of a modality that is not here, or of a tokenizer."""
        if key.startswith(ENCODER_EMBEDDINGS):
            return not _is_embedding_of(key, ENCODER_EMBEDDINGS, self.encoder_embeddings)
        if key.startswith(DECODER_EMBEDDINGS):
            return not _is_embedding_of(key, DECODER_EMBEDDINGS, self.decoder_embeddings)
        return key.startswith((TOKENIZER_PREFIX, MISSING_MODALITY_KEY))


class GeneratorKeys(CheckpointModule):
    """Keys of `Generator`: an encoder-decoder below `sampler.model.`, and tokenizers."""

    tokenizer: nn.ModuleDict

    @property
    def model(self) -> EncoderDecoderKeys:
        """The encoder-decoder."""
        raise NotImplementedError

    def checkpoint_parts(self) -> dict[str, CheckpointModule]:
        """Return the encoder-decoder and the tokenizers."""
        return {SAMPLER_PREFIX: self.model, **_tokenizer_parts(self.tokenizer)}

    def is_ignored_key(self, key: str) -> bool:
        """Return whether a key is of a modality, a tokenizer or half of one that is not here."""
        if key.startswith(tuple(self.checkpoint_parts())):
            return super().is_ignored_key(key)
        return key.startswith(TOKENIZER_PREFIX)

    def convert_state_dict(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors; those of a plain official file get the prefix."""
        if not any(key.startswith("sampler.") for key in tensors):
            tensors = {
                key if key.startswith(TOKENIZER_PREFIX) else SAMPLER_PREFIX + key: value
                for key, value in tensors.items()
            }
        parts = _tokenizer_parts(self.tokenizer)
        return super().convert_state_dict(_add_absent_tokenizers(tensors, parts))


class TiMEncoderKeys(EncoderKeys):
    """Keys of `TiMEncoder`: those of an encoder, and an encoder-decoder below `sampler.model.`."""

    @property
    def sampler_model(self) -> EncoderDecoderKeys:
        """The encoder-decoder that generates the missing modalities."""
        raise NotImplementedError

    @property
    def has_shared_embeddings(self) -> bool:
        """Whether encoder and sampler have the same embeddings, and not copies of them."""
        raise NotImplementedError

    def separate_embeddings(self) -> None:
        """Give the sampler embeddings of its own."""
        raise NotImplementedError

    def checkpoint_parts(self) -> dict[str, CheckpointModule]:
        """Return the encoder-decoder and the tokenizers."""
        return {SAMPLER_PREFIX: self.sampler_model, **super().checkpoint_parts()}

    def convert_state_dict(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors; those of a plain official file are taken twice.

        A fine-tuned checkpoint holds both. Where it gives an embedding two values, encoder and
        sampler get embeddings of their own.
        """
        if not any(key.startswith(SAMPLER_PREFIX) for key in tensors):
            tensors = tensors | {
                SAMPLER_PREFIX + key: value
                for key, value in tensors.items()
                if not key.startswith((TOKENIZER_PREFIX, MISSING_MODALITY_KEY))
            }
        if self.has_shared_embeddings and _has_two_embeddings(tensors):
            self.separate_embeddings()
        return super().convert_state_dict(tensors)


class TokenizerKeys(CheckpointModule):
    """Keys of `Tokenizer`."""

    part: str

    def optional_keys(self) -> set[str]:
        """Return the keys of the position tables, which are computed."""
        return {name for name, _ in self.named_buffers()}

    def is_ignored_key(self, key: str) -> bool:
        """Return whether a key is of the half that is not built."""
        if self.part == "both":
            return False
        return key.startswith(_TOKENIZER_PARTS["encoder" if self.part == "decoder" else "decoder"])


def unwrap_state_dict(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors without the prefixes of wrappers and weights of the loss."""
    unwrapped = {key: value for key, value in tensors.items() if key != LOSS_WEIGHT_KEY}
    while unwrapped:
        prefix = next(
            (p for p in WRAPPER_PREFIXES if all(key.startswith(p) for key in unwrapped)), None
        )
        if prefix is None:
            break
        unwrapped = {key.removeprefix(prefix): value for key, value in unwrapped.items()}
    return unwrapped


def find_tied_keys(state_dict: Mapping[str, Tensor]) -> list[list[str]]:
    """Return the groups of keys that name one and the same tensor of a module.

    Args:
        state_dict: of a module, made with `keep_vars=True`.
    """
    groups: dict[int, list[str]] = {}
    for key, value in state_dict.items():
        groups.setdefault(id(value), []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


def find_conflicting_keys(
    tied_keys: Iterable[list[str]], tensors: Mapping[str, Tensor]
) -> list[tuple[str, str]]:
    """Return the pairs of tied keys to which a checkpoint gives two values."""
    conflicts: list[tuple[str, str]] = []
    for keys in tied_keys:
        first, *rest = [key for key in keys if key in tensors] or [""]
        conflicts += [(key, first) for key in rest if not torch.equal(tensors[key], tensors[first])]
    return conflicts


def _tokenizer_parts(tokenizers: nn.ModuleDict) -> dict[str, CheckpointModule]:
    return {
        f"{TOKENIZER_PREFIX}{key}.": tokenizer
        for key, tokenizer in tokenizers.items()
        if isinstance(tokenizer, CheckpointModule)
    }


def _add_absent_tokenizers(
    tensors: dict[str, Tensor], parts: Mapping[str, CheckpointModule]
) -> dict[str, Tensor]:
    """Add our own tensors of each tokenizer that a checkpoint lacks altogether.

    The published encoder-decoders come without tokenizers, which have files of their own.
    """
    completed = dict(tensors)
    for prefix, part in parts.items():
        if not any(key.startswith(prefix) for key in tensors):
            completed |= {prefix + key: value for key, value in part.state_dict().items()}
    return completed


def _is_embedding_of(key: str, prefix: str, embeddings: nn.ModuleDict) -> bool:
    return key.removeprefix(prefix).partition(".")[0] in embeddings


def _has_two_embeddings(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether encoder and sampler have different values of an embedding."""
    pairs = [
        (value, tensors[SAMPLER_PREFIX + key])
        for key, value in tensors.items()
        if key.startswith(ENCODER_EMBEDDINGS) and SAMPLER_PREFIX + key in tensors
    ]
    return any(
        first is not second and not first.is_meta and not torch.equal(first, second)
        for first, second in pairs
    )


def _cut_projection(key: str, embedding: RasterEmbedding, weight: Tensor) -> Tensor:
    """Cut a projection of all bands to those of the embedding; return any other one as it is."""
    modality = MODALITIES_BY_KEY.get(key)
    if not isinstance(modality, RasterModality) or len(embedding.bands) == len(modality.bands):
        return weight
    if weight.ndim != 2 or weight.shape[1] != PATCH_SIZE * PATCH_SIZE * len(modality.bands):
        return weight
    return embedding.select_band_weights(weight, band_indices(modality, embedding.bands))
