"""Merge low-rank adapters (LoRA, DoRA) into the weights that they adapt.

PEFT wraps a backbone and stores next to each adapted weight W two narrow matrices A and B. The
adapted weight is W + s B A, with s = alpha / r, or alpha / sqrt(r) if ranks are stabilised. DoRA
also stores the length of each row, to which the sum is scaled.

Sources: Hu et al. 2021, arXiv:2106.09685; Liu et al. 2024, arXiv:2402.09353; Kalajdzievski 2023,
arXiv:2312.03732 (stabilised ranks).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.errors import ModelError, WeightsError, join_names

_WRAPPER = "base_model.model."
_DEFAULT_ALPHA = 8
# ^ of PEFT
_ADAPTER_KEY = re.compile(
    r"(?P<owner>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)\.(?P<adapter>[^.]+)"
    r"(\.(?P<kind>weight|bias))?$"
)
_SAVED_KEY = re.compile(r"(?P<owner>.+)\.modules_to_save\.(?P<adapter>[^.]+)\.(?P<rest>.+)$")
_OTHER_METHODS = ("lora_", "ia3_", "vera_", "adaption_", "prompt_", "hada_", "lokr_", "oft_")
# ^ first letters of the parts of keys of other methods, and of other kinds of layers

_QKV = ("q_linear", "k_linear", "v_linear")
# ^ TerraTorch splits the projection to queries, keys and values before adapting parts of it


def merge_adapters(
    tensors: Mapping[str, Tensor], peft_config: Mapping[str, Any] | None
) -> dict[str, Tensor]:
    """Return tensors with adapters merged, under the keys of the model without adapters.

    Split projections are joined, also where adapters were merged before the file was written.

    Args:
        tensors: of a checkpoint, without wrappers' prefixes.
        peft_config: `peft_config` of the training, with the scale of the adapters; None if unknown.

    Raises:
        WeightsError: adapters of another method than LoRA, or tensors that do not belong together.
        ModelError: the scale of the adapters is not known.
    """
    plain: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    names: set[str] = set()
    for key, value in tensors.items():
        clean_key = key.replace(_WRAPPER, "")
        adapter, saved = _ADAPTER_KEY.match(clean_key), _SAVED_KEY.match(clean_key)
        if adapter:
            names.add(adapter["adapter"])
            part = f"{adapter['part']}.{adapter['kind'] or 'weight'}"
            parts.setdefault(adapter["owner"], {})[part] = value
        elif saved:
            names.add(saved["adapter"])
            plain[f"{saved['owner']}.{saved['rest']}"] = value
        elif ".original_module." not in clean_key:
            plain[clean_key.replace(".base_layer.", ".")] = value
    _check_method(plain, names)
    if parts:
        scales = _Scales(peft_config)
        for owner, matrices in parts.items():
            _merge_layer(plain, owner, matrices, scales)
    return _join_projections(plain)


class _Scales:
    """The factor of each adapter, from PEFT's configuration."""

    def __init__(self, peft_config: Mapping[str, Any] | None) -> None:
        if not peft_config:
            raise ModelError(
                "the checkpoint holds LoRA adapters, and their scale (peft_config with lora_alpha) "
                "is in its hyper-parameters, which it lacks: in a job write `stats: fit.yaml`, the "
                ".yaml of its training (in Python also `hyper_parameters`)"
            )
        options = peft_config.get("peft_config_kwargs") or {}
        self._alpha = options.get("lora_alpha", _DEFAULT_ALPHA)
        self._alpha_pattern = options.get("alpha_pattern") or {}
        self._is_stabilised = bool(options.get("use_rslora"))

    def get(self, owner: str, rank: int) -> float:
        """Return the factor of the adapter of a layer."""
        alpha = next(
            (
                value
                for pattern, value in self._alpha_pattern.items()
                if re.match(rf"(.*\.)?({pattern})$", owner)
            ),
            self._alpha,
        )
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise ModelError(f"peft_config: lora_alpha must be a number, not {alpha!r}")
        return float(alpha) / (math.sqrt(rank) if self._is_stabilised else rank)


def _check_method(plain: Mapping[str, Tensor], names: set[str]) -> None:
    keys = [
        key
        for key in plain
        if any(part.startswith(_OTHER_METHODS) for part in key.split(".")[1:])
        # ^ the first part is encoder, decoder, ...
    ]
    if keys:
        raise WeightsError(
            f"the checkpoint holds adapters that are not LoRA of linear layers: "
            f"{join_names(keys, 5)}. Merge them where it was trained and save the result: "
            "task.model.encoder = task.model.encoder.merge_and_unload(); torch.save({'state_dict': "
            "task.state_dict(), 'hyper_parameters': dict(task.hparams)}, 'merged.ckpt')"
        )
    if len(names) > 1:
        raise WeightsError(
            f"the checkpoint holds several adapters, {join_names(sorted(names))}: save it with the "
            "one to use (delete_adapter on the others)"
        )


def _merge_layer(
    plain: dict[str, Tensor], owner: str, matrices: Mapping[str, Tensor], scales: _Scales
) -> None:
    """Add an adapter to the weight of its layer, in place."""
    weight = plain.get(f"{owner}.weight")
    down, up = matrices.get("lora_A.weight"), matrices.get("lora_B.weight")
    if (
        weight is None
        or down is None
        or up is None
        or not weight.ndim == down.ndim == up.ndim == 2
        or (up.shape[0], down.shape[1]) != tuple(weight.shape)
        or up.shape[1] != down.shape[0]
    ):
        raise WeightsError(
            f"the LoRA adapter of {owner} is not complete: base_layer.weight, lora_A and lora_B of "
            "fitting shapes expected. Save the whole task again"
        )
    scale = scales.get(owner, down.shape[0])
    merged = weight.float() + scale * (up.float() @ down.float())
    length = matrices.get("lora_magnitude_vector.weight")
    if length is not None:
        merged = merged * (length.float().flatten() / merged.norm(dim=1))[:, None]
    plain[f"{owner}.weight"] = merged.to(weight.dtype)
    bias = matrices.get("lora_B.bias")
    if bias is not None:
        plain_bias = plain.get(f"{owner}.bias")
        plain[f"{owner}.bias"] = scale * bias if plain_bias is None else plain_bias + scale * bias


def _join_projections(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the separate projections to queries, keys and values to one."""
    first = f".{_QKV[0]}."
    joined = {
        key: value for key, value in tensors.items() if not any(f".{name}." in key for name in _QKV)
    }
    for key in tensors:
        if first not in key:
            continue
        keys = [key.replace(first, f".{name}.") for name in _QKV]
        missing = [name for name in keys if name not in tensors]
        if missing:
            raise WeightsError(f"the checkpoint lacks {join_names(missing)} beside {key}")
        joined[key.replace(first, ".")] = torch.cat([tensors[name] for name in keys])
    return joined
