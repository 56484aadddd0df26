"""The reference implementation's numbers, and the keys and shapes of the published checkpoints.

Everything that a test needs to know about a case stands in the folder's `config.json`, so that
the same tests run on a folder made with other seeds, depths, widths and sizes.
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
    """Tiny shapes run faster without handing work around. Import it where it is wanted."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def tensors(name):
    """Return the tensors of one file, floating ones in single precision."""
    packed = (Path(ORACLE) / f"{name}.safetensors.xz").read_bytes()
    found = parse(lzma.decompress(packed))
    return {k: v.float() if v.is_floating_point() else v for k, v in found.items()}


@cache
def described():
    """Return the folder's config.json."""
    return json.loads((Path(ORACLE) / "config.json").read_text())


def cases(suite):
    """Return what config.json says of each case of a suite."""
    return described()["index"][suite]["cases"]


def params(*suites):
    """Return every (suite, case) for parametrize; one empty pair where there is no folder."""
    if not ORACLE:
        return [pytest.param("none", "none")]
    return [pytest.param(s, c, id=f"{s}-{c}") for s in suites for c in cases(s)]


def named(suite, prefix):
    """Return the names of a suite's cases that begin so, for parametrize."""
    return [name for name in cases(suite) if name.startswith(prefix)] if ORACLE else ["none"]


def style(name, depth="encoder_depth"):
    """Return the architecture of base_style or tiny_style, as `model.terramind.config` wants it."""
    told = described()[name]
    return {
        "dim": told["dim"],
        "heads": told["num_heads"],
        "depth": told[depth],
        "decoder_depth": told.get(depth.replace("encoder", "decoder"), 0),
        "gated": told["gated_mlp"],
        "bias": told["qkv_bias"],
        "mlp_ratio": told["mlp_ratio"],
    }


def stored(suite, case, kind):
    """Return the tensors `<case>/<kind>/<name>` by name; kind is in or out."""
    prefix = f"{case}/{kind}/"
    return {k.removeprefix(prefix): v for k, v in tensors(suite).items() if k.startswith(prefix)}


def inputs_of(suite, name):
    """Return a case's inputs by modality, in the order in which they were fed."""
    case = cases(suite)[name]
    given = stored(suite, case.get("inputs_from") or name, "in")
    if "tensor" in given:
        return given["tensor"]
    names = [m if isinstance(m, str) else next(iter(m)) for m in case["modalities"]]
    return {key: given[key] for key in case.get("input_order") or names if key in given}


def error(got, wanted):
    """Return the largest error relative to the largest value, or to one if that is larger."""
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / max(1.0, float(wanted.abs().max())))


def thinned(values, wanted, axes):
    """Apply the strides with which a case stores its output.

    Several strides can give one shape; the one that was meant is the one that comes near.
    """
    fitting = [
        [s for s in range(1, n + 1) if len(range(0, n, s)) == kept]
        for n, kept in ((values.shape[axis], wanted.shape[axis]) for axis in axes)
    ]
    found = []
    for steps in itertools.product(*fitting):
        thin = values
        for axis, step in zip(axes, steps, strict=True):
            thin = thin.index_select(axis, torch.arange(0, values.shape[axis], step))
        found.append(thin)
    return min(found, key=lambda thin: error(thin, wanted))


def listing(name):
    """Return a published checkpoint's listing: tensors, n_unique_params, tied_groups, buffers."""
    return json.loads(gzip.decompress((LISTINGS / f"{name}.json.gz").read_bytes()))


def shapes(module):
    """Return a module's state dict as {key: [sizes]}."""
    return {key: list(value.shape) for key, value in module.state_dict().items()}
