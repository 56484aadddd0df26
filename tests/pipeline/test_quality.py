"""Seams: counted, silent where there is none, loud where one is planted; figures and gates."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from catalogs import legend
from flows.config.quality import QualityGate
from pipeline import layer_table
from pipeline.grid import grid as grids
from pipeline.grid.window_lattice import Lattice
from pipeline.plan.plan import from_geojson
from pipeline.plan.settings import QualityLimits
from pipeline.product.report import charts
from pipeline.quality import quality_gate, quality_metrics, seam_test
from pipeline.quality.seam_profiles import SeamProfiles
from pipeline.quality.seam_test import Seam
from pipeline.storage import mosaic, receipt, zarr_store
from pipeline.storage.receipt import Receipt
from tests.support import large_plan

LATTICE = Lattice(window=224, stride=208, context_width=0)
SIDE = 1248
TILE = 416
CODES = tuple(entry.code for entry in legend.CLASSES)


def _blocks(values, valid, size):
    """Cut a layer into blocks as a store gives them."""
    for row in range(0, valid.shape[0], size):
        for column in range(0, valid.shape[1], size):
            part = slice(row, row + size), slice(column, column + size)
            yield row, column, values[(..., *part)], valid[part]


def _cuts(values, first=(37, 91), lattice=LATTICE, layer="land_cover"):
    valid = values != 0 if values.ndim == 2 else np.isfinite(values).all(axis=0)
    axes = seam_test.count_boundaries(_blocks(values, valid, TILE), valid.shape)
    return SeamProfiles(
        layer=layer_table.get(layer),
        lattice=lattice,
        tile_size=TILE,
        period=16,
        profiles=tuple(zip(first, axes, strict=True)),
    )


def _field(seed, slope, shape=(SIDE, SIDE), along=1.0):
    """Return a random field of spectrum k^-slope, unit variance; ``along`` draws it out."""
    rows, columns = np.fft.fftfreq(shape[0])[:, None] * along, np.fft.rfftfreq(shape[1])[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1
    noise = np.random.default_rng(seed).standard_normal(shape)
    field = np.fft.irfft2(np.fft.rfft2(noise) * frequency ** (-slope / 2), s=shape)
    return (field - field.mean()) / field.std()


def _classes(field, number=6):
    edges = np.quantile(field[::5, ::5], np.linspace(0, 1, number + 1)[1:-1])
    return (np.searchsorted(edges, field) + 1).astype(np.uint8)


def _cells(seed, number, power):
    """Return cells around random points: round ones, or squares that stand on a corner."""
    chance = np.random.default_rng(seed)
    points = np.zeros((SIDE, SIDE), dtype=bool)
    at = chance.integers(SIDE, size=(2, number))
    points[tuple(at)] = True
    if power == 2:
        near = ndimage.distance_transform_edt(~points, return_distances=False, return_indices=True)
    else:
        near = ndimage.distance_transform_cdt(
            ~points, "taxicab", return_distances=False, return_indices=True
        )
    labels = chance.integers(1, 9, (SIDE, SIDE))
    return labels[tuple(near)].astype(np.uint8)


def _parcels(seed):
    """Return fields with straight borders along rows and columns, some of them long."""
    chance = np.random.default_rng(seed)
    values = np.zeros((SIDE, SIDE), dtype=np.uint8)
    todo = [(0, SIDE, 0, SIDE)]
    while todo:
        top, bottom, left, right = todo.pop()
        tall, wide = bottom - top, right - left
        if tall * wide < 2500 * chance.uniform(0.5, 2) or min(tall, wide) < 8:
            values[top:bottom, left:right] = chance.integers(1, 9)
        elif tall > wide * chance.uniform(0.6, 1.6):
            middle = top + int(tall * chance.uniform(0.3, 0.7))
            todo += [(top, middle, left, right), (middle, bottom, left, right)]
        else:
            middle = left + int(wide * chance.uniform(0.3, 0.7))
            todo += [(top, bottom, left, middle), (top, bottom, middle, right)]
    return values


def _trend(seed):
    """Return a map that is quiet in the north and ever busier to the south."""
    busy = _field(seed, 3) + 4 * np.linspace(0, 1, SIDE)[:, None] ** 2 > 1.5
    return np.where(busy, _classes(_field(seed + 50, 2)), 3).astype(np.uint8)


def _patched(seed):
    """Return a map with the texture of a transformer: every patch of the windows is its own."""
    chance = np.random.default_rng(seed)
    patches = np.kron(chance.standard_normal((80, 80)), np.ones((16, 16)))
    return _classes(_field(seed, 2.6) + 0.3 * patches[5 : 5 + SIDE, 11 : 11 + SIDE])
    # ^ the first row is number 37 from the origin, the first column number 91


def _coarse(seed):
    """Return a map whose pixels are made of coarser ones."""
    return np.kron(_classes(_field(seed, 2.4, (SIDE // 2, SIDE // 2))), np.ones((2, 2), np.uint8))


def _torn(seed):
    """Return a map with holes of no data."""
    return np.where(_field(seed, 3.4) > 0.4, 0, _classes(_field(seed + 9, 2.6))).astype(np.uint8)


SEAMLESS = {
    "rough": lambda seed: _classes(_field(seed, 1.8)),
    "smooth": lambda seed: _classes(_field(seed, 3.2)),
    "drawn out": lambda seed: _classes(_field(seed, 2.2, along=0.05)),
    "round cells": lambda seed: _cells(seed, 1500, 2),
    "slanted cells": lambda seed: _cells(seed, 300, 1),
    "parcels": _parcels,
    "trend": _trend,
    "patches": _patched,
    "coarser pixels": _coarse,
    "holes": _torn,
}


@pytest.fixture(scope="module")
def seamless():
    """Judge maps without a seam: (kind of map, z at window lines, z at tile lines)."""
    found = []
    for kind, make in SEAMLESS.items():
        for seed in range(4):
            judged = _cuts(make(1000 * len(found) + 10 * seed))
            found.append((kind, judged.evaluate_windows(), judged.evaluate_tiles()))
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 19),
    st.integers(1, 19),
    st.integers(1, 8),
    st.sampled_from([0, 1, 3]),
    st.integers(0, 9),
)
def test_changes_are_counted_once_at_each_boundary(height, width, size, bands, seed):
    chance = np.random.default_rng(seed)
    shape = (bands, height, width) if bands else (height, width)
    values = chance.integers(0, 4, shape).astype(np.float32 if bands else np.uint8)
    valid = chance.random((height, width)) > 0.2
    down, across = seam_test.count_boundaries(_blocks(values, valid, size), (height, width))
    for axis, profile in ((0, down), (1, across)):
        stack = np.moveaxis(values if bands else values[None], axis + 1, 1)
        known = np.moveaxis(valid, axis, 0)
        for number in range(1, stack.shape[1]):
            both = known[number] & known[number - 1]
            step = np.abs(stack[:, number] - stack[:, number - 1]) if bands else None
            other = step.mean(axis=0) if bands else stack[0, number] != stack[0, number - 1]
            assert profile.pairs[number] == both.sum()
            assert profile.changes[number] == pytest.approx(other[both].sum())
        assert profile.pairs[0] == profile.changes[0] == 0


@pytest.mark.parametrize("which", [1, 2], ids=["windows", "tiles"])
def test_maps_without_a_seam_are_standard_normal(seamless, which):
    z = np.array([entry[which].z for entry in seamless])
    assert np.abs(z).max() < 3.3
    assert abs(z.mean()) < 3 / np.sqrt(len(z))
    assert 0.75 < z.std() < 1.3
    # ^ 40 maps of ten kinds


def test_real_maps_have_no_seam_where_none_was_made(realdata):
    import rasterio

    found = []
    for path in sorted(realdata.glob("terramesh-cog/*/LULC.tif")):
        with rasterio.open(path) as file:
            chip = file.read(1)
        mirrored = np.block([[chip, chip[:, ::-1]], [chip[::-1], chip[::-1, ::-1]]])
        whole = np.tile(mirrored, (3, 3))[:SIDE, :SIDE]
        # ^ 224 px are too few; mirrored they join without a step
        for first in ((37, 91), (1000, 71), (5, 160)):
            found += [_cuts(whole, first).evaluate_windows(), _cuts(whole, first).evaluate_tiles()]
    z = [seam.z for seam in found if seam is not None]
    assert len(z) >= 12
    assert max(z) < 3


def _phases(first):
    return (first + np.arange(SIDE)) % LATTICE.stride


def _at(*phases):
    """Return the pixels in columns, or rows, of some phases of the lattice."""
    row, column = (np.isin(_phases(first), phases) for first in (37, 91))
    return row[:, None] | column[None]


def _flipped(values, where, share, seed=5):
    chosen = where & (np.random.default_rng(seed).random(values.shape) < share)
    return np.where(chosen, values % 8 + 1, values).astype(np.uint8)


def _stepped(field, ramp, size=0.05):
    """Give each window an offset of its own: a hard step between them, or a ramp."""
    offsets = size * np.random.default_rng(3).standard_normal((12, 12))
    number = [(first + np.arange(SIDE)) // LATTICE.stride for first in (37, 91)]
    weight = [np.clip((_phases(first) + 0.5) / max(ramp, 1e-9), 0, 1) for first in (37, 91)]
    rows, columns = (
        np.eye(12)[one] * w[:, None] + np.eye(12)[one - 1] * (1 - w[:, None])
        for one, w in zip(number, weight, strict=True)
    )
    return _classes(field + rows @ offsets @ columns.T)


PLANTED = {
    "two per cent beside the first boundary": lambda: _flipped(_base(), _at(0), 0.02),
    "two per cent beside the middle": lambda: _flipped(_base(), _at(8), 0.02),
    "one per cent where windows blend": lambda: _flipped(_base(), _at(*range(17)), 0.01),
    "hard step": lambda: _stepped(_field(1, 3.4), 0),
    "blended offset": lambda: _stepped(_field(1, 3.4), 16, size=0.4),
    "every window its own class": lambda: _chequered(2),
}


def _base():
    return _cells(4, 700, 2)


def _chequered(number):
    row, column = ((first + np.arange(SIDE)) // LATTICE.stride for first in (37, 91))
    return ((row[:, None] + column[None]) % number + 1).astype(np.uint8)


@pytest.mark.parametrize("plant", PLANTED.values(), ids=list(PLANTED))
def test_planted_seams_of_windows_are_found(plant):
    seam = _cuts(plant()).evaluate_windows()
    assert seam.z > 4
    assert seam.excess > 0
    assert seam.lines >= 8


def test_a_planted_seam_of_tiles_is_found_and_is_none_of_windows():
    edge = np.arange(SIDE) % TILE == 0
    values = _flipped(_base(), edge[:, None] | edge[None], 0.04)
    judged = _cuts(values)
    assert judged.evaluate_tiles().z > 3
    assert judged.evaluate_tiles().lines == 4
    assert abs(judged.evaluate_windows().z) < 3


def test_a_seam_of_windows_is_none_of_tiles():
    judged = _cuts(_flipped(_base(), _at(0, 8), 0.05), first=(37, 91))
    assert judged.evaluate_windows().z > 4
    assert judged.evaluate_tiles().z < 3


def test_what_is_too_small_or_too_uniform_is_not_judged():
    assert _cuts(np.ones((SIDE, SIDE), np.uint8)).evaluate_windows() is None
    assert _cuts(_base()[:100, :100]).evaluate_windows() is None
    assert _cuts(_base()[:TILE, :TILE]).evaluate_tiles() is None
    assert _cuts(np.zeros((SIDE, SIDE), np.uint8)).evaluate_tiles() is None


@pytest.mark.parametrize(
    "lattice",
    [
        Lattice(window=224, stride=192, context_width=0),
        Lattice(window=224, stride=112, context_width=0),
        Lattice(window=224, stride=176, context_width=8),
        Lattice(window=224, stride=224, context_width=0),
        Lattice(window=128, stride=100, context_width=4),
    ],
    ids=str,
)
def test_lines_follow_the_lattice(lattice):
    columns = 91 + np.arange(SIDE)
    starts = np.flatnonzero((columns - lattice.context_width) % lattice.stride == 0)
    values = _base()
    clean = _cuts(values, lattice=lattice).evaluate_windows()
    assert clean.z < 3
    values[:, starts[:, None] + np.arange(0, SIDE, 9)[None] % 1] = 9
    # ^ a column of a class of its own where each window begins to count
    found = _cuts(values, lattice=lattice).evaluate_windows()
    assert found.z > 10
    assert found.worst > 0.3
    assert found.excess > 0


def test_continuous_answers_are_judged_by_their_steps():
    field = _field(2, 2.6).astype(np.float32)[None]
    clean = _cuts(field, layer="composite_DEM").evaluate_windows()
    assert abs(clean.z) < 3
    row, column = ((first + np.arange(SIDE)) // LATTICE.stride for first in (37, 91))
    steps = 0.2 * ((row[:, None] + column[None]) % 2)
    found = _cuts((field + steps).astype(np.float32), layer="composite_DEM").evaluate_windows()
    assert found.z > 4
    assert 0.02 < found.worst < 0.2
    # ^ what is left of the step where the field's own ones hide it
    again = _cuts(
        ((field + steps) * 1000).astype(np.float32), layer="composite_DEM"
    ).evaluate_windows()
    assert again.z == pytest.approx(found.z, rel=1e-3)
    # ^ whatever the unit


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize(("n", "count"), [(1, 0), (10, 10), (900, 400), (5000, 61)])
def test_shares_have_wilson_s_interval_and_pixels_of_a_sample_are_one(n, count, size):
    """Where all pixels of a sample are alike, it tells as much as one of them."""
    share = quality_metrics.ProportionEstimate.from_samples(
        [(size, size)] * count + [(size, 0)] * (n - count)
    )
    low, high = stats.binomtest(count, n).proportion_ci(method="wilson")
    assert (share.low, share.high) == pytest.approx((low, high), abs=2e-4)
    assert share.n == n * size


def test_the_interval_of_samples_holds_the_truth():
    chance = np.random.default_rng(2)
    held = 0
    for _ in range(400):
        shares = chance.beta(0.5, 2.0, 40)
        pixels = chance.integers(50, 200, 40)
        one = quality_metrics.ProportionEstimate.from_samples(
            list(zip(pixels, chance.binomial(pixels, shares), strict=True))
        )
        held += one.low <= 0.2 <= one.high
    assert 0.9 < held / 400 < 0.98


def test_of_nothing_there_is_no_share():
    assert quality_metrics.ProportionEstimate.from_samples([]) is None
    assert quality_metrics.ProportionEstimate.from_samples([(0, 0)]) is None
    one = quality_metrics.ProportionEstimate.from_samples([(5000, 900)])
    assert one.high - one.low > 0.5
    # ^ of one sample nobody knows how far it strays


@pytest.fixture
def two_zones(tmp_path):
    """Make a store over two zones, without a model: a field of classes on the ground."""
    plan = large_plan.plan(tmp_path, 4)
    mosaic_grid = grids.build_covering_grid(from_geojson(plan.region), 3035, 10.0, (0.0, 0.0))
    plan = dataclasses.replace(plan, mosaic_grids=(mosaic_grid,), tile_size=512)
    return plan, tmp_path


def _fill(plan, folder, paint):
    """Write land cover and observations of all tiles, and their receipts."""
    names = {"land_cover": ("land_cover",), "observations": ("observations",)}
    zarr_store.create(folder, plan, names)
    for tile in plan.tiles:
        area = plan.tile_grid(tile)
        inside = grids.rasterize_region(grids.project(plan.region_for(tile.epsg), tile.epsg), area)
        none = layer_table.get("observations").fill_value
        values = {
            "land_cover": np.where(inside, paint(area), 0).astype(np.uint8),
            "observations": np.where(inside, 3, none).astype(none.dtype),
        }
        digests = zarr_store.write_tile(folder, plan, tile, values)
        proof = Receipt(
            tile=tile.id,
            key=plan.tile_key(tile),
            scenes=(),
            digests=digests,
            coverage={},
            versions={},
            seconds={},
            samples={"shifted": [[60, 2], [40, 2]], "silent": 1},
        )
        receipt.write(folder, tile, proof)


def _ground(area):
    """Return classes that depend on longitude and latitude alone."""
    from pyproj import Transformer

    xs = area.left + (np.arange(area.width) + 0.5) * area.resolution
    ys = area.top - (np.arange(area.height) + 0.5) * area.resolution
    back = Transformer.from_crs(area.epsg, 4326, always_xy=True)
    east, north = back.transform(*np.meshgrid(xs, ys))
    chance = np.random.default_rng(1)
    total = np.zeros(area.shape)
    for wave in chance.normal(0, 1200, (40, 2)):
        total += np.sin(wave[0] * east + wave[1] * north + chance.uniform(0, 6))
    return np.clip(total // 3 + 5, 1, 8)


def test_the_figures_of_a_product_over_two_zones(two_zones):
    plan, folder = two_zones
    _fill(plan, folder, _ground)
    found = quality_metrics.measure_quality(plan, folder)
    for seam in (found.window, found.tile, found.zone):
        assert seam.z < 3
    assert found.tile.lines >= 2
    assert found.zone.lines in (1, 2)
    assert found.disagreement.n == 100 * len(plan.tiles)
    assert found.disagreement.share == 0.04
    assert found.silent == len(plan.tiles)
    assert found.precision is None
    assert len(found.rate_by_phase) == plan.lattice.stride
    drawing = charts.draw_seam_rates(found.rate_by_phase, found.blend_length)
    assert drawing.count("<polyline") == 2


def test_a_step_between_two_zones_is_found(two_zones):
    plan, folder = two_zones
    _fill(plan, folder, lambda area: _ground(area) % 7 + 1 if area.epsg == 32633 else _ground(area))
    found = quality_metrics.measure_quality(plan, folder)
    assert found.zone.z > 10
    assert found.zone.excess > 0.2
    assert max(found.window.z, found.tile.z) < 3


def test_a_mosaic_says_which_zone_each_pixel_comes_from(two_zones):
    plan, folder = two_zones
    _fill(plan, folder, lambda area: np.full(area.shape, 1 if area.epsg == 32632 else 2))
    names = {"land_cover": (), "observations": ()}
    tiles = list(mosaic.iter_border_tiles(plan, folder, plan.mosaic_grids[0], names))
    assert 0 < len(tiles) < len(list(grids.split_into_tiles(plan.mosaic_grids[0], plan.tile_size)))
    for values, owner in tiles:
        assert (values["land_cover"] == owner).all()


def test_composites_alone_have_no_figures(two_zones):
    plan, folder = two_zones
    plain = dataclasses.replace(plan, model=None)
    assert quality_metrics.measure_quality(plain, folder) == quality_metrics.QualityMetrics()


def _figures(z=0.0, share=0.0):
    seam = Seam(z=z, lines=4, rate=0.06, excess=0.02, worst=0.03)
    disagreement = quality_metrics.ProportionEstimate.from_samples(
        [(1000, round(1000 * share))] * 99
    )
    return quality_metrics.QualityMetrics(tile=seam, disagreement=disagreement)


@pytest.mark.parametrize(
    ("gate", "figures", "told", "refused"),
    [
        ({}, _figures(2.9), 0, False),
        ({}, _figures(3.1), 1, False),
        ({"gate": "refuse"}, _figures(3.1), 1, True),
        ({"gate": "refuse"}, _figures(-9.0), 0, False),
        ({"gate": "refuse", "max_seam_z": 5.0}, _figures(3.1), 0, False),
        ({"gate": "refuse", "max_disagreement": 0.03}, _figures(4, 0.2), 2, True),
        ({"gate": "refuse", "max_disagreement": 0.19}, _figures(0, 0.2), 0, False),
        ({"gate": "off", "max_disagreement": 0.0}, _figures(9, 0.6), 0, False),
        ({"gate": "refuse"}, None, 0, False),
    ],
)
def test_the_gate_does_what_the_job_says(tmp_path, gate, figures, told, refused):
    plan = large_plan.plan(tmp_path, 1)
    settings = dataclasses.replace(plan.settings, quality_limits=QualityLimits(**gate))
    plan = dataclasses.replace(plan, settings=settings)
    found = quality_gate.find_violations(plan, figures)
    assert len(found) == told
    assert quality_gate.is_refused(plan, figures) is refused
    for text in found:
        assert "qc.max" in text


def _proportion(share):
    return quality_metrics.ProportionEstimate(n=1000, share=share, low=share, high=share)


def test_the_figures_of_an_item_are_read_as_they_were_measured():
    seam = Seam(z=0.5, lines=4, rate=0.06, excess=0.02, worst=0.03)
    for measured in (
        quality_metrics.QualityMetrics(),
        quality_metrics.QualityMetrics(zone=seam, precision=_proportion(0.99), silent=2),
    ):
        assert quality_metrics.QualityMetrics.from_dict(measured.to_dict()) == measured
    assert measured.largest_z == 0.5


def test_a_plan_without_limits_has_those_of_a_job_without_them(tmp_path):
    limits = large_plan.plan(tmp_path, 1).settings.quality_limits
    assert dataclasses.asdict(limits) == QualityGate().model_dump()


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"precision": _proportion(0.994)}, "precision: fp32"),
        ({"silent": 3}, "3 windows"),
        ({"precision": _proportion(0.996), "silent": 0}, None),
    ],
)
def test_what_full_precision_and_silent_windows_say(figures, said):
    metrics = quality_metrics.QualityMetrics(**figures)
    found = quality_gate.check_limits(metrics, QualityLimits())
    assert len(found) == (said is not None)
    assert said is None or said in found[0]
