"""Ground noise: normal, independent, and equal in all windows that cover a pixel."""

from __future__ import annotations

import hashlib
import itertools
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import model
from model.predictor import card_file
from model.predictor.predictor import InferenceOptions
from model.predictor.task_predictors import GenerativePredictor
from model.terramind import modalities
from model.terramind.generation import ground_noise
from tests.support import small_generators

WINDOW, STRIDE, COUNT = 128, 64, 6
MASK = 2**64 - 1


def make_window(seed=0, modality="DEM", channels=1, side=512, origin=(0, 0)):
    return ground_noise.make_noise(seed, modality, channels, (side, side), [origin])[0].numpy()


def mix_bits(x):
    """Return the finaliser of SplitMix64, computed with Python's integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def compute_expected(seed, modality, channel, row, column):
    key = hashlib.sha256(f"{seed} {modality} {channel}".encode()).digest()[:8]
    bits = int.from_bytes(key, "little")
    bits = mix_bits(bits ^ mix_bits((row * 0x9E3779B97F4A7C15) & MASK))
    bits = mix_bits(bits ^ mix_bits((column * 0xD1B54A32D192ED03) & MASK))
    return NormalDist().inv_cdf(((bits >> 11) + 0.5) / 2**53)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**40),
    st.sampled_from(["S2L2A", "NDVI"]),
    st.integers(-(2**45), 2**45),
    st.integers(-(2**45), 2**45),
)
def test_a_number_depends_on_its_coordinates_only(seed, modality, row, column):
    noise = ground_noise.make_noise(
        seed, modality, 2, (3, 2), [(row, column), (row - 1, column + 1)]
    )
    for index, (top, left) in enumerate(((row, column), (row - 1, column + 1))):
        for channel in (0, 1):
            for y, x in ((0, 0), (2, 1)):
                expected = compute_expected(seed, modality, channel, top + y, left + x)
                assert abs(float(noise[index, channel, y, x]) - expected) < 1e-6


def test_the_numbers_are_normal():
    for origin in ((0, 0), (-300, -700_000), (524_288, 65_536)):
        noise = make_window(origin=origin, channels=2)
        count = noise.size
        assert abs(noise.mean()) < 4 / count**0.5
        assert abs(noise.var() - 1) < 4 * (2 / count) ** 0.5
        assert abs((noise**3).mean()) < 4 * (15 / count) ** 0.5
        assert abs((noise**4).mean() - 3) < 4 * (96 / count) ** 0.5
        levels = np.linspace(-3, 3, 25)
        shares = np.searchsorted(np.sort(noise.ravel()), levels) / count
        expected = [NormalDist().cdf(level) for level in levels]
        assert np.abs(shares - expected).max() < 2 / count**0.5
        # ^ the Kolmogorov-Smirnov test, at a very strict level


def test_neighbours_channels_seeds_and_modalities_are_uncorrelated():
    noise = make_window(channels=2)
    first, second = noise
    pairs = {
        "channel": (first, second),
        "seed": (first, make_window(seed=1)[0]),
        "modality": (first, make_window(modality="S1GRD")[0]),
        "transposed": (first, first.T),
        "mirrored": (
            make_window(side=511, origin=(1, 1))[0],
            make_window(side=511, origin=(-511, -511))[0, ::-1, ::-1],
        ),
    }
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1), (16, 0), (0, 64), (2, 3)):
        left, moved = max(0, -right), max(0, right)
        first_field = first[down:, moved : 512 - left]
        second_field = first[: 512 - down, left : 512 - moved]
        pairs[f"{down} down, {right} right"] = (first_field, second_field)
    for name, (first_field, second_field) in pairs.items():
        is_compared = (
            first_field != second_field
            if name == "transposed"
            else np.ones(first_field.shape, bool)
        )
        # ^ the diagonal of a matrix equals that of its transpose
        count = is_compared.sum()
        assert (
            abs(np.corrcoef(first_field[is_compared], second_field[is_compared])[0, 1])
            < 5 / count**0.5
        ), name
        assert (
            abs(np.corrcoef(first_field[is_compared] ** 2, second_field[is_compared] ** 2)[0, 1])
            < 5 / count**0.5
        ), name


def test_all_frequencies_have_equal_power():
    power = np.abs(np.fft.fft2(make_window()[0])) ** 2 / 512**2
    rows, columns = power.mean(axis=1), power.mean(axis=0)
    for mean in (rows, columns):
        assert np.abs(mean - 1).max() < 6 / 512**0.5


def test_overlapping_windows_have_the_same_noise():
    origins = [(10, -40), (10, -24), (26, -40), (-4, -61)]
    noise = ground_noise.make_noise(3, "S2L2A", 12, (32, 48), origins).numpy()
    expected = ground_noise.make_noise(3, "S2L2A", 12, (100, 160), [(-20, -80)])[0].numpy()
    for (row, column), window in zip(origins, noise, strict=True):
        top, left = row + 20, column + 80
        np.testing.assert_array_equal(window, expected[:, top : top + 32, left : left + 48])
    assert noise.dtype == np.float32
    assert len(np.unique(expected)) > 0.99 * expected.size


def test_noise_is_reproducible():
    assert torch.equal(
        *(ground_noise.make_noise(0, "DEM", 1, (16, 16), [(5, 6)]) for _ in range(2))
    )


@pytest.fixture(scope="module")
def certain_predictor():
    """Return a model that always predicts the same token: its outputs differ by noise only."""
    card = card_file.from_mapping(
        {
            "name": "toy",
            "architecture": small_generators.MICRO,
            "tokenizer": {"dim": 32, "depth": 1, "heads": 2},
            "inputs": ["DEM"],
            "window": WINDOW,
        }
    )
    sizes = small_generators.TOKENIZER | {
        "unet": small_generators.TOKENIZER["unet"] | {"attention": []}
    }
    generator = model.generator(
        card.architecture,
        ["DEM"],
        ["NDVI"],
        weights={"random": 3},
        tokenizers={"NDVI": sizes},
        chained=False,
    )
    with torch.no_grad():
        generator.model.target_embedding(
            modalities.get_target_modality("NDVI").key
        ).to_logits.weight.zero_()
    return GenerativePredictor(
        generator,
        card,
        tasks=["generate"],
        modalities=["NDVI"],
        timesteps=2,
        options=InferenceOptions(device="cpu", precision="fp32"),
    )


def make_windows():
    rng = np.random.default_rng(0)
    heights = rng.normal(400, 200, (1, WINDOW, STRIDE * (COUNT - 1) + WINDOW)).astype(np.float32)
    chips = [heights[:, :, start : start + WINDOW] for start in range(0, STRIDE * COUNT, STRIDE)]
    return {"DEM": np.stack(chips)}, [(700, -90 + STRIDE * index) for index in range(COUNT)]


def measure_seam(outputs):
    """Return the difference of neighbours in the middle of their overlap, and the blended contrast.

    Both are relative to the standard deviation of the image: two independent images differ by 1.41,
    and blended half and half they keep 0.71 of their contrast.
    """
    overlap = WINDOW - STRIDE
    middle = slice(overlap // 4, 3 * overlap // 4)
    differences = [
        left[:, :, -overlap:][:, :, middle] - right[:, :, :overlap][:, :, middle]
        for left, right in itertools.pairwise(outputs)
    ]
    rising_ramp = np.minimum(1, (np.arange(WINDOW) + 0.5) / overlap)
    ramp = np.minimum(rising_ramp, rising_ramp[::-1])
    blended = np.zeros((WINDOW, STRIDE * (COUNT - 1) + WINDOW))
    weight = np.zeros(blended.shape[1])
    for index, output in enumerate(outputs):
        columns = slice(index * STRIDE, index * STRIDE + WINDOW)
        blended[:, columns] += output[0] * ramp
        weight[columns] += ramp
    blended /= weight
    lines = [STRIDE * index + overlap // 2 for index in range(1, COUNT)]
    seam_values = np.concatenate([blended[:, line - 4 : line + 4].ravel() for line in lines])
    deviation = float(outputs.std())
    return float(np.sqrt(np.mean(np.square(differences)))) / deviation, float(
        seam_values.std()
    ) / deviation


def test_outputs_from_ground_noise_have_smaller_seams(certain_predictor):
    chips, origins = make_windows()
    (with_origins,), (without_origins,) = (
        certain_predictor.predict(chips, origins),
        certain_predictor.predict(chips),
    )
    ground_difference, ground_contrast = measure_seam(with_origins)
    own_difference, own_contrast = measure_seam(without_origins)
    assert own_difference > 1
    assert ground_difference < 0.25 * own_difference
    assert ground_contrast > 0.95 > 0.9 > own_contrast
    # ^ without origins all windows start from the same noise, which then differs on the ground


def test_windows_without_origins_start_from_the_same_noise(certain_predictor):
    chips, origins = make_windows()
    equal_chips = {"DEM": np.repeat(chips["DEM"][:1], 2, axis=0)}
    (without_origins,) = certain_predictor.predict(equal_chips)
    np.testing.assert_array_equal(without_origins[0], without_origins[1])
    (with_origins,) = certain_predictor.predict(equal_chips, origins[:2])
    assert not np.array_equal(with_origins[0], with_origins[1])
    np.testing.assert_array_equal(
        certain_predictor.predict(equal_chips, origins[:2])[0], with_origins
    )
    np.testing.assert_array_equal(certain_predictor(equal_chips), without_origins)
