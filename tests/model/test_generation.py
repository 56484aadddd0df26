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
    are_equal,
    make,
    rasters,
    raw,
    record_batch_sizes,
)

# --- outputs --------------------------------------------------------------------------------------


def test_outputs_have_physical_units_and_the_requested_names():
    generator = make(("S2L2A",), ("LULC", "S1GRD", "DEM"))
    inputs = raw(("S2L2A",))
    outputs = generator.generate(inputs, timesteps=1)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "LULC": (1, 10, 32, 32),
        "S1GRD": (1, 2, 32, 32),
        "DEM": (1, 1, 32, 32),
    }
    standardised_outputs = generator.generate(
        {"S2L2A": standardise(inputs["S2L2A"], "S2L2A")}, timesteps=1, standardize=False
    )
    torch.testing.assert_close(
        outputs["DEM"], standardised_outputs["DEM"] * 951.272 + 670.665, atol=1e-2, rtol=1e-4
    )
    torch.testing.assert_close(outputs["LULC"], standardised_outputs["LULC"])


def standardise(x, name):
    statistics = modalities.get_target_modality(name).statistics
    mean, std = (
        torch.tensor(values).view(-1, 1, 1) for values in (statistics.mean, statistics.std)
    )
    return (x - mean) / std


def test_ndvi_is_scaled_with_its_own_statistics():
    generator, inputs = make(), rasters()
    clamped = generator.generate(inputs, ["NDVI"], standardize=False, timesteps=2)["NDVI"]
    assert float(clamped.abs().max()) <= 1.0
    # ^ the published clamp
    unclamped = generator.generate(inputs, ["NDVI"], standardize=False, timesteps=2, clamp=False)[
        "NDVI"
    ]
    assert float(unclamped.abs().max()) > 1.0
    scaled = generator.generate(raw(), ["NDVI"], timesteps=2)["NDVI"]
    assert 0.327 - 0.322 - 1e-4 <= float(scaled.min()) < float(scaled.max()) <= 0.649 + 1e-4


@pytest.mark.parametrize(("height", "width"), [(32, 96), (96, 32), (48, 80), (16, 16)])
def test_any_size_keeps_its_orientation(height, width):
    generator = make()
    inputs = rasters(height=height, width=width)
    ids = generator.generate_tokens(inputs, ["LULC"])["LULC"]
    assert ids.shape == (1, height // 16, width // 16)
    output = generator.generate(inputs, ["LULC"], standardize=False)["LULC"]
    assert output.shape == (1, 10, height, width)
    assert torch.equal(output, generator.tokenizer.get_raster_tokenizer("tok_lulc@224").decode(ids))
    logits = generator.token_logits(inputs, "LULC")
    assert torch.equal(logits.argmax(2).view(ids.shape), ids)


def test_each_position_has_its_own_embedding():
    generator = make()
    grid = (2, 5)
    context = generator.model.encode_context(
        generator.model.embed_inputs(rasters(height=32, width=80))
    )
    logits = generator.model.logits(context, ["tok_lulc@224"], grid)[0]
    embedding = generator.model.target_embedding("tok_lulc@224").position_and_modality(grid)
    transposed_embedding = generator.model.target_embedding("tok_lulc@224").position_and_modality(
        (5, 2)
    )
    assert logits.shape[1] == embedding.shape[1] == 10
    assert not torch.equal(embedding, transposed_embedding)


def test_inputs_may_be_absent_and_in_any_order():
    generator, inputs = make(), rasters()
    for names in (("DEM",), ("S1GRD", "S2L2A")):
        outputs = generator.generate(
            {name: inputs[name] for name in names}, standardize=False, timesteps=1
        )
        assert all(torch.isfinite(value).all() for value in outputs.values())


def test_inputs_of_the_caller_are_not_modified():
    inputs = raw(batch=2)
    before = {name: value.clone() for name, value in inputs.items()}
    make().generate(inputs, timesteps=1)
    assert list(inputs) == list(before)
    assert are_equal(inputs, before)


@pytest.mark.parametrize("dtype", [torch.int16, torch.float64])
def test_raw_numbers_of_any_dtype_are_standardised(dtype):
    inputs = {"S2L2A": raw(("S2L2A",))["S2L2A"].round()}
    expected = make().generate(inputs, ["LULC"])
    assert are_equal(make().generate({"S2L2A": inputs["S2L2A"].to(dtype)}, ["LULC"]), expected)


def test_an_offset_applies_to_one_call():
    generator = make(("S2L2A", "DEM"), ("S2L2A", "LULC"))
    inputs = raw(("S2L2A",))
    shifted = {"S2L2A": inputs["S2L2A"] + 1000}
    expected = generator.generate(inputs, ["S2L2A"], timesteps=1)["S2L2A"]
    for offset in (1000, {"S2L2A": 1000.0}, 1000):
        actual = generator.generate(shifted, ["S2L2A"], timesteps=1, boa_offset=offset)["S2L2A"]
        torch.testing.assert_close(actual, expected + 1000, atol=0.1, rtol=1e-4)
    assert torch.equal(generator.generate(inputs, ["S2L2A"], timesteps=1)["S2L2A"], expected)
    generator_with_offset = make(("S2L2A", "DEM"), ("S2L2A", "LULC"), boa_offset=1000)
    actual = generator_with_offset.generate(shifted, ["S2L2A"], timesteps=1)["S2L2A"]
    torch.testing.assert_close(actual, expected + 1000, atol=0.1, rtol=1e-4)
    with pytest.raises(ModelError, match="S1GRD"):
        generator.generate(inputs, boa_offset={"S1GRD": 1})


# --- repeatability --------------------------------------------------------------------------------

SAMPLING_OPTIONS = [
    {},
    {"sampling": "sample"},
    {"sampling": "sample", "decoding_steps": 3, "top_p": 0.95},
    {"decoding_steps": 2, "schedule": "cosine"},
]


@pytest.mark.parametrize("options", SAMPLING_OPTIONS)
def test_a_window_does_not_depend_on_its_batch(options):
    generator = make(embed_last=True)
    inputs = rasters(batch=8, height=16, width=48)
    seeds = [11, 5, 11, 7, 0, -3, 2**40, 5]
    options = options | {"standardize": False, "timesteps": 1}
    outputs = generator.generate(inputs, seed=seeds, **options)
    order = [3, 1, 7, 0, 5, 2, 6, 4]
    shuffled = generator.generate(
        {name: values[order] for name, values in inputs.items()},
        seed=[seeds[index] for index in order],
        **options,
    )
    assert are_equal(shuffled, {name: values[order] for name, values in outputs.items()})
    for row in (0, 5):
        alone = generator.generate(
            {name: values[[row]] for name, values in inputs.items()}, seed=seeds[row], **options
        )
        assert are_equal(alone, {name: values[[row]] for name, values in outputs.items()})


def test_a_partial_chunk_is_filled_up():
    generator, inputs = make(), rasters(batch=5)
    expected = generator.generate(inputs, standardize=False, timesteps=1)
    generator.chunk_size = 3
    try:
        recorded = record_batch_sizes(generator.model.encoder[0])
        actual = generator.generate(inputs, ["LULC"], standardize=False)
    finally:
        generator.chunk_size = None
    assert recorded == [3, 3]
    torch.testing.assert_close(actual["LULC"], expected["LULC"], atol=1e-4, rtol=1e-4)


def test_the_global_generators_are_not_changed():
    torch.manual_seed(5)
    random.seed(5)
    before, random_state = torch.get_rng_state(), random.getstate()
    make(embed_last=True).generate(
        rasters(), sampling="sample", decoding_steps=2, standardize=False
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == random_state


def test_sampled_tokens_depend_on_the_seed_and_likeliest_tokens_do_not():
    generator, inputs = make(), rasters(batch=2)
    inputs = {name: values[[0, 0]] for name, values in inputs.items()}
    sampled = generator.generate_tokens(
        inputs, strategy=SamplingStrategy(sampling="sample"), seed=[1, 2]
    )["LULC"]
    assert not torch.equal(sampled[0], sampled[1])
    repeated = generator.generate_tokens(
        inputs, strategy=SamplingStrategy(sampling="sample"), seed=1
    )["LULC"]
    assert torch.equal(repeated[0], repeated[1])
    assert torch.equal(repeated[0], sampled[0])
    likeliest = generator.generate_tokens(inputs, seed=[1, 2])["LULC"]
    assert torch.equal(likeliest[0], likeliest[1])
    zero_temperature = SamplingStrategy(sampling="sample", temperature=0)
    assert torch.equal(
        generator.generate_tokens(inputs, strategy=zero_temperature, seed=9)["LULC"], likeliest
    )


def test_an_output_does_not_depend_on_other_outputs():
    generator, inputs = make(), rasters()
    options = {"sampling": "sample", "seed": 4, "standardize": False, "chained": False}
    both = generator.generate(inputs, timesteps=1, **options)
    for name in ("LULC", "NDVI"):
        assert torch.equal(
            generator.generate(inputs, [name], timesteps=1, **options)[name], both[name]
        )


def test_passed_noise_replaces_drawn_noise():
    generator, inputs = make(), rasters(batch=2)
    noise = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    options = {"standardize": False, "timesteps": 2}
    batch_output = generator.generate(inputs, ["NDVI"], noise={"NDVI": noise}, **options)["NDVI"]
    second_inputs = {name: values[1:] for name, values in inputs.items()}
    second_output = generator.generate(
        second_inputs, ["NDVI"], noise={"NDVI": noise[1:]}, **options
    )["NDVI"]
    assert torch.equal(batch_output[1:], second_output)
    for invalid_noise in ({"LULC": noise}, {"NDVI": noise[:1]}):
        with pytest.raises(ModelError, match="noise"):
            generator.generate(inputs, ["NDVI"], noise=invalid_noise, **options)


# --- chained and independent outputs --------------------------------------------------------------


def test_chained_outputs_depend_on_those_before_them():
    generator, inputs = make(), rasters()
    ids = generator.generate_tokens(inputs)
    assert torch.equal(ids["NDVI"], predict_chained_ndvi(generator, inputs, ids["LULC"]))
    independent_ids = generator.generate_tokens(inputs, strategy=SamplingStrategy(chained=False))
    assert torch.equal(independent_ids["LULC"], ids["LULC"])
    assert torch.equal(
        independent_ids["NDVI"], generator.token_logits(inputs, "NDVI").argmax(2).view(1, 2, 2)
    )
    chained_logits = generator.token_logits(inputs, "NDVI", tokens={"LULC": ids["LULC"]})
    assert float((chained_logits - generator.token_logits(inputs, "NDVI")).abs().max()) > 0.05


def predict_chained_ndvi(generator, inputs, ids):
    return generator.token_logits(inputs, "NDVI", tokens={"LULC": ids}).argmax(2).view(1, 2, 2)


def test_independent_outputs_share_one_pass_of_encoder_and_decoder():
    generator, inputs = make(), rasters()
    encoder, decoder = (
        record_batch_sizes(generator.model.encoder[0]),
        record_batch_sizes(generator.model.decoder[0]),
    )
    generator.generate_tokens(inputs, strategy=SamplingStrategy(chained=False))
    assert (len(encoder), len(decoder)) == (1, 1)
    generator.generate_tokens(inputs)
    assert (len(encoder), len(decoder)) == (1 + 2, 1 + 2)


def test_inputs_are_embedded_once():
    generator = make()
    recorded = record_batch_sizes(generator.model.encoder_embeddings["untok_sen2l2a@224"])
    generator.generate_tokens(rasters(), strategy=SamplingStrategy(decoding_steps=1))
    assert recorded == [1]


def test_another_order_is_refused_unless_outputs_are_independent():
    generator, inputs = make(), rasters()
    with pytest.raises(ModelError, match="chained=False"):
        generator.generate_tokens(inputs, ["NDVI", "LULC"])
    independent_ids = generator.generate_tokens(
        inputs, ["NDVI", "LULC"], strategy=SamplingStrategy(chained=False)
    )
    assert list(independent_ids) == ["NDVI", "LULC"]


# --- decoding in several steps --------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [2, 3, 50])
def test_several_steps_decide_every_position(monkeypatch, schedule, steps):
    generator = make(embed_last=True)
    strategy = SamplingStrategy(decoding_steps=steps, schedule=schedule)
    inputs = rasters(height=48, width=32, batch=2)
    appended, append_tokens = [], generator.model.append_tokens

    def record_and_append(layout, key, ids, known=None):
        appended.append((known, ids))
        return append_tokens(layout, key, ids, known)

    monkeypatch.setattr(generator.model, "append_tokens", record_and_append)
    ids = generator.generate_tokens(inputs, ["LULC"], strategy=strategy)["LULC"]
    assert ids.shape == (2, 3, 2)
    assert 0 <= int(ids.min()) <= int(ids.max()) < 4375
    shares = strategy.step_counts(6)
    counts = [sum(shares[:count]) for count in range(1, len(shares))]
    assert [known.shape[1] for known, _ in appended] == 2 * counts
    for row, (known, appended_ids) in enumerate(appended):
        assert bool((known.diff(dim=1) > 0).all())
        # ^ each position once
        final = ids[row // len(counts)].flatten()[known[0]]
        assert torch.equal(appended_ids.flatten()[known[0]], final)
    monkeypatch.undo()
    assert torch.equal(ids, generator.generate_tokens(inputs, ["LULC"], strategy=strategy)["LULC"])


@torch.no_grad()
def test_later_steps_depend_on_decided_tokens():
    generator, inputs = make(embed_last=True), rasters(height=48, width=48)
    key, grid = "tok_ndvi@224", (3, 3)
    embedded = generator.model.embed_inputs(inputs)
    context = generator.model.encode_context(embedded)
    ids = torch.arange(9).view(1, 3, 3) * 1000
    known = torch.tensor([[0, 4, 8]])
    positions = torch.tensor([[1, 2]])
    (initial_logits,) = generator.model.logits(context, [key], grid, positions)
    extended = generator.model.append_tokens(embedded, key, ids, known)
    assert extended.tokens.shape[1] == embedded.tokens.shape[1] + 3
    context_after = generator.model.encode_context(extended)
    (later_logits,) = generator.model.logits(context_after, [key], grid, positions)
    assert float((later_logits - initial_logits).abs().max()) > 0.01
    changed = ids.clone()
    changed[0, 0, 1] = 7
    (unchanged,) = generator.model.logits(
        generator.model.encode_context(
            generator.model.append_tokens(embedded, key, changed, known)
        ),
        [key],
        grid,
        positions,
    )
    assert torch.equal(later_logits, unchanged)
    # ^ a position that is not yet decided has no effect


def test_several_steps_require_an_embedding_of_the_target():
    with pytest.raises(ModelError, match="embed_last"):
        make().generate(rasters(), decoding_steps=2, standardize=False)
    outputs = make().generate_tokens(
        rasters(), ["LULC"], strategy=SamplingStrategy(decoding_steps=2)
    )
    assert outputs["LULC"].shape == (1, 2, 2)
    assert "encoder_embeddings.tok_ndvi@224.mod_emb" in make(embed_last=True).model.state_dict()


# --- land cover and coordinates as inputs and outputs ---------------------------------------------


def test_a_class_raster_is_accepted_in_every_form():
    generator = make(("S2L2A", "LULC"), ("DEM",))
    classes = torch.randint(10, (3, 32, 48), generator=torch.Generator().manual_seed(1))
    one_hot = torch.nn.functional.one_hot(classes, 10).permute(0, 3, 1, 2).float()
    image = raw(("S2L2A",), batch=3, height=32, width=48)
    forms = [classes, classes[:, None], one_hot, classes.to(torch.uint8)]
    outputs = [generator.generate(image | {"LULC": form}, timesteps=1) for form in forms]
    assert all(are_equal(outputs[0], repeated) for repeated in outputs[1:])
    outputs_without_map = generator.generate(image, timesteps=1)
    assert not are_equal(outputs[0], outputs_without_map)
    with pytest.raises(ModelError, match=r"classes 0\.\.9"):
        generator.generate(image | {"LULC": classes + 1}, timesteps=1)


def test_an_input_cannot_be_requested_as_an_output():
    generator = make(("S2L2A", "LULC"), ("LULC", "NDVI"))
    inputs = rasters(("S2L2A",)) | {"LULC": torch.zeros(1, 32, 32, dtype=torch.long)}
    with pytest.raises(ModelError, match="requested as an output, but given as an input"):
        generator.generate(inputs, standardize=False)
    assert set(generator.generate(inputs, ["NDVI"], standardize=False, timesteps=1)) == {"NDVI"}
    assert "LULC" in generator.generate(rasters(("S2L2A",)), ["LULC"], standardize=False)


def test_a_modality_can_be_pixels_as_input_and_tokens_as_output():
    generator = make(("S2L2A",), ("S2L2A", "LULC"))
    assert set(generator.spec.input_keys.values()) == {"untok_sen2l2a@224"}
    outputs = generator.generate(raw(("S2L2A",)), timesteps=1)
    assert outputs["S2L2A"].shape == (1, 12, 32, 32)


def test_coordinates_are_given_in_degrees():
    generator = make(("S2L2A", "Coords"), ("LULC",))
    image = rasters(("S2L2A",), batch=2)
    degrees = image | {"Coords": torch.tensor([[-7.3, 1.45], [0.1, -0.1]])}
    ids = image | {"Coords": torch.tensor([[10, 11, 3], [12, 13, 3]])}
    assert torch.equal(generator.encode_inputs(degrees), generator.encode_inputs(ids))
    assert generator.encode_inputs(degrees).shape[1] == 4 + 3
    with pytest.raises(ModelError, match="NaN"):
        generator.encode_inputs(image | {"Coords": torch.tensor([[0.0, float("nan")]] * 2)})
    without_tokenizer = model.generator(MICRO, ["S2L2A", "Coords"], ["LULC"], tokenizers={})
    with pytest.raises(ModelError, match="tokenizer of coordinates"):
        without_tokenizer.encode_inputs(degrees)


@pytest.mark.parametrize(("third_word", "final_word"), [(3, 3), (6, 3), (99, 99)])
def test_coordinates_are_generated_word_by_word(monkeypatch, third_word, final_word):
    generator, inputs = make(("S2L2A",), ("Coords", "LULC")), rasters(("S2L2A",))
    sequences = []

    def next_logits(_context, key, ids):
        sequences.append((key, ids.tolist()))
        return torch.nn.functional.one_hot(
            torch.tensor([[0, 10, 11, third_word][ids.shape[1]]] * len(ids)), 30000
        ).float()

    monkeypatch.setattr(generator.model, "next_logits", next_logits)
    outputs = generator.generate(inputs, standardize=False)
    assert sequences == [("coords", [[5, 10, 11][: index + 1]]) for index in range(3)]
    assert outputs["Coords"].tolist() == [[-7.25, 1.5]]
    ids = generator.generate_tokens(inputs)
    assert ids["Coords"].tolist() == [[10, 11, final_word]]
    logits = generator.token_logits(inputs, "LULC", tokens={"Coords": ids["Coords"]})
    assert torch.equal(logits.argmax(2).view(1, 2, 2), ids["LULC"])


def test_future_words_are_announced_to_an_encoder_that_knows_the_modality():
    inputs = rasters(("S2L2A",))
    counts = {}
    for outputs in (("LULC", "Coords", "NDVI"), ("LULC", "Coords")):
        generator = make(("S2L2A",), outputs)
        token_counts = []
        hook = generator.model.encoder[0].register_forward_pre_hook(
            lambda _, args, token_counts=token_counts: token_counts.append(args[0].shape[1])
        )
        generator.generate_tokens(inputs)
        generator.generate_tokens(inputs, strategy=SamplingStrategy(chained=False))
        hook.remove()
        counts[outputs] = token_counts
    assert counts["LULC", "Coords", "NDVI"] == [4 + 1, 4 + 4 + 1, 4 + 4 + 3, 4]
    assert counts["LULC", "Coords"] == [4, 4 + 4, 4]


def test_invalid_words_are_nan_and_decoding_is_causal():
    generator = make(("S2L2A",), ("Coords", "LULC"))
    degrees = generator.generate(rasters(("S2L2A",), batch=2), ["Coords"], standardize=False)[
        "Coords"
    ]
    assert degrees.shape == (2, 2)
    assert bool(degrees.isnan().all())
    context = generator.model.encode_context(generator.model.embed_inputs(rasters(("S2L2A",))))
    words = generator.model.target_embedding("coords").embed_ids(torch.tensor([[5, 10, 99]]))
    decoded = generator.model._run_decoder(words[:, None], context.memory, causal=True)[:, 0]
    for count in (1, 2):
        partial = generator.model._run_decoder(words[:, None, :count], context.memory, causal=True)[
            :, 0
        ]
        torch.testing.assert_close(partial[:, -1], decoded[:, count - 1], atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match="no positions"):
        generator.token_logits(rasters(("S2L2A",)), "Coords")


def test_without_a_raster_the_size_is_passed_or_the_published_one():
    generator = make(("S2L2A", "Coords"), ("LULC",))
    inputs = {"Coords": torch.tensor([[0.0, 0.0]])}
    assert generator.generate(inputs, size=(32, 48))["LULC"].shape == (1, 10, 32, 48)
    assert generator.generate_tokens(inputs)["LULC"].shape == (1, 14, 14)


# --- expectations ---------------------------------------------------------------------------------


def test_class_probabilities_are_decoded_from_the_mean_code():
    generator, inputs = make(), rasters(height=32, width=48, batch=2)
    tokenizer = generator.tokenizer.get_raster_tokenizer("tok_lulc@224")
    token_probabilities = generator.token_logits(inputs, "LULC").softmax(2)
    codes = tokenizer.ids_to_codes(torch.arange(4375).view(1, 1, -1))[0, :, 0]
    mean = torch.einsum("bnv,cv->bcn", token_probabilities, codes).view(2, 5, 2, 3)
    expected = tokenizer.class_logits(mean).softmax(1)
    actual = generator.class_probabilities(inputs, standardize=False)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    assert actual.shape == (2, 10, 32, 48)


def test_certain_probabilities_agree_with_the_generated_classes():
    generator, inputs = make(), rasters()
    expected = generator.generate(inputs, ["LULC"], standardize=False)["LULC"].softmax(1)
    at_zero_temperature = generator.class_probabilities(inputs, temperature=0, standardize=False)
    torch.testing.assert_close(at_zero_temperature, expected, atol=1e-5, rtol=1e-4)
    from_top_token = generator.class_probabilities(inputs, top_k=1, standardize=False)
    torch.testing.assert_close(from_top_token, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        generator.class_probabilities(inputs, standardize=False).sum(1),
        torch.ones(1, 32, 32),
        atol=1e-5,
        rtol=0,
    )


def test_class_probabilities_do_not_depend_on_the_batch():
    generator, inputs = make(), rasters(batch=3)
    probabilities = generator.class_probabilities(inputs, standardize=False)
    last_probabilities = generator.class_probabilities(
        {name: values[2:] for name, values in inputs.items()}, standardize=False
    )
    assert torch.equal(probabilities[2:], last_probabilities)
    with pytest.raises(ModelError, match="LULC"):
        generator.class_probabilities(inputs, "NDVI", standardize=False)
