"""Noise of the ground: normal, independent, and equal in all windows that cover a pixel."""

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


def one(seed=0, modality="DEM", channels=1, side=512, place=(0, 0)):
    return ground_noise.make_noise(seed, modality, channels, (side, side), [place])[0].numpy()


def mixed(x):
    """Return the finaliser of SplitMix64, computed with Python's integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def by_hand(seed, modality, channel, row, column):
    key = hashlib.sha256(f"{seed} {modality} {channel}".encode()).digest()[:8]
    bits = int.from_bytes(key, "little")
    bits = mixed(bits ^ mixed((row * 0x9E3779B97F4A7C15) & MASK))
    bits = mixed(bits ^ mixed((column * 0xD1B54A32D192ED03) & MASK))
    return NormalDist().inv_cdf(((bits >> 11) + 0.5) / 2**53)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**40),
    st.sampled_from(["S2L2A", "NDVI"]),
    st.integers(-(2**45), 2**45),
    st.integers(-(2**45), 2**45),
)
def test_a_number_depends_on_its_coordinates_alone(seed, modality, row, column):
    noise = ground_noise.make_noise(
        seed, modality, 2, (3, 2), [(row, column), (row - 1, column + 1)]
    )
    for index, (first, left) in enumerate(((row, column), (row - 1, column + 1))):
        for channel in (0, 1):
            for y, x in ((0, 0), (2, 1)):
                expected = by_hand(seed, modality, channel, first + y, left + x)
                assert abs(float(noise[index, channel, y, x]) - expected) < 1e-6


def test_the_numbers_are_normal():
    for origin in ((0, 0), (-300, -700_000), (524_288, 65_536)):
        drawn = one(place=origin, channels=2)
        count = drawn.size
        assert abs(drawn.mean()) < 4 / count**0.5
        assert abs(drawn.var() - 1) < 4 * (2 / count) ** 0.5
        assert abs((drawn**3).mean()) < 4 * (15 / count) ** 0.5
        assert abs((drawn**4).mean() - 3) < 4 * (96 / count) ** 0.5
        levels = np.linspace(-3, 3, 25)
        shares = np.searchsorted(np.sort(drawn.ravel()), levels) / count
        expected = [NormalDist().cdf(level) for level in levels]
        assert np.abs(shares - expected).max() < 2 / count**0.5
        # ^ Kolmogorov-Smirnov at far beyond any usual level


def test_neighbours_channels_seeds_and_modalities_say_nothing_of_each_other():
    drawn = one(channels=2)
    first, second = drawn
    pairs = {
        "channel": (first, second),
        "seed": (first, one(seed=1)[0]),
        "modality": (first, one(modality="S1GRD")[0]),
        "transposed": (first, first.T),
        "mirrored": (
            one(side=511, place=(1, 1))[0],
            one(side=511, place=(-511, -511))[0, ::-1, ::-1],
        ),
    }
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1), (16, 0), (0, 64), (2, 3)):
        left, moved = max(0, -right), max(0, right)
        a = first[down:, moved : 512 - left]
        b = first[: 512 - down, left : 512 - moved]
        pairs[f"{down} down, {right} right"] = (a, b)
    for name, (a, b) in pairs.items():
        compared = a != b if name == "transposed" else np.ones(a.shape, bool)
        # ^ the diagonal is its own mirror
        count = compared.sum()
        assert abs(np.corrcoef(a[compared], b[compared])[0, 1]) < 5 / count**0.5, name
        assert abs(np.corrcoef(a[compared] ** 2, b[compared] ** 2)[0, 1]) < 5 / count**0.5, name


def test_no_frequency_stands_out():
    power = np.abs(np.fft.fft2(one()[0])) ** 2 / 512**2
    rows, columns = power.mean(axis=1), power.mean(axis=0)
    for mean in (rows, columns):
        assert np.abs(mean - 1).max() < 6 / 512**0.5


def test_windows_see_the_same_noise_where_they_overlap():
    origins = [(10, -40), (10, -24), (26, -40), (-4, -61)]
    noise = ground_noise.make_noise(3, "S2L2A", 12, (32, 48), origins).numpy()
    whole = ground_noise.make_noise(3, "S2L2A", 12, (100, 160), [(-20, -80)])[0].numpy()
    for (row, column), window in zip(origins, noise, strict=True):
        top, left = row + 20, column + 80
        np.testing.assert_array_equal(window, whole[:, top : top + 32, left : left + 48])
    assert noise.dtype == np.float32
    assert len(np.unique(whole)) > 0.99 * whole.size


def test_the_same_again():
    assert torch.equal(
        *(ground_noise.make_noise(0, "DEM", 1, (16, 16), [(5, 6)]) for _ in range(2))
    )


@pytest.fixture(scope="module")
def sure():
    """Return a model that is sure of one token everywhere: its outputs differ by noise only."""
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


def windows():
    rng = np.random.default_rng(0)
    ground = rng.normal(400, 200, (1, WINDOW, STRIDE * (COUNT - 1) + WINDOW)).astype(np.float32)
    cut = [ground[:, :, start : start + WINDOW] for start in range(0, STRIDE * COUNT, STRIDE)]
    return {"DEM": np.stack(cut)}, [(700, -90 + STRIDE * index) for index in range(COUNT)]


def seam(answers):
    """Return the difference of neighbours in the middle of their overlap, and the blended contrast.

    Both in shares of the picture's own deviation: two pictures that have nothing to do with each
    other differ by 1.41, and blended half and half they keep 0.71 of their contrast.
    """
    overlap = WINDOW - STRIDE
    middle = slice(overlap // 4, 3 * overlap // 4)
    gaps = [
        left[:, :, -overlap:][:, :, middle] - right[:, :, :overlap][:, :, middle]
        for left, right in itertools.pairwise(answers)
    ]
    rising = np.minimum(1, (np.arange(WINDOW) + 0.5) / overlap)
    ramp = np.minimum(rising, rising[::-1])
    blended = np.zeros((WINDOW, STRIDE * (COUNT - 1) + WINDOW))
    weight = np.zeros(blended.shape[1])
    for index, output in enumerate(answers):
        columns = slice(index * STRIDE, index * STRIDE + WINDOW)
        blended[:, columns] += output[0] * ramp
        weight[columns] += ramp
    blended /= weight
    lines = [STRIDE * index + overlap // 2 for index in range(1, COUNT)]
    across = np.concatenate([blended[:, line - 4 : line + 4].ravel() for line in lines])
    deviation = float(answers.std())
    return float(np.sqrt(np.mean(np.square(gaps)))) / deviation, float(across.std()) / deviation


def test_what_is_made_from_the_noise_of_the_ground_has_less_of_a_seam(sure):
    chips, origins = windows()
    (ground,), (own,) = sure.predict(chips, origins), sure.predict(chips)
    apart, smooth = seam(ground)
    apart_own, kept_own = seam(own)
    assert apart_own > 1
    assert apart < 0.25 * apart_own
    assert smooth > 0.95 > 0.9 > kept_own
    # ^ without places all windows start from one noise, which lies elsewhere on the ground for each


def test_windows_without_places_start_from_one_noise(sure):
    chips, origins = windows()
    same = {"DEM": np.repeat(chips["DEM"][:1], 2, axis=0)}
    (fixed,) = sure.predict(same)
    np.testing.assert_array_equal(fixed[0], fixed[1])
    (placed,) = sure.predict(same, origins[:2])
    assert not np.array_equal(placed[0], placed[1])
    np.testing.assert_array_equal(sure.predict(same, origins[:2])[0], placed)
    np.testing.assert_array_equal(sure(same), fixed)
