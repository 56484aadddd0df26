"""Segmentation models equal the outputs and checkpoints of the reference implementation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import model
from tests.support import oracle
from tests.support.oracle import needs_listings, needs_oracle, one_thread  # noqa: F401

SUITE = "cases_segmentation"


def _list_variants():
    if not oracle.ORACLE:
        return ["none"]
    return [name for name, case in oracle.read_cases(SUITE).items() if "inputs_from" in case]


def _read_checkpoint(variant):
    """Return one variant as Lightning stores it: tensors and hyper-parameters."""
    hyper_parameters = json.loads(
        (Path(oracle.ORACLE) / "segmentation_hyper_parameters.json").read_text()
    )
    stored = oracle.read_tensors("weights_segmentation")
    state = {key: value for key, value in stored.items() if "::" not in key}
    prefix = f"{variant}::"
    state |= {
        key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)
    }
    return {"state_dict": state, "hyper_parameters": hyper_parameters[variant]}


def _load_variant(variant):
    size = oracle.read_architecture("tiny_style", "segmentation_encoder_depth")
    return model.fine_tuned(_read_checkpoint(variant), config=size)


def _group_inputs(variant, modalities):
    """Return the inputs of each size by their group name in the outputs."""
    stored = oracle.read_case_tensors(SUITE, oracle.read_cases(SUITE)[variant]["inputs_from"], "in")
    groups = {}
    for key, value in stored.items():
        group, _, modality = key.partition(".")
        groups.setdefault(group, {})[modality] = value
    return {
        group: {modality: inputs[modality] for modality in modalities}
        for group, inputs in groups.items()
    }


@needs_oracle
@pytest.mark.parametrize("variant", _list_variants())
def test_logits_and_classes_equal_the_oracle(variant):
    loaded = _load_variant(variant)
    outputs = oracle.read_case_tensors(SUITE, variant, "out")
    groups = _group_inputs(variant, loaded.inputs)
    compared = set()
    for group, inputs in groups.items():
        with torch.inference_mode():
            logits = loaded(inputs)
        padded_keys = [key for key in outputs if key.startswith(f"padded_{group[1:]}")]
        plain_keys = [key for key in outputs if not key.startswith("padded")]
        for key in plain_keys if group == min(groups) else padded_keys:
            # ^ a96, b80x112: the letters define the order
            compared.add(key)
            if key == "argmax":
                first, second = logits.topk(2, dim=1).values.unbind(1)
                is_clear = (first - second) > oracle.MARGIN
                assert is_clear.float().mean() > 0.99
                assert (logits.argmax(dim=1) == outputs[key])[is_clear].all()
            else:
                step = int(re.search(r"_s(\d+)$", key)[1])
                actual = logits[..., ::step, ::step]
                assert oracle.compute_error(actual, outputs[key]) <= oracle.SEGMENTATION, key
    assert compared == set(outputs)


@needs_oracle
@pytest.mark.parametrize("variant", _list_variants())
def test_loading_is_strict_in_both_directions(variant):
    checkpoint = _read_checkpoint(variant)
    size = oracle.read_architecture("tiny_style", "segmentation_encoder_depth")
    loaded = model.fine_tuned(checkpoint, config=size)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][f"model.{key}"].to(value.dtype)), key
    assert len(loaded.state_dict()) == len(checkpoint["state_dict"])


def _find_listings():
    return sorted(
        path.name.removesuffix(".json.gz") for path in oracle.LISTINGS.glob("terratorch_*")
    )


@needs_listings
@pytest.mark.parametrize("name", _find_listings() or ["none"])
def test_keys_and_shapes_are_those_of_real_checkpoints(name):
    stored = oracle.listing(name)
    expected = {
        key: value for key, value in stored["tensors"].items() if not key.startswith("criterion.")
    }
    with torch.device("meta"):
        state = {
            key: torch.empty(shape, dtype=getattr(torch, dtype))
            for key, (shape, dtype) in stored["tensors"].items()
        }
        checkpoint = {"state_dict": state, "hyper_parameters": stored["hyper_parameters"]}
        loaded = model.fine_tuned(checkpoint)
    actual = {f"model.{key}": shape for key, shape in oracle.list_shapes(loaded).items()}
    assert actual == {key: shape for key, (shape, _) in expected.items()}
    assert loaded.num_classes == stored["hyper_parameters"]["model_args"]["num_classes"]
    assert loaded.class_names == tuple(stored["hyper_parameters"]["class_names"])
