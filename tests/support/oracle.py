"""Outputs of the reference implementation, and keys and shapes of the published checkpoints.

The parameters of each case are in the folder's `config.json`, so that the same tests run on a
folder made with other seeds, depths, widths and sizes.
"""

from __future__ import annotations

import gzip
import itertools
import json
import lzma
import os
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as parse

ORACLE = os.environ.get("TERRAMOSAIC_ORACLE")
needs_oracle = pytest.mark.skipif(
    not ORACLE, reason="TERRAMOSAIC_ORACLE is unset: no reference numbers to compare with"
)
LISTINGS = Path(ORACLE).parent / "state_dicts" if ORACLE else Path("absent")
needs_listings = pytest.mark.skipif(
    not LISTINGS.is_dir(), reason="no state-dict listings beside TERRAMOSAIC_ORACLE"
)

FEATURES, LOGITS, LATENTS, PIXELS, SEGMENTATION, PRIMITIVES = 1e-5, 2e-5, 1e-5, 1e-4, 1e-5, 1e-6
"""Largest errors allowed, as the folder's README suggests them for single precision."""

MARGIN = 1e-4
"""Token ids must be equal where the latent is farther than this from a rounding boundary."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Run on one thread, which is faster for tiny shapes. Import it to use it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def read_tensors(name):
    """Return the tensors of one file; floating-point ones in float32."""
    packed = (Path(ORACLE) / f"{name}.safetensors.xz").read_bytes()
    values = parse(lzma.decompress(packed))
    return {k: v.float() if v.is_floating_point() else v for k, v in values.items()}


@cache
def read_config():
    """Return the content of the folder's config.json."""
    return json.loads((Path(ORACLE) / "config.json").read_text())


def read_cases(suite):
    """Return the parameters of each case of a suite."""
    return read_config()["index"][suite]["cases"]


def list_cases(*suites):
    """Return all (suite, case) for parametrize; one pair of "none" where there is no folder."""
    if not ORACLE:
        return [pytest.param("none", "none")]
    return [pytest.param(s, c, id=f"{s}-{c}") for s in suites for c in read_cases(s)]


def list_case_names(suite, prefix):
    """Return the names of a suite's cases with a prefix, for parametrize."""
    return [name for name in read_cases(suite) if name.startswith(prefix)] if ORACLE else ["none"]


def read_architecture(name, depth="encoder_depth"):
    """Return the architecture of base_style or tiny_style, as a mapping of options."""
    settings = read_config()[name]
    return {
        "dim": settings["dim"],
        "heads": settings["num_heads"],
        "depth": settings[depth],
        "decoder_depth": settings.get(depth.replace("encoder", "decoder"), 0),
        "gated": settings["gated_mlp"],
        "bias": settings["qkv_bias"],
        "mlp_ratio": settings["mlp_ratio"],
    }


def read_case_tensors(suite, case, kind):
    """Return the tensors `<case>/<kind>/<name>` by name; kind is in or out."""
    prefix = f"{case}/{kind}/"
    return {
        k.removeprefix(prefix): v for k, v in read_tensors(suite).items() if k.startswith(prefix)
    }


def read_inputs(suite, name):
    """Return a case's inputs by modality, in the order in which they were fed."""
    case = read_cases(suite)[name]
    values = read_case_tensors(suite, case.get("inputs_from") or name, "in")
    if "tensor" in values:
        return values["tensor"]
    names = [m if isinstance(m, str) else next(iter(m)) for m in case["modalities"]]
    return {key: values[key] for key in case.get("input_order") or names if key in values}


def compute_error(actual, expected):
    """Return the largest error, relative to the largest value or to 1, whichever is larger."""
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / max(1.0, float(expected.abs().max())))


def thin_output(values, expected, axes):
    """Apply the strides with which a case stores its output.

    Several strides can give the stored shape; the one with the smallest error is taken.
    """
    fitting = [
        [s for s in range(1, n + 1) if len(range(0, n, s)) == stored_length]
        for n, stored_length in ((values.shape[axis], expected.shape[axis]) for axis in axes)
    ]
    candidates = []
    for steps in itertools.product(*fitting):
        thin = values
        for axis, step in zip(axes, steps, strict=True):
            thin = thin.index_select(axis, torch.arange(0, values.shape[axis], step))
        candidates.append(thin)
    return min(candidates, key=lambda thin: compute_error(thin, expected))


def listing(name):
    """Return a published checkpoint's listing: tensors, n_unique_params, tied_groups, buffers."""
    return json.loads(gzip.decompress((LISTINGS / f"{name}.json.gz").read_bytes()))


def list_shapes(module):
    """Return a module's state dict as {key: [sizes]}."""
    return {key: list(value.shape) for key, value in module.state_dict().items()}
