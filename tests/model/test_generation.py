"""Generation: units, sizes, repeatability, chaining, decoding steps, coordinates, expectations."""

from __future__ import annotations

import random

import pytest
import torch

import model
from model.errors import ModelError
from model.terramind import modalities
from model.terramind.generation.sampling_strategy import SamplingStrategy
from tests.support.oracle import one_thread  # noqa: F401
from tests.support.small_generators import (
    MICRO,
    make,
    passes,
    rasters,
    raw,
    same,
)

# --- what it makes --------------------------------------------------------------------------------


def test_outputs_come_in_their_own_units_by_the_names_asked():
    built = make(("S2L2A",), ("LULC", "S1GRD", "DEM"))
    inputs = raw(("S2L2A",))
    out = built.generate(inputs, timesteps=1)
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "LULC": (1, 10, 32, 32),
        "S1GRD": (1, 2, 32, 32),
        "DEM": (1, 1, 32, 32),
    }
    plain = built.generate(
        {"S2L2A": standard(inputs["S2L2A"], "S2L2A")}, timesteps=1, standardize=False
    )
    torch.testing.assert_close(out["DEM"], plain["DEM"] * 951.272 + 670.665, atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(out["LULC"], plain["LULC"])


def standard(x, name):
    scale = modalities.get_target_modality(name).statistics
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (scale.mean, scale.std))
    return (x - mean) / std


def test_ndvi_is_scaled_with_its_own_statistics():
    built, inputs = make(), rasters()
    plain = built.generate(inputs, ["NDVI"], standardize=False, timesteps=2)["NDVI"]
    assert float(plain.abs().max()) <= 1.0
    # ^ the published clamp
    free = built.generate(inputs, ["NDVI"], standardize=False, timesteps=2, clamp=False)["NDVI"]
    assert float(free.abs().max()) > 1.0
    scaled = built.generate(raw(), ["NDVI"], timesteps=2)["NDVI"]
    assert 0.327 - 0.322 - 1e-4 <= float(scaled.min()) < float(scaled.max()) <= 0.649 + 1e-4


@pytest.mark.parametrize(("height", "width"), [(32, 96), (96, 32), (48, 80), (16, 16)])
def test_any_size_keeps_its_orientation(height, width):
    built = make()
    inputs = rasters(height=height, width=width)
    ids = built.generate_tokens(inputs, ["LULC"])["LULC"]
    assert ids.shape == (1, height // 16, width // 16)
    out = built.generate(inputs, ["LULC"], standardize=False)["LULC"]
    assert out.shape == (1, 10, height, width)
    assert torch.equal(out, built.tokenizer.get_raster_tokenizer("tok_lulc@224").decode(ids))
    logits = built.token_logits(inputs, "LULC")
    assert torch.equal(logits.argmax(2).view(ids.shape), ids)


def test_each_position_is_asked_for_by_its_own_place():
    built = make()
    grid = (2, 5)
    context = built.model.encode_context(built.model.embed_inputs(rasters(height=32, width=80)))
    whole = built.model.logits(context, ["tok_lulc@224"], grid)[0]
    added = built.model.target_embedding("tok_lulc@224").position_and_modality(grid)
    square = built.model.target_embedding("tok_lulc@224").position_and_modality((5, 2))
    assert whole.shape[1] == added.shape[1] == 10
    assert not torch.equal(added, square)


def test_inputs_may_be_absent_and_their_order_is_theirs():
    built, inputs = make(), rasters()
    for names in (("DEM",), ("S1GRD", "S2L2A")):
        out = built.generate({n: inputs[n] for n in names}, standardize=False, timesteps=1)
        assert all(torch.isfinite(value).all() for value in out.values())


def test_the_callers_inputs_are_not_modified():
    inputs = raw(batch=2)
    before = {name: value.clone() for name, value in inputs.items()}
    make().generate(inputs, timesteps=1)
    assert list(inputs) == list(before)
    assert same(inputs, before)


@pytest.mark.parametrize("dtype", [torch.int16, torch.float64])
def test_raw_numbers_of_any_format_are_standardised(dtype):
    inputs = {"S2L2A": raw(("S2L2A",))["S2L2A"].round()}
    expected = make().generate(inputs, ["LULC"])
    assert same(make().generate({"S2L2A": inputs["S2L2A"].to(dtype)}, ["LULC"]), expected)


def test_an_offset_belongs_to_one_call():
    built = make(("S2L2A", "DEM"), ("S2L2A", "LULC"))
    inputs = raw(("S2L2A",))
    shifted = {"S2L2A": inputs["S2L2A"] + 1000}
    plain = built.generate(inputs, ["S2L2A"], timesteps=1)["S2L2A"]
    for offset in (1000, {"S2L2A": 1000.0}, 1000):
        actual = built.generate(shifted, ["S2L2A"], timesteps=1, boa_offset=offset)["S2L2A"]
        torch.testing.assert_close(actual, plain + 1000, atol=0.1, rtol=1e-4)
    assert torch.equal(built.generate(inputs, ["S2L2A"], timesteps=1)["S2L2A"], plain)
    always = make(("S2L2A", "DEM"), ("S2L2A", "LULC"), boa_offset=1000)
    actual = always.generate(shifted, ["S2L2A"], timesteps=1)["S2L2A"]
    torch.testing.assert_close(actual, plain + 1000, atol=0.1, rtol=1e-4)
    with pytest.raises(ModelError, match="S1GRD"):
        built.generate(inputs, boa_offset={"S1GRD": 1})


# --- deterministic --------------------------------------------------------------------------------

RANDOM = [
    {},
    {"sampling": "sample"},
    {"sampling": "sample", "decoding_steps": 3, "top_p": 0.95},
    {"decoding_steps": 2, "schedule": "cosine"},
]


@pytest.mark.parametrize("options", RANDOM)
def test_a_window_is_the_same_alone_in_a_batch_and_in_another_order(options):
    built = make(embed_last=True)
    inputs = rasters(batch=8, height=16, width=48)
    seeds = [11, 5, 11, 7, 0, -3, 2**40, 5]
    options = options | {"standardize": False, "timesteps": 1}
    together = built.generate(inputs, seed=seeds, **options)
    order = [3, 1, 7, 0, 5, 2, 6, 4]
    shuffled = built.generate(
        {n: v[order] for n, v in inputs.items()}, seed=[seeds[i] for i in order], **options
    )
    assert same(shuffled, {n: v[order] for n, v in together.items()})
    for row in (0, 5):
        alone = built.generate({n: v[[row]] for n, v in inputs.items()}, seed=seeds[row], **options)
        assert same(alone, {n: v[[row]] for n, v in together.items()})


def test_a_chunk_is_filled_up():
    built, inputs = make(), rasters(batch=5)
    expected = built.generate(inputs, standardize=False, timesteps=1)
    built.chunk_size = 3
    try:
        recorded = passes(built.model.encoder[0])
        actual = built.generate(inputs, ["LULC"], standardize=False)
    finally:
        built.chunk_size = None
    assert recorded == [3, 3]
    torch.testing.assert_close(actual["LULC"], expected["LULC"], atol=1e-4, rtol=1e-4)


def test_the_global_generators_are_left_alone():
    torch.manual_seed(5)
    random.seed(5)
    before, random_state = torch.get_rng_state(), random.getstate()
    make(embed_last=True).generate(
        rasters(), sampling="sample", decoding_steps=2, standardize=False
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == random_state


def test_drawn_tokens_depend_on_the_seed_and_likeliest_ones_do_not():
    built, inputs = make(), rasters(batch=2)
    inputs = {n: v[[0, 0]] for n, v in inputs.items()}
    drawn = built.generate_tokens(
        inputs, strategy=SamplingStrategy(sampling="sample"), seed=[1, 2]
    )["LULC"]
    assert not torch.equal(drawn[0], drawn[1])
    again = built.generate_tokens(inputs, strategy=SamplingStrategy(sampling="sample"), seed=1)[
        "LULC"
    ]
    assert torch.equal(again[0], again[1])
    assert torch.equal(again[0], drawn[0])
    likeliest = built.generate_tokens(inputs, seed=[1, 2])["LULC"]
    assert torch.equal(likeliest[0], likeliest[1])
    cold = SamplingStrategy(sampling="sample", temperature=0)
    assert torch.equal(built.generate_tokens(inputs, strategy=cold, seed=9)["LULC"], likeliest)


def test_what_else_is_made_does_not_change_an_output():
    built, inputs = make(), rasters()
    options = {"sampling": "sample", "seed": 4, "standardize": False, "chained": False}
    both = built.generate(inputs, timesteps=1, **options)
    for name in ("LULC", "NDVI"):
        assert torch.equal(built.generate(inputs, [name], timesteps=1, **options)[name], both[name])


def test_given_noise_takes_the_place_of_drawn_noise():
    built, inputs = make(), rasters(batch=2)
    noise = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    options = {"standardize": False, "timesteps": 2}
    whole = built.generate(inputs, ["NDVI"], noise={"NDVI": noise}, **options)["NDVI"]
    part = {n: v[1:] for n, v in inputs.items()}
    alone = built.generate(part, ["NDVI"], noise={"NDVI": noise[1:]}, **options)["NDVI"]
    assert torch.equal(whole[1:], alone)
    for wrong in ({"LULC": noise}, {"NDVI": noise[:1]}):
        with pytest.raises(ModelError, match="noise"):
            built.generate(inputs, ["NDVI"], noise=wrong, **options)


# --- chained, or from one context -----------------------------------------------------------------


def test_chained_outputs_see_those_before_them_and_others_do_not():
    built, inputs = make(), rasters()
    ids = built.generate_tokens(inputs)
    assert torch.equal(ids["NDVI"], after(built, inputs, ids["LULC"]))
    free = built.generate_tokens(inputs, strategy=SamplingStrategy(chained=False))
    assert torch.equal(free["LULC"], ids["LULC"])
    assert torch.equal(free["NDVI"], built.token_logits(inputs, "NDVI").argmax(2).view(1, 2, 2))
    with_map = built.token_logits(inputs, "NDVI", tokens={"LULC": ids["LULC"]})
    assert float((with_map - built.token_logits(inputs, "NDVI")).abs().max()) > 0.05


def after(built, inputs, ids):
    return built.token_logits(inputs, "NDVI", tokens={"LULC": ids}).argmax(2).view(1, 2, 2)


def test_independent_outputs_share_one_pass_of_encoder_and_decoder():
    built, inputs = make(), rasters()
    encoder, decoder = passes(built.model.encoder[0]), passes(built.model.decoder[0])
    built.generate_tokens(inputs, strategy=SamplingStrategy(chained=False))
    assert (len(encoder), len(decoder)) == (1, 1)
    built.generate_tokens(inputs)
    assert (len(encoder), len(decoder)) == (1 + 2, 1 + 2)


def test_inputs_are_embedded_once():
    built = make()
    recorded = passes(built.model.encoder_embeddings["untok_sen2l2a@224"])
    built.generate_tokens(rasters(), strategy=SamplingStrategy(decoding_steps=1))
    assert recorded == [1]


def test_another_order_than_that_of_the_model_is_refused_not_unchained():
    built, inputs = make(), rasters()
    with pytest.raises(ModelError, match="chained=False"):
        built.generate_tokens(inputs, ["NDVI", "LULC"])
    free = built.generate_tokens(inputs, ["NDVI", "LULC"], strategy=SamplingStrategy(chained=False))
    assert list(free) == ["NDVI", "LULC"]


# --- several steps --------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [2, 3, 50])
def test_several_steps_decide_every_position(monkeypatch, schedule, steps):
    built = make(embed_last=True)
    strategy = SamplingStrategy(decoding_steps=steps, schedule=schedule)
    inputs = rasters(height=48, width=32, batch=2)
    appended, add = [], built.model.append_tokens

    def spy(laid, key, ids, known=None):
        appended.append((known, ids))
        return add(laid, key, ids, known)

    monkeypatch.setattr(built.model, "append_tokens", spy)
    ids = built.generate_tokens(inputs, ["LULC"], strategy=strategy)["LULC"]
    assert ids.shape == (2, 3, 2)
    assert 0 <= int(ids.min()) <= int(ids.max()) < 4375
    shares = strategy.step_counts(6)
    counts = [sum(shares[:n]) for n in range(1, len(shares))]
    assert [known.shape[1] for known, _ in appended] == 2 * counts
    for row, (known, then) in enumerate(appended):
        assert bool((known.diff(dim=1) > 0).all())
        # ^ each position once
        final = ids[row // len(counts)].flatten()[known[0]]
        assert torch.equal(then.flatten()[known[0]], final)
    monkeypatch.undo()
    assert torch.equal(ids, built.generate_tokens(inputs, ["LULC"], strategy=strategy)["LULC"])


@torch.no_grad()
def test_later_steps_see_what_was_decided():
    built, inputs = make(embed_last=True), rasters(height=48, width=48)
    key, grid = "tok_ndvi@224", (3, 3)
    embedded = built.model.embed_inputs(inputs)
    context = built.model.encode_context(embedded)
    ids = torch.arange(9).view(1, 3, 3) * 1000
    known = torch.tensor([[0, 4, 8]])
    positions = torch.tensor([[1, 2]])
    (blind,) = built.model.logits(context, [key], grid, positions)
    extended = built.model.append_tokens(embedded, key, ids, known)
    assert extended.tokens.shape[1] == embedded.tokens.shape[1] + 3
    context_after = built.model.encode_context(extended)
    (aware,) = built.model.logits(context_after, [key], grid, positions)
    assert float((aware - blind).abs().max()) > 0.01
    changed = ids.clone()
    changed[0, 0, 1] = 7
    (unchanged,) = built.model.logits(
        built.model.encode_context(built.model.append_tokens(embedded, key, changed, known)),
        [key],
        grid,
        positions,
    )
    assert torch.equal(aware, unchanged)
    # ^ a position that is not decided is not seen


def test_steps_need_an_embedding_of_the_target():
    with pytest.raises(ModelError, match="embed_last"):
        make().generate(rasters(), decoding_steps=2, standardize=False)
    outputs = make().generate_tokens(
        rasters(), ["LULC"], strategy=SamplingStrategy(decoding_steps=2)
    )
    assert outputs["LULC"].shape == (1, 2, 2)
    assert "encoder_embeddings.tok_ndvi@224.mod_emb" in make(embed_last=True).model.state_dict()


# --- land cover and coordinates as inputs and outputs ---------------------------------------------


def test_a_class_raster_may_come_in_every_form():
    built = make(("S2L2A", "LULC"), ("DEM",))
    classes = torch.randint(10, (3, 32, 48), generator=torch.Generator().manual_seed(1))
    hot = torch.nn.functional.one_hot(classes, 10).permute(0, 3, 1, 2).float()
    image = raw(("S2L2A",), batch=3, height=32, width=48)
    forms = [classes, classes[:, None], hot, classes.to(torch.uint8)]
    outputs = [built.generate(image | {"LULC": form}, timesteps=1) for form in forms]
    assert all(same(outputs[0], repeated) for repeated in outputs[1:])
    without = built.generate(image, timesteps=1)
    assert not same(outputs[0], without)
    with pytest.raises(ModelError, match=r"classes 0\.\.9"):
        built.generate(image | {"LULC": classes + 1}, timesteps=1)


def test_what_is_given_cannot_be_asked_for():
    built = make(("S2L2A", "LULC"), ("LULC", "NDVI"))
    inputs = rasters(("S2L2A",)) | {"LULC": torch.zeros(1, 32, 32, dtype=torch.long)}
    with pytest.raises(ModelError, match="requested as an output, but given as an input"):
        built.generate(inputs, standardize=False)
    assert set(built.generate(inputs, ["NDVI"], standardize=False, timesteps=1)) == {"NDVI"}
    assert "LULC" in built.generate(rasters(("S2L2A",)), ["LULC"], standardize=False)


def test_a_raster_can_go_in_as_pixels_and_come_out_as_tokens():
    built = make(("S2L2A",), ("S2L2A", "LULC"))
    assert set(built.spec.input_keys.values()) == {"untok_sen2l2a@224"}
    out = built.generate(raw(("S2L2A",)), timesteps=1)
    assert out["S2L2A"].shape == (1, 12, 32, 32)


def test_coordinates_go_in_as_degrees():
    built = make(("S2L2A", "Coords"), ("LULC",))
    image = rasters(("S2L2A",), batch=2)
    near = image | {"Coords": torch.tensor([[-7.3, 1.45], [0.1, -0.1]])}
    ids = image | {"Coords": torch.tensor([[10, 11, 3], [12, 13, 3]])}
    assert torch.equal(built.encode_inputs(near), built.encode_inputs(ids))
    assert built.encode_inputs(near).shape[1] == 4 + 3
    with pytest.raises(ModelError, match="NaN"):
        built.encode_inputs(image | {"Coords": torch.tensor([[0.0, float("nan")]] * 2)})
    bare = model.generator(MICRO, ["S2L2A", "Coords"], ["LULC"], tokenizers={})
    with pytest.raises(ModelError, match="tokenizer of coordinates"):
        bare.encode_inputs(near)


@pytest.mark.parametrize(("third", "kept"), [(3, 3), (6, 3), (99, 99)])
def test_coordinates_come_out_one_word_after_the_other(monkeypatch, third, kept):
    built, inputs = make(("S2L2A",), ("Coords", "LULC")), rasters(("S2L2A",))
    sequences = []

    def next_logits(_context, key, ids):
        sequences.append((key, ids.tolist()))
        return torch.nn.functional.one_hot(
            torch.tensor([[0, 10, 11, third][ids.shape[1]]] * len(ids)), 30000
        ).float()

    monkeypatch.setattr(built.model, "next_logits", next_logits)
    out = built.generate(inputs, standardize=False)
    assert sequences == [("coords", [[5, 10, 11][: n + 1]]) for n in range(3)]
    assert out["Coords"].tolist() == [[-7.25, 1.5]]
    ids = built.generate_tokens(inputs)
    assert ids["Coords"].tolist() == [[10, 11, kept]]
    logits = built.token_logits(inputs, "LULC", tokens={"Coords": ids["Coords"]})
    assert torch.equal(logits.argmax(2).view(1, 2, 2), ids["LULC"])


def test_words_to_come_are_announced_where_the_encoder_knows_them():
    inputs = rasters(("S2L2A",))
    counts = {}
    for outputs in (("LULC", "Coords", "NDVI"), ("LULC", "Coords")):
        built = make(("S2L2A",), outputs)
        seen = []
        hook = built.model.encoder[0].register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0].shape[1])
        )
        built.generate_tokens(inputs)
        built.generate_tokens(inputs, strategy=SamplingStrategy(chained=False))
        hook.remove()
        counts[outputs] = seen
    assert counts["LULC", "Coords", "NDVI"] == [4 + 1, 4 + 4 + 1, 4 + 4 + 3, 4]
    assert counts["LULC", "Coords"] == [4, 4 + 4, 4]


def test_words_that_are_no_place_are_nan_and_words_do_not_see_the_future():
    built = make(("S2L2A",), ("Coords", "LULC"))
    out = built.generate(rasters(("S2L2A",), batch=2), ["Coords"], standardize=False)["Coords"]
    assert out.shape == (2, 2)
    assert bool(out.isnan().all())
    context = built.model.encode_context(built.model.embed_inputs(rasters(("S2L2A",))))
    words = built.model.target_embedding("coords").embed_ids(torch.tensor([[5, 10, 99]]))
    decoded = built.model._run_decoder(words[:, None], context.memory, causal=True)[:, 0]
    for count in (1, 2):
        first = built.model._run_decoder(words[:, None, :count], context.memory, causal=True)[:, 0]
        torch.testing.assert_close(first[:, -1], decoded[:, count - 1], atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match="no positions"):
        built.token_logits(rasters(("S2L2A",)), "Coords")


def test_without_a_raster_the_size_is_asked_for_or_the_published_one():
    built = make(("S2L2A", "Coords"), ("LULC",))
    inputs = {"Coords": torch.tensor([[0.0, 0.0]])}
    assert built.generate(inputs, size=(32, 48))["LULC"].shape == (1, 10, 32, 48)
    assert built.generate_tokens(inputs)["LULC"].shape == (1, 14, 14)


# --- expectations ---------------------------------------------------------------------------------


def test_the_mean_code_is_the_mean_of_the_codes():
    built, inputs = make(), rasters(height=32, width=48, batch=2)
    tokenizer = built.tokenizer.get_raster_tokenizer("tok_lulc@224")
    share = built.token_logits(inputs, "LULC").softmax(2)
    codes = tokenizer.ids_to_codes(torch.arange(4375).view(1, 1, -1))[0, :, 0]
    mean = torch.einsum("bnv,cv->bcn", share, codes).view(2, 5, 2, 3)
    expected = tokenizer.class_logits(mean).softmax(1)
    actual = built.class_probabilities(inputs, standardize=False)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    assert actual.shape == (2, 10, 32, 48)


def test_where_the_model_is_sure_all_answers_agree():
    built, inputs = make(), rasters()
    hard = built.generate(inputs, ["LULC"], standardize=False)["LULC"].softmax(1)
    sharp = built.class_probabilities(inputs, temperature=0, standardize=False)
    torch.testing.assert_close(sharp, hard, atol=1e-5, rtol=1e-4)
    near = built.class_probabilities(inputs, top_k=1, standardize=False)
    torch.testing.assert_close(near, hard, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        built.class_probabilities(inputs, standardize=False).sum(1),
        torch.ones(1, 32, 32),
        atol=1e-5,
        rtol=0,
    )


def test_expectations_do_not_depend_on_the_batch():
    built, inputs = make(), rasters(batch=3)
    whole = built.class_probabilities(inputs, standardize=False)
    last = built.class_probabilities({n: v[2:] for n, v in inputs.items()}, standardize=False)
    assert torch.equal(whole[2:], last)
    with pytest.raises(ModelError, match="LULC"):
        built.class_probabilities(inputs, "NDVI", standardize=False)
