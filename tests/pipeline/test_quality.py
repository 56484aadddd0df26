"""Seams are counted, found where they are planted and only there; quality metrics and gates."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from catalogs.legend import LAND_COVER
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
CODES = tuple(entry.code for entry in LAND_COVER.classes)


def _iter_blocks(values, valid, size):
    """Split a layer into blocks as a store yields them."""
    for row in range(0, valid.shape[0], size):
        for column in range(0, valid.shape[1], size):
            block = slice(row, row + size), slice(column, column + size)
            yield row, column, values[(..., *block)], valid[block]


def _count_profiles(values, first=(37, 91), lattice=LATTICE, layer="land_cover"):
    valid = values != 0 if values.ndim == 2 else np.isfinite(values).all(axis=0)
    axes = seam_test.count_boundaries(_iter_blocks(values, valid, TILE), valid.shape)
    return SeamProfiles(
        layer=layer_table.get(layer),
        lattice=lattice,
        tile_size=TILE,
        period=16,
        profiles=tuple(zip(first, axes, strict=True)),
    )


def _make_field(seed, slope, shape=(SIDE, SIDE), along=1.0):
    """Return a random field of spectrum k^-slope and unit variance, stretched by ``along``."""
    rows, columns = np.fft.fftfreq(shape[0])[:, None] * along, np.fft.rfftfreq(shape[1])[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1
    noise = np.random.default_rng(seed).standard_normal(shape)
    field = np.fft.irfft2(np.fft.rfft2(noise) * frequency ** (-slope / 2), s=shape)
    return (field - field.mean()) / field.std()


def _classify(field, class_count=6):
    edges = np.quantile(field[::5, ::5], np.linspace(0, 1, class_count + 1)[1:-1])
    return (np.searchsorted(edges, field) + 1).astype(np.uint8)


def _make_cells(seed, number, power):
    """Return Voronoi cells of random points, by Euclidean or taxicab distance."""
    rng = np.random.default_rng(seed)
    points = np.zeros((SIDE, SIDE), dtype=bool)
    positions = rng.integers(SIDE, size=(2, number))
    points[tuple(positions)] = True
    if power == 2:
        nearest = ndimage.distance_transform_edt(
            ~points, return_distances=False, return_indices=True
        )
    else:
        nearest = ndimage.distance_transform_cdt(
            ~points, "taxicab", return_distances=False, return_indices=True
        )
    labels = rng.integers(1, 9, (SIDE, SIDE))
    return labels[tuple(nearest)].astype(np.uint8)


def _make_parcels(seed):
    """Return parcels with straight borders along rows and columns, some of them long."""
    rng = np.random.default_rng(seed)
    values = np.zeros((SIDE, SIDE), dtype=np.uint8)
    pending = [(0, SIDE, 0, SIDE)]
    while pending:
        top, bottom, left, right = pending.pop()
        height, width = bottom - top, right - left
        if height * width < 2500 * rng.uniform(0.5, 2) or min(height, width) < 8:
            values[top:bottom, left:right] = rng.integers(1, 9)
        elif height > width * rng.uniform(0.6, 1.6):
            middle = top + int(height * rng.uniform(0.3, 0.7))
            pending += [(top, middle, left, right), (middle, bottom, left, right)]
        else:
            middle = left + int(width * rng.uniform(0.3, 0.7))
            pending += [(top, bottom, left, middle), (top, bottom, middle, right)]
    return values


def _make_trend(seed):
    """Return a map with few changes in the north and ever more to the south."""
    is_varied = _make_field(seed, 3) + 4 * np.linspace(0, 1, SIDE)[:, None] ** 2 > 1.5
    return np.where(is_varied, _classify(_make_field(seed + 50, 2)), 3).astype(np.uint8)


def _make_patches(seed):
    """Return a map with patches as of a transformer: each has its own offset."""
    rng = np.random.default_rng(seed)
    patches = np.kron(rng.standard_normal((80, 80)), np.ones((16, 16)))
    return _classify(_make_field(seed, 2.6) + 0.3 * patches[5 : 5 + SIDE, 11 : 11 + SIDE])
    # ^ the first row is number 37 from the origin, the first column number 91


def _make_coarse_pixels(seed):
    """Return a map whose pixels are two by two copies of coarser ones."""
    return np.kron(
        _classify(_make_field(seed, 2.4, (SIDE // 2, SIDE // 2))), np.ones((2, 2), np.uint8)
    )


def _make_holes(seed):
    """Return a map with holes of no data."""
    return np.where(_make_field(seed, 3.4) > 0.4, 0, _classify(_make_field(seed + 9, 2.6))).astype(
        np.uint8
    )


SEAMLESS = {
    "rough": lambda seed: _classify(_make_field(seed, 1.8)),
    "smooth": lambda seed: _classify(_make_field(seed, 3.2)),
    "drawn out": lambda seed: _classify(_make_field(seed, 2.2, along=0.05)),
    "round cells": lambda seed: _make_cells(seed, 1500, 2),
    "slanted cells": lambda seed: _make_cells(seed, 300, 1),
    "parcels": _make_parcels,
    "trend": _make_trend,
    "patches": _make_patches,
    "coarser pixels": _make_coarse_pixels,
    "holes": _make_holes,
}


@pytest.fixture(scope="module")
def seamless_results():
    """Evaluate maps without a seam: (kind of map, window seam, tile seam)."""
    results = []
    for kind, make_map in SEAMLESS.items():
        for seed in range(4):
            profiles = _count_profiles(make_map(1000 * len(results) + 10 * seed))
            results.append((kind, profiles.evaluate_windows(), profiles.evaluate_tiles()))
    return results


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 19),
    st.integers(1, 19),
    st.integers(1, 8),
    st.sampled_from([0, 1, 3]),
    st.integers(0, 9),
)
def test_changes_are_counted_once_at_each_boundary(height, width, size, bands, seed):
    rng = np.random.default_rng(seed)
    shape = (bands, height, width) if bands else (height, width)
    values = rng.integers(0, 4, shape).astype(np.float32 if bands else np.uint8)
    valid = rng.random((height, width)) > 0.2
    for *_, block in _iter_blocks(values, valid, size):
        block[:] &= rng.random() > 0.3
    blocks = [block for block in _iter_blocks(values, valid, size) if block[3].any()]
    # ^ tiles without a pixel of the region are not passed
    down, across = seam_test.count_boundaries(blocks, (height, width))
    for axis, profile in ((0, down), (1, across)):
        stack = np.moveaxis(values if bands else values[None], axis + 1, 1)
        is_line_valid = np.moveaxis(valid, axis, 0)
        for number in range(1, stack.shape[1]):
            both = is_line_valid[number] & is_line_valid[number - 1]
            step = np.abs(stack[:, number] - stack[:, number - 1]) if bands else None
            change = step.mean(axis=0) if bands else stack[0, number] != stack[0, number - 1]
            assert profile.pairs[number] == both.sum()
            assert profile.changes[number] == pytest.approx(change[both].sum())
        assert profile.pairs[0] == profile.changes[0] == 0


@pytest.mark.parametrize("index", [1, 2], ids=["windows", "tiles"])
def test_z_scores_of_seamless_maps_are_standard_normal(seamless_results, index):
    z = np.array([entry[index].z for entry in seamless_results])
    assert np.abs(z).max() < 3.3
    assert abs(z.mean()) < 3 / np.sqrt(len(z))
    assert 0.75 < z.std() < 1.3
    # ^ 40 maps of ten kinds


def test_seamless_real_maps_have_no_seam(realdata):
    import rasterio

    seams = []
    for path in sorted(realdata.glob("terramesh-cog/*/LULC.tif")):
        with rasterio.open(path) as file:
            chip = file.read(1)
        mirrored = np.block([[chip, chip[:, ::-1]], [chip[::-1], chip[::-1, ::-1]]])
        mosaic = np.tile(mirrored, (3, 3))[:SIDE, :SIDE]
        # ^ 224 px are too few; mirrored copies join without a step
        for first in ((37, 91), (1000, 71), (5, 160)):
            seams += [
                _count_profiles(mosaic, first).evaluate_windows(),
                _count_profiles(mosaic, first).evaluate_tiles(),
            ]
    z = [seam.z for seam in seams if seam is not None]
    assert len(z) >= 12
    assert max(z) < 3


def _compute_phases(first):
    return (first + np.arange(SIDE)) % LATTICE.stride


def _mask_phases(*phases):
    """Return a mask of the pixels in rows or columns of some phases of the lattice."""
    row, column = (np.isin(_compute_phases(first), phases) for first in (37, 91))
    return row[:, None] | column[None]


def _change_classes(values, mask, share, seed=5):
    changed = mask & (np.random.default_rng(seed).random(values.shape) < share)
    return np.where(changed, values % 8 + 1, values).astype(np.uint8)


def _add_window_offsets(field, ramp, size=0.05):
    """Give each window its own offset, with a hard step or a ramp between windows."""
    offsets = size * np.random.default_rng(3).standard_normal((12, 12))
    window_indices = [(first + np.arange(SIDE)) // LATTICE.stride for first in (37, 91)]
    ramp_weights = [
        np.clip((_compute_phases(first) + 0.5) / max(ramp, 1e-9), 0, 1) for first in (37, 91)
    ]
    rows, columns = (
        np.eye(12)[index] * weight[:, None] + np.eye(12)[index - 1] * (1 - weight[:, None])
        for index, weight in zip(window_indices, ramp_weights, strict=True)
    )
    return _classify(field + rows @ offsets @ columns.T)


PLANTED = {
    "two per cent beside the first boundary": lambda: _change_classes(
        _make_base_map(), _mask_phases(0), 0.02
    ),
    "two per cent beside the middle": lambda: _change_classes(
        _make_base_map(), _mask_phases(8), 0.02
    ),
    "one per cent where windows blend": lambda: _change_classes(
        _make_base_map(), _mask_phases(*range(17)), 0.01
    ),
    "hard step": lambda: _add_window_offsets(_make_field(1, 3.4), 0),
    "blended offset": lambda: _add_window_offsets(_make_field(1, 3.4), 16, size=0.4),
    "every window its own class": lambda: _make_chequerboard(2),
}


def _make_base_map():
    return _make_cells(4, 700, 2)


def _make_chequerboard(number):
    row, column = ((first + np.arange(SIDE)) // LATTICE.stride for first in (37, 91))
    return ((row[:, None] + column[None]) % number + 1).astype(np.uint8)


@pytest.mark.parametrize("make_map", PLANTED.values(), ids=list(PLANTED))
def test_planted_seams_of_windows_are_found(make_map):
    seam = _count_profiles(make_map()).evaluate_windows()
    assert seam.z > 4
    assert seam.excess > 0
    assert seam.lines >= 8


def test_a_planted_seam_of_tiles_is_not_one_of_windows():
    edge = np.arange(SIDE) % TILE == 0
    values = _change_classes(_make_base_map(), edge[:, None] | edge[None], 0.04)
    profiles = _count_profiles(values)
    assert profiles.evaluate_tiles().z > 3
    assert profiles.evaluate_tiles().lines == 4
    assert abs(profiles.evaluate_windows().z) < 3


def test_a_planted_seam_of_windows_is_not_one_of_tiles():
    profiles = _count_profiles(
        _change_classes(_make_base_map(), _mask_phases(0, 8), 0.05), first=(37, 91)
    )
    assert profiles.evaluate_windows().z > 4
    assert profiles.evaluate_tiles().z < 3


def test_maps_too_small_or_too_uniform_are_not_evaluated():
    assert _count_profiles(np.ones((SIDE, SIDE), np.uint8)).evaluate_windows() is None
    assert _count_profiles(_make_base_map()[:100, :100]).evaluate_windows() is None
    assert _count_profiles(_make_base_map()[:TILE, :TILE]).evaluate_tiles() is None
    assert _count_profiles(np.zeros((SIDE, SIDE), np.uint8)).evaluate_tiles() is None


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
def test_boundary_lines_follow_the_lattice(lattice):
    columns = 91 + np.arange(SIDE)
    starts = np.flatnonzero((columns - lattice.context_width) % lattice.stride == 0)
    values = _make_base_map()
    clean = _count_profiles(values, lattice=lattice).evaluate_windows()
    assert clean.z < 3
    values[:, starts[:, None] + np.arange(0, SIDE, 9)[None] % 1] = 9
    # ^ a column of another class where each window begins
    seam = _count_profiles(values, lattice=lattice).evaluate_windows()
    assert seam.z > 10
    assert seam.worst > 0.3
    assert seam.excess > 0


def test_continuous_values_are_compared_by_their_steps():
    field = _make_field(2, 2.6).astype(np.float32)[None]
    clean = _count_profiles(field, layer="composite_DEM").evaluate_windows()
    assert abs(clean.z) < 3
    row, column = ((first + np.arange(SIDE)) // LATTICE.stride for first in (37, 91))
    steps = 0.2 * ((row[:, None] + column[None]) % 2)
    seam = _count_profiles(
        (field + steps).astype(np.float32), layer="composite_DEM"
    ).evaluate_windows()
    assert seam.z > 4
    assert 0.02 < seam.worst < 0.2
    # ^ the part of the step that exceeds the steps of the field itself
    scaled_seam = _count_profiles(
        ((field + steps) * 1000).astype(np.float32), layer="composite_DEM"
    ).evaluate_windows()
    assert scaled_seam.z == pytest.approx(seam.z, rel=1e-3)
    # ^ the result does not depend on the unit


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize(("n", "count"), [(1, 0), (10, 10), (900, 400), (5000, 61)])
def test_shares_have_the_interval_of_wilson_and_a_uniform_sample_counts_once(n, count, size):
    """A sample whose pixels are all equal carries as much information as one pixel."""
    share = quality_metrics.ProportionEstimate.from_samples(
        [(size, size)] * count + [(size, 0)] * (n - count)
    )
    low, high = stats.binomtest(count, n).proportion_ci(method="wilson")
    assert (share.low, share.high) == pytest.approx((low, high), abs=2e-4)
    assert share.n == n * size


def test_the_confidence_interval_covers_the_true_share():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        shares = rng.beta(0.5, 2.0, 40)
        pixels = rng.integers(50, 200, 40)
        estimate = quality_metrics.ProportionEstimate.from_samples(
            list(zip(pixels, rng.binomial(pixels, shares), strict=True))
        )
        covered += estimate.low <= 0.2 <= estimate.high
    assert 0.9 < covered / 400 < 0.98


def test_empty_samples_have_no_share():
    assert quality_metrics.ProportionEstimate.from_samples([]) is None
    assert quality_metrics.ProportionEstimate.from_samples([(0, 0)]) is None
    estimate = quality_metrics.ProportionEstimate.from_samples([(5000, 900)])
    assert estimate.high - estimate.low > 0.5
    # ^ the spread between samples is unknown from a single one


@pytest.fixture
def two_zones(tmp_path):
    """Return a plan over two zones and the folder of its store."""
    plan = large_plan.plan(tmp_path, 4)
    mosaic_grid = grids.build_covering_grid(from_geojson(plan.region), 3035, 10.0, (0.0, 0.0))
    plan = dataclasses.replace(plan, mosaic_grids=(mosaic_grid,), tile_size=512)
    return plan, tmp_path


def _write_tiles(plan, folder, classify):
    """Write land cover and observations of all tiles, and their receipts."""
    names = {"land_cover": ("land_cover",), "observations": ("observations",)}
    zarr_store.create(folder, plan, names)
    for tile in plan.tiles:
        tile_grid = plan.tile_grid(tile)
        inside = grids.rasterize_region(
            grids.project(plan.region_for(tile.epsg), tile.epsg), tile_grid
        )
        nodata = layer_table.get("observations").fill_value
        values = {
            "land_cover": np.where(inside, classify(tile_grid), 0).astype(np.uint8),
            "observations": np.where(inside, 3, nodata).astype(nodata.dtype),
        }
        digests = zarr_store.write_tile(folder, plan, tile, values)
        tile_receipt = Receipt(
            tile=tile.id,
            key=plan.tile_key(tile),
            scenes=(),
            digests=digests,
            coverage={},
            versions={},
            seconds={},
            samples={"shifted": [[60, 2], [40, 2]], "silent": 1},
        )
        receipt.write(folder, tile, tile_receipt)


def _classify_ground(tile_grid):
    """Return classes that depend on longitude and latitude only."""
    from pyproj import Transformer

    xs = tile_grid.left + (np.arange(tile_grid.width) + 0.5) * tile_grid.resolution
    ys = tile_grid.top - (np.arange(tile_grid.height) + 0.5) * tile_grid.resolution
    to_lonlat = Transformer.from_crs(tile_grid.epsg, 4326, always_xy=True)
    east, north = to_lonlat.transform(*np.meshgrid(xs, ys))
    rng = np.random.default_rng(1)
    total = np.zeros(tile_grid.shape)
    for wave in rng.normal(0, 1200, (40, 2)):
        total += np.sin(wave[0] * east + wave[1] * north + rng.uniform(0, 6))
    return np.clip(total // 3 + 5, 1, 8)


def test_quality_of_a_product_over_two_zones_is_measured(two_zones):
    plan, folder = two_zones
    _write_tiles(plan, folder, _classify_ground)
    metrics = quality_metrics.measure_quality(plan, folder)
    for seam in (metrics.window, metrics.tile, metrics.zone):
        assert seam.z < 3
    assert metrics.tile.lines >= 2
    assert metrics.zone.lines in (1, 2)
    assert metrics.disagreement.n == 100 * len(plan.tiles)
    assert metrics.disagreement.share == 0.04
    assert metrics.silent == len(plan.tiles)
    assert metrics.precision is None
    assert len(metrics.rate_by_phase) == plan.lattice.stride
    drawing = charts.draw_seam_rates(metrics.rate_by_phase, metrics.blend_length)
    assert drawing.count("<polyline") == 2


def test_a_step_between_two_zones_is_found(two_zones):
    plan, folder = two_zones
    _write_tiles(
        plan,
        folder,
        lambda tile_grid: (
            _classify_ground(tile_grid) % 7 + 1
            if tile_grid.epsg == 32633
            else _classify_ground(tile_grid)
        ),
    )
    metrics = quality_metrics.measure_quality(plan, folder)
    assert metrics.zone.z > 10
    assert metrics.zone.excess > 0.2
    assert max(metrics.window.z, metrics.tile.z) < 3


def test_a_mosaic_states_the_zone_of_each_pixel(two_zones):
    plan, folder = two_zones
    _write_tiles(
        plan,
        folder,
        lambda tile_grid: np.full(tile_grid.shape, 1 if tile_grid.epsg == 32632 else 2),
    )
    names = {"land_cover": (), "observations": ()}
    tiles = list(mosaic.iter_border_tiles(plan, folder, plan.mosaic_grids[0], names))
    assert 0 < len(tiles) < len(list(grids.split_into_tiles(plan.mosaic_grids[0], plan.tile_size)))
    for values, owner in tiles:
        assert (values["land_cover"] == owner).all()


def test_composites_alone_have_no_quality_metrics(two_zones):
    plan, folder = two_zones
    without_model = dataclasses.replace(plan, model=None)
    assert (
        quality_metrics.measure_quality(without_model, folder) == quality_metrics.QualityMetrics()
    )


def _make_metrics(z=0.0, share=0.0):
    seam = Seam(z=z, lines=4, rate=0.06, excess=0.02, worst=0.03)
    disagreement = quality_metrics.ProportionEstimate.from_samples(
        [(1000, round(1000 * share))] * 99
    )
    return quality_metrics.QualityMetrics(tile=seam, disagreement=disagreement)


@pytest.mark.parametrize(
    ("gate", "metrics", "violation_count", "is_refused"),
    [
        ({}, _make_metrics(2.9), 0, False),
        ({}, _make_metrics(3.1), 1, False),
        ({"gate": "refuse"}, _make_metrics(3.1), 1, True),
        ({"gate": "refuse"}, _make_metrics(-9.0), 0, False),
        ({"gate": "refuse", "max_seam_z": 5.0}, _make_metrics(3.1), 0, False),
        ({"gate": "refuse", "max_disagreement": 0.03}, _make_metrics(4, 0.2), 2, True),
        ({"gate": "refuse", "max_disagreement": 0.19}, _make_metrics(0, 0.2), 0, False),
        ({"gate": "off", "max_disagreement": 0.0}, _make_metrics(9, 0.6), 0, False),
        ({"gate": "refuse"}, None, 0, False),
    ],
)
def test_the_gate_follows_the_settings_of_the_job(
    tmp_path, gate, metrics, violation_count, is_refused
):
    plan = large_plan.plan(tmp_path, 1)
    settings = dataclasses.replace(plan.settings, quality_limits=QualityLimits(**gate))
    plan = dataclasses.replace(plan, settings=settings)
    violations = quality_gate.find_violations(plan, metrics)
    assert len(violations) == violation_count
    assert bool(quality_gate.list_refusals(plan, metrics)) is is_refused
    for violation in violations:
        assert "qc.max" in violation


def _make_proportion(share):
    return quality_metrics.ProportionEstimate(n=1000, share=share, low=share, high=share)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"tile": Seam(z=3.004, lines=4, rate=0.06, excess=0.02, worst=0.03)},
         "z = 3.004, qc.max_seam_z is 3)"),
        ({"precision": _make_proportion(0.9949999)}, "Only 99.49999 % of the pixels"),
        ({"disagreement": _make_proportion(0.1500001)}, "at least 15.00001 % with 95 %"),
    ],
)  # fmt: skip
def test_a_figure_just_beyond_its_limit_looks_different_from_it(values, text):
    limits = QualityLimits(max_disagreement=0.15)
    (violation,) = quality_gate.check_limits(quality_metrics.QualityMetrics(**values), limits)
    assert text in violation


def test_quality_metrics_survive_json():
    seam = Seam(z=0.5, lines=4, rate=0.06, excess=0.02, worst=0.03)
    for metrics in (
        quality_metrics.QualityMetrics(),
        quality_metrics.QualityMetrics(zone=seam, precision=_make_proportion(0.99), silent=2),
    ):
        assert quality_metrics.QualityMetrics.from_dict(metrics.to_dict()) == metrics
    assert metrics.largest_z == 0.5


def test_default_limits_of_a_plan_are_those_of_a_job(tmp_path):
    limits = large_plan.plan(tmp_path, 1).settings.quality_limits
    assert dataclasses.asdict(limits) == QualityGate().model_dump()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"precision": _make_proportion(0.994)}, "precision: fp32"),
        ({"silent": 3}, "3 windows"),
        ({"precision": _make_proportion(0.996), "silent": 0}, None),
    ],
)
def test_precision_and_silent_windows_are_checked(values, message):
    metrics = quality_metrics.QualityMetrics(**values)
    violations = quality_gate.check_limits(metrics, QualityLimits())
    assert len(violations) == (message is not None)
    assert message is None or message in violations[0]
