"""Checkpoints with LoRA adapters: merged when they are loaded, as PEFT merges them."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from model.errors import ModelError, WeightsError
from tests.support.lightning_checkpoints import as_stored, load, same_outputs, whole_model
from tests.support.oracle import one_thread  # noqa: F401

RANK = 4
LAYERS = tuple(f"encoder.encoder.{index}.attn.proj" for index in range(4))


def _peft(**options):
    return {"peft_config": {"method": "LORA", "peft_config_kwargs": {"r": RANK, **options}}}


def _adapt(content, layers=LAYERS, adapter="default", seed=5):
    """Wrap the encoder of a checkpoint as PEFT does, with adapters beside some layers."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in content["state_dict"].items():
        name = key.removeprefix("model.")
        owner = name.rpartition(".")[0]
        if owner in layers:
            name = name.replace(owner, f"{owner}.base_layer")
        wrapped = name.replace("encoder.", "encoder.base_model.model.", 1)
        state["model." + (wrapped if name.startswith("encoder.") else name)] = value
    for owner in layers:
        rows, columns = content["state_dict"][f"model.{owner}.weight"].shape
        prefix = f"model.{owner.replace('encoder.', 'encoder.base_model.model.', 1)}"
        state[f"{prefix}.lora_A.{adapter}.weight"] = torch.randn(RANK, columns, generator=generator)
        state[f"{prefix}.lora_B.{adapter}.weight"] = torch.randn(rows, RANK, generator=generator)
    return {**content, "state_dict": state}


def _merge(content, scales):
    """Return the checkpoint whose weights have the adapters of `_adapt` added to them."""
    adapted = _adapt(content)["state_dict"]
    merged = dict(content["state_dict"])
    for owner, scale in scales.items():
        prefix = f"model.{owner.replace('encoder.', 'encoder.base_model.model.', 1)}"
        down = adapted[f"{prefix}.lora_A.default.weight"]
        up = adapted[f"{prefix}.lora_B.default.weight"]
        merged[f"model.{owner}.weight"] = merged[f"model.{owner}.weight"] + scale * (up @ down)
    return {**content, "state_dict": merged}


@pytest.fixture(scope="module")
def network():
    return whole_model()


@pytest.fixture
def content(network):
    return copy.deepcopy(as_stored(network))


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"lora_alpha": 16}, 4.0),
        ({}, 2.0),
        # ^ PEFT's default alpha is 8
        ({"lora_alpha": 16, "use_rslora": True}, 8.0),
    ],
)
def test_adapters_are_added_with_their_scale(network, content, options, scale):
    adapted = _adapt(as_stored(network, _peft(**options)))
    loaded = load(adapted)
    assert same_outputs(loaded, load(_merge(content, dict.fromkeys(LAYERS, scale))))
    assert not same_outputs(loaded, network)


def test_layers_may_have_scales_of_their_own(network, content):
    options = {"lora_alpha": 4, "alpha_pattern": {"encoder.2.attn.proj": 12}}
    scales = dict.fromkeys(LAYERS, 1.0) | {LAYERS[2]: 3.0}
    assert same_outputs(
        load(_adapt(as_stored(network, _peft(**options)))), load(_merge(content, scales))
    )


def test_the_length_of_rows_is_restored_where_it_was_adapted(network, content):
    owner = LAYERS[0]
    adapted = _adapt(as_stored(network, _peft(lora_alpha=RANK)), [owner])
    prefix = f"model.{owner.replace('encoder.', 'encoder.base_model.model.', 1)}"
    lengths = torch.rand(32) + 0.5
    adapted["state_dict"][f"{prefix}.lora_magnitude_vector.default.weight"] = lengths
    merged = load(adapted).state_dict()[f"{owner}.weight"]
    plain = _merge(content, {owner: 1.0})["state_dict"][f"model.{owner}.weight"]
    assert torch.allclose(merged.norm(dim=1), lengths, atol=1e-5)
    assert torch.nn.functional.cosine_similarity(merged, plain, dim=1).min() > 0.9999


def _split_projections(state):
    """Replace each projection to queries, keys and values by three, as TerraTorch does."""
    split = {}
    for key, value in state.items():
        if ".attn.qkv." in key:
            thirds = value.chunk(3)
            for name, third in zip(("q_linear", "k_linear", "v_linear"), thirds, strict=True):
                split[key.replace(".qkv.", f".qkv.{name}.")] = third.clone()
        else:
            split[key] = value
    return split


def test_split_projections_are_joined(network, content):
    content["state_dict"] = _split_projections(content["state_dict"])
    content["hyper_parameters"]["model_args"] |= _peft()
    # ^ so a checkpoint looks whose adapters were merged before it was saved
    assert same_outputs(load(content), network)
    layers = [
        f"encoder.encoder.{index}.attn.qkv.{part}_linear" for index in range(4) for part in "qv"
    ]
    adapted = _adapt(content, layers)
    loaded = load(adapted).state_dict()
    key = "encoder.encoder.1.attn.qkv.weight"
    unchanged = network.state_dict()[key]
    assert torch.equal(loaded[key][32:64], unchanged[32:64])
    assert not torch.allclose(loaded[key][:32], unchanged[:32])
    assert not torch.allclose(loaded[key][64:], unchanged[64:])
    del content["state_dict"]["model.encoder.encoder.0.attn.qkv.k_linear.weight"]
    with pytest.raises(WeightsError, match=r"lacks .*attn\.qkv\.k_linear\.weight"):
        load(content)


def test_layers_that_were_trained_whole_take_the_place_of_the_original(network, content):
    content["hyper_parameters"]["model_args"] |= _peft()
    state = _adapt(content, [])["state_dict"]
    norm = "model.encoder.base_model.model.encoder_norm"
    trained = {
        key.replace(norm, f"{norm}.modules_to_save.default"): value + 1
        for key, value in state.items()
        if key.startswith(norm)
    }
    original = {
        key.replace(norm, f"{norm}.original_module") if key.startswith(norm) else key: value
        for key, value in state.items()
    }
    loaded = load({**content, "state_dict": original | trained}).state_dict()
    for key in ("encoder_norm.weight", "encoder_norm.bias"):
        assert torch.equal(loaded[f"encoder.{key}"], network.state_dict()[f"encoder.{key}"] + 1)


def test_tensors_alone_take_the_scale_from_the_configuration_of_their_training(
    network, content, tmp_path
):
    adapted = _adapt(content)
    with pytest.raises(ModelError, match=r"lora_alpha.*`stats: fit.yaml`"):
        load(adapted)
    args = as_stored(network, _peft(lora_alpha=2 * RANK))["hyper_parameters"]["model_args"]
    loaded = load(adapted["state_dict"], hyper_parameters={"model_args": args})
    assert same_outputs(loaded, load(_merge(content, dict.fromkeys(LAYERS, 2.0))))


def test_adapters_that_do_not_belong_together_are_refused(network):
    adapted = _adapt(as_stored(network, _peft()))
    state = adapted["state_dict"]
    down = next(key for key in state if "lora_A" in key)
    for changes, message in (
        ({down.replace("default", "second"): state[down]}, "several adapters, default, second"),
        ({down: torch.ones(RANK, 7)}, "is not complete"),
        ({down.replace("lora_A", "lora_embedding_A"): state[down]}, "not LoRA of linear layers"),
    ):
        with pytest.raises(WeightsError, match=message):
            load({**adapted, "state_dict": state | changes})
    assert math.isfinite(float(load(adapted).state_dict()[f"{LAYERS[0]}.weight"].sum()))
