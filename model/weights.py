"""Weights: where they come from, whether they may be trusted, and whether they fit.

Only safetensors and `torch.load(weights_only=True)` are read: a pickle is a program. What fits is
strict: a key that is missing, superfluous or of another shape is an error that names it.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as pack_safetensors
from torch import Tensor, nn

from model.errors import WeightsError, listed
from model.layers import Family

State = Mapping[str, Tensor]
Source = None | str | Path | Mapping[str, Any]
"""None, "hub", a path, {"random": seed}, {"path": p, "sha256": s}, or a state dict."""

_PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_STREAM = 1 << 20
_M = TypeVar("_M", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file of the official publication."""

    repo: str
    file: str

    @property
    def page(self) -> str:
        """Where a person can download it."""
        return f"https://huggingface.co/{self.repo}/blob/main/{self.file}"


HUB: Mapping[str, HubFile] = {
    f"terramind_v1_{size}": HubFile(
        repo=f"ibm-esa-geospatial/TerraMind-1.0-{size}", file=f"TerraMind_v1_{size}.pt"
    )
    for size in ("tiny", "small", "base", "large")
}
"""Official weights by our names."""


def read(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from a pickle that holds tensors only.

    Raises:
        WeightsError: absent, of an unknown kind, not what the digest says, damaged or unsafe.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"weights {path} do not exist: give the path of a .safetensors file")
    if sha256 is not None:
        _check_digest(path, sha256)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in _PICKLED:
        return unwrapped(_read_pickle(path))
    raise WeightsError(f"weights {path}: .safetensors or {listed(_PICKLED)} expected")


def digest_of_file(path: str | Path) -> str:
    """Return the sha256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(_STREAM):
            digest.update(block)
    return digest.hexdigest()


def digest_of_state(state: State) -> str:
    """Return a sha256 over names, types, shapes and values, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write(path: str | Path, state: State) -> str:
    """Write a state dict as safetensors and return the sha256 of the file.

    The file appears under its name only when it is whole.
    """
    path = Path(path)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}
    part = path.with_name(path.name + ".part")
    part.write_bytes(pack_safetensors(plain))
    part.replace(path)
    return digest_of_file(path)


def unwrapped(content: object) -> dict[str, Tensor]:
    """Return the state dict inside a plain or a Lightning checkpoint, without `model.` prefixes.

    Raises:
        WeightsError: there is no state dict in it.
    """
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"no state dict: {type(content).__name__} found instead of tensors")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    wrong = [name for name in content if str(name) not in tensors]
    if wrong:
        raise WeightsError(f"no state dict: {listed(wrong)} are not tensors")
    tensors.pop("criterion.weight", None)
    # ^ Lightning tasks store the weights of their loss beside those of the model
    if all(name.startswith("model.") for name in tensors):
        return {name.removeprefix("model."): value for name, value in tensors.items()}
    return tensors


def load_state(module: _M, source: str | Path | State, sha256: str | None = None) -> _M:
    """Load a state dict with official key names into a module, strictly, and return the module.

    Left out in silence are only parts of the family that the module does not have (decoder,
    tokenizers, other modalities); lacking may be buffers that the module computes itself.

    Raises:
        WeightsError: keys are missing, superfluous or of another shape; all are named.
    """
    content = source if isinstance(source, Mapping) else read(source, sha256)
    tensors = unwrapped(content)
    if isinstance(module, Family):
        tensors = module.translate(tensors)
    fitting = _fitting(module, tensors)
    module.load_state_dict(fitting, strict=False)
    return module


def initialise(module: _M, seed: int) -> _M:
    """Give every parameter a random start that depends on its name and the seed alone."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise WeightsError(f"random weights want a whole number >= 0 as seed, not {seed!r}")
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            mixed = hashlib.sha256(struct.pack("<Q", seed) + name.encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(mixed[:7], "little"))
            parameter.copy_(_start(name, parameter, generator))
    return module


def obtain(module: _M, source: Source, name: str | None = None, revision: str | None = None) -> _M:
    """Fill a module from any kind of source; None leaves it as it is.

    Args:
        module: what is filled.
        source: see `Source`.
        name: the model's name, needed for "hub".
        revision: commit, tag or branch of the hub repository.

    Raises:
        WeightsError: the source is not understood, not available, or does not fit.
    """
    if source is None:
        return module
    if source == "hub":
        return load_state(module, from_hub(name or "", revision))
    if isinstance(source, Mapping):
        return _obtain_mapping(module, source)
    return load_state(module, source)


def from_hub(name: str, revision: str | None = None) -> Path:
    """Return the local path of the official file, downloaded if it is not there yet.

    Raises:
        WeightsError: no official file of that name, or it cannot be had from here.
    """
    if name not in HUB:
        raise WeightsError(f"no official weights for {name!r}; known are {listed(HUB)}")
    wanted = HUB[name]
    try:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415

        # ^ an extra, and slow to import
    except ImportError as error:
        raise WeightsError(_by_hand(wanted, "huggingface_hub is not installed")) from error
    try:
        return Path(hf_hub_download(wanted.repo, wanted.file, revision=revision))
    except Exception as error:
        # ^ offline, proxy, gated, unknown revision: the library has no common base for them, and
        #   the remedy is the same
        raise WeightsError(_by_hand(wanted, f"{type(error).__name__}: {error}")) from error


def _by_hand(wanted: HubFile, reason: str) -> str:
    first = reason.strip().splitlines()[0][:200]
    return (
        f"cannot fetch {wanted.file} from {wanted.repo} ({first}). Download {wanted.page} on a "
        f"machine with access, put it anywhere, and give `weights: /path/to/{wanted.file}`"
    )


def _obtain_mapping(module: _M, source: Mapping[str, Any]) -> _M:
    if set(source) == {"random"}:
        return initialise(module, source["random"])
    if "path" in source and set(source) <= {"path", "sha256"}:
        return load_state(module, Path(source["path"]), source.get("sha256"))
    if source and all(isinstance(value, Tensor) for value in source.values()):
        return load_state(module, source)
    if isinstance(source.get("state_dict"), Mapping):
        return load_state(module, source)
    raise WeightsError(
        f"weights {listed(source)}: hub, a path, {{random: SEED}} or "
        "{path: …, sha256: …} expected"
    )


def _check_digest(path: Path, sha256: str) -> None:
    found = digest_of_file(path)
    if found != sha256.lower():
        raise WeightsError(
            f"weights {path} have sha256 {found}, but {sha256} is pinned: the file is damaged or "
            "another one. Fetch it again, or pin the new digest if you trust it"
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return parse_safetensors(path.read_bytes())
    except SafetensorError as error:
        raise WeightsError(f"weights {path} are damaged ({error}): fetch the file again") from error


def _read_pickle(path: Path) -> object:
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"weights {path} hold more than tensors and are not loaded, because a pickle can run "
            "any program: ask for a .safetensors file"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"weights {path} are damaged ({error}): fetch them again") from error
    return content


def _fitting(module: nn.Module, tensors: State) -> dict[str, Tensor]:
    expected = module.state_dict()
    family = module if isinstance(module, Family) else None
    optional = family.optional_keys() if family else set()
    foreign: Callable[[str], bool] = family.foreign_key if family else _no_key
    missing = [key for key in expected if key not in tensors and key not in optional]
    extra = [key for key in tensors if key not in expected and not foreign(key)]
    fitting = {key: value for key, value in tensors.items() if key in expected}
    other = [
        f"{key} {tuple(value.shape)} instead of {tuple(expected[key].shape)}"
        for key, value in fitting.items()
        if value.shape != expected[key].shape
    ]
    _refuse(type(module).__name__, missing, extra, other)
    return fitting


def _refuse(name: str, missing: Sequence[str], extra: Sequence[str], other: Sequence[str]) -> None:
    parts = [("missing", missing), ("unexpected", extra), ("of another shape", other)]
    told = [f"{len(keys)} {what}: {listed(keys, 5)}" for what, keys in parts if keys]
    if told:
        hint = "; position tables fit image_size 224" if any("pos_emb" in k for k in other) else ""
        raise WeightsError(
            f"the weights do not fit this {name}: {'; '.join(told)}. Check name, modalities and "
            f"merge of the model they were made for{hint}"
        )


def _no_key(_: str) -> bool:
    return False


def _start(name: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    if name.endswith("bias") or "missing_mod_token" in name:
        return torch.zeros(parameter.shape)
    if parameter.ndim == 1:
        return torch.ones(parameter.shape)
        # ^ the scale of a norm
    if name.endswith(("mod_emb", "token_emb.weight")):
        return 0.02 * torch.randn(parameter.shape, generator=generator)
    fan_in = parameter[0].numel()
    fan_out = parameter.shape[0] * parameter[0, 0].numel()
    if name.endswith("qkv.weight"):
        fan_out //= 3
    bound = (6.0 / (fan_in + fan_out)) ** 0.5
    # ^ Glorot and Bengio 2010, the start that the 4M family uses; qkv are three matrices in one
    start: Tensor = bound * (2 * torch.rand(parameter.shape, generator=generator) - 1)
    return start
