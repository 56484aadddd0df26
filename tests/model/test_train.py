"""Training: material, augmentation, fitting, metrics and the baseline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import model
from model import train
from model.errors import ModelError
from model.terramind.modalities import Statistics
from model.train import (
    augmentation,
    dataset,
    fitting,
    scores,
)

TINY = {"dim": 32, "heads": 2, "depth": 1}
CHANNELS = {"S2L2A": 12, "S1RTC": 2, "DEM": 1}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny shapes run faster without handing work around."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mosaic(seed=0, size=64, classes=3):
    """Stripes of classes that differ in every band, with noise."""
    rng = np.random.default_rng(seed)
    labels = (np.add.outer(np.arange(size) // 20, np.arange(size) // 28) % classes).astype(np.uint8)
    level = labels.astype(np.float32)
    s2 = 500 + 900 * level + rng.normal(0, 100, (12, size, size))
    s1 = -18 + 4 * level + rng.normal(0, 1, (2, size, size))
    dem = 200 + 50 * level[None] + rng.normal(0, 5, (1, size, size))
    inputs = {"S2L2A": s2, "S1RTC": s1, "DEM": dem}
    return train.LabelledMosaic(
        inputs={n: v.astype(np.float32) for n, v in inputs.items()}, labels=labels
    )


def segmenter(classes=3, seed=0):
    return model.segmenter(TINY, list(CHANNELS), classes, width=8, weights={"random": seed})


def fit(built, chips, **options):
    settings = {"steps": 4, "batch": 2, "learning_rate": 3e-3, "seed": 0, "device": "cpu"}
    settings["options"] = fitting.FitOptions(crop=32)
    return train.fit(built, chips, **(settings | options))


def test_fit_learns_a_simple_country():
    chips = [mosaic(0), mosaic(1)]
    stats = train.compute_band_statistics(chips)
    built = segmenter()
    before = train.evaluate(built, [mosaic(7)], statistics=stats, device="cpu", window=64)
    calm = augmentation.Augmentation(
        modality_dropout=0, cutout_probability=0, pixel_dropout=0, level_m=1
    )
    options = fitting.FitOptions(crop=32, augmentation=calm)
    record = fit(built, chips, steps=60, batch=4, statistics=stats, options=options)
    after = train.evaluate(built, [mosaic(7)], statistics=stats, device="cpu", window=64)
    assert after.overall > max(0.95, before.overall)
    assert record.losses[-1] < record.losses[0] / 2
    assert record.steps == 60
    assert not built.training


def test_the_same_seed_gives_the_same_weights():
    def digest(seed):
        built = segmenter()
        fit(built, [mosaic(0)], seed=seed)
        return model.weights.loading.hash_state_dict(built.state_dict())

    assert digest(3) == digest(3)
    assert digest(3) != digest(4)


def test_training_leaves_the_global_generators_alone():
    built = segmenter()
    torch.manual_seed(5)
    fit(built, [mosaic(0)], steps=2)
    result = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(result, torch.rand(1))


def test_every_parameter_is_trained():
    built = segmenter()
    before = {n: p.detach().clone() for n, p in built.named_parameters()}
    fit(built, [mosaic(0)], steps=6)
    assert [n for n, p in built.named_parameters() if torch.equal(p, before[n])] == []


def test_progress_is_told_and_time_is_kept():
    observed = []
    record = fit(segmenter(), [mosaic(0)], steps=100_000, time_budget=0.5, progress=observed.append)
    assert 1 <= len(observed) == record.steps < 100_000
    assert observed[-1].step == len(observed)
    assert record.seconds < 10


def test_missing_data_and_ignored_labels_are_endured():
    chip = mosaic(0)
    chip.inputs["S2L2A"][:, :40] = np.nan
    chip.inputs["S1RTC"][0, 5:9] = np.nan
    chip.labels[30:] = train.IGNORE_INDEX
    only = train.LabelledMosaic(inputs={"DEM": mosaic(1).inputs["DEM"]}, labels=mosaic(1).labels)
    record = fit(segmenter(), [chip, only], steps=8)
    assert np.isfinite(record.losses).all()


def test_half_precision_trains_too():
    record = fit(segmenter(), [mosaic(0)], options=fitting.FitOptions(crop=32, use_bf16=True))
    assert np.isfinite(record.losses).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "above zero"),
        ({"batch": 0}, "above zero"),
        ({"learning_rate": 0.0}, "above zero"),
        ({"options": fitting.FitOptions(crop=40)}, "multiple"),
        ({"options": fitting.FitOptions(crop=96)}, "smaller"),
        ({"device": "abacus"}, "device"),
    ],
)
def test_senseless_settings_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        fit(segmenter(), [mosaic(0)], **options)


def test_unusable_material_is_refused():
    with pytest.raises(ModelError, match="nothing to train"):
        fit(segmenter(), [])
    with pytest.raises(ModelError, match="labels"):
        fit(segmenter(classes=2), [mosaic(0)])
    with pytest.raises(ModelError, match="expected like"):
        train.LabelledMosaic(
            inputs={"DEM": np.zeros((1, 4, 4), np.float32)}, labels=np.zeros((4, 5), "u1")
        )
    bad = {"S2L2A": np.zeros((11, 64, 64), np.float32)}
    chip = train.LabelledMosaic(inputs=bad, labels=mosaic().labels)
    with pytest.raises(ModelError, match="bands"):
        fit(segmenter(), [chip])


def test_a_loss_that_is_not_finite_stops_the_training():
    built = segmenter()
    with torch.no_grad():
        built.head.logits.bias[0] = torch.inf
    with pytest.raises(ModelError, match="loss is"):
        fit(built, [mosaic(0)])


def test_the_rate_rises_and_falls():
    rates = [fitting.learning_rate_factor(part) for part in np.linspace(0, 1, 101)]
    top = int(np.argmax(rates))
    assert top == 5
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0.01)


def pool(chips, **options):
    stats = train.compute_band_statistics(chips)
    settings = {"classes": 3, "device": torch.device("cpu"), "rng": np.random.default_rng(0)}
    return dataset.CropSampler(chips, CHANNELS, stats, **(settings | options))


def test_crops_keep_pixels_and_labels_together():
    chip = mosaic(0)
    marked = np.arange(64 * 64, dtype=np.float32).reshape(1, 64, 64)
    labels = (marked[0] % 3).astype(np.uint8)
    chip = train.LabelledMosaic(inputs={"DEM": marked}, labels=labels)
    stats = {"DEM": Statistics(mean=(0.0,), std=(1.0,))}
    drawn = dataset.CropSampler(
        [chip], {"DEM": 1}, stats, 3, torch.device("cpu"), np.random.default_rng(0)
    ).draw_crops(40, 16, 0.5)
    assert drawn.planes.shape == (40, 1, 16, 16)
    assert torch.equal((drawn.planes[:, 0] % 3).long(), drawn.labels)


def test_rare_classes_are_drawn_and_empty_ones_weigh_nothing_special():
    chip = mosaic(0, size=128)
    chip.labels[:] = 0
    chip.labels[100:103, 100:103] = 2
    drawn = pool([chip]).draw_crops(60, 16, 1.0)
    share = (drawn.labels == 2).flatten(1).any(1).float().mean()
    assert share > 0.3
    weights = pool([chip]).class_weights(0.5)
    assert weights[2] > 10 * weights[0]
    assert torch.isfinite(weights).all()


def test_class_weights_have_mean_one_over_the_pixels():
    chips = [mosaic(0), mosaic(1)]
    made = pool(chips)
    share = made.class_counts.sum(0) / made.class_counts.sum()
    assert float((made.class_weights(0.35).numpy() * share).sum()) == pytest.approx(1)


@pytest.mark.parametrize("turn", range(8))
def test_the_eight_turns_are_different_and_lose_nothing(turn):
    x = torch.arange(12).reshape(3, 4)[:3, :3]
    turned = dataset.apply_symmetry(x, turn)
    assert sorted(turned.flatten().tolist()) == sorted(x.flatten().tolist())
    others = [dataset.apply_symmetry(x, other) for other in range(8) if other != turn]
    assert not any(torch.equal(turned, other) for other in others)


def test_statistics_ignore_missing_pixels():
    chip = mosaic(0)
    chip.inputs["S2L2A"][:, :10] = np.nan
    stats = train.compute_band_statistics([chip, mosaic(1)])
    both = np.concatenate([chip.inputs["S2L2A"][3].ravel(), mosaic(1).inputs["S2L2A"][3].ravel()])
    assert stats["S2L2A"].mean[3] == pytest.approx(np.nanmean(both), rel=1e-4)
    assert stats["S2L2A"].std[3] == pytest.approx(np.nanstd(both), rel=1e-4)
    blank = train.LabelledMosaic(
        inputs={"DEM": np.full((1, 4, 4), np.nan, "f4")}, labels=np.zeros((4, 4), "u1")
    )
    with pytest.raises(ModelError, match="no valid pixel"):
        train.compute_band_statistics([blank])


def augmented(how, seed=0):
    stats = train.compute_band_statistics([mosaic(0)])
    planes = torch.randn(4, 15, 16, 16, generator=torch.Generator().manual_seed(1))
    before = planes.clone()
    out = augmentation.augment(planes, CHANNELS, stats, how, np.random.default_rng(seed))
    assert torch.equal(planes, before)
    return before, stats, out


QUIET = augmentation.Augmentation(
    scene_gain=0,
    band_gain=0,
    band_offset=0,
    level_db=0,
    level_m=0,
    modality_dropout=0,
    cutout_probability=0,
    pixel_dropout=0,
)


def test_no_augmentation_changes_nothing():
    before, _, out = augmented(QUIET)
    torch.testing.assert_close(torch.cat(list(out.values()), 1), before)


def test_heights_move_as_a_whole():
    from dataclasses import replace

    before, stats, out = augmented(replace(QUIET, level_m=300))
    moved = (out["DEM"] - before[:, 14:]) * stats["DEM"].std[0]
    assert moved.flatten(1).std(1).max() < 1e-2
    assert moved.flatten(1).mean(1).std() > 50


def test_gains_act_on_physical_values():
    from dataclasses import replace

    before, stats, out = augmented(replace(QUIET, scene_gain=0.1))
    mean, std = (torch.tensor(v)[:, None, None] for v in (stats["S2L2A"].mean, stats["S2L2A"].std))
    ratio = (out["S2L2A"] * std + mean) / (before[:, :12] * std + mean)
    per_sample = ratio.flatten(1)
    torch.testing.assert_close(
        per_sample, per_sample[:, :1].expand_as(per_sample), rtol=1e-3, atol=0
    )
    assert per_sample[:, 0].std() > 0.01


@settings(max_examples=30, deadline=None)
@given(drop=st.floats(0, 1), seed=st.integers(0, 1000))
def test_at_least_one_modality_stays(drop, seed):
    from dataclasses import replace

    _, _, out = augmented(replace(QUIET, modality_dropout=drop), seed)
    assert out


def test_holes_hit_optical_data_only():
    from dataclasses import replace

    _, _, out = augmented(replace(QUIET, cutout_probability=1.0))
    assert torch.isnan(out["S2L2A"]).any()
    assert not torch.isnan(out["S1RTC"]).any()


def test_confusion_counts_what_it_says():
    truth = np.array([[0, 0, 1], [2, 255, 1]], np.uint8)
    answer = np.array([[0, 1, 1], [2, 0, 0]])
    table = scores.confusion_matrix(truth, answer, 3)
    assert table.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert scores.overall_accuracy(table) == pytest.approx(3 / 5)
    assert scores.f1_by_class(table).tolist() == pytest.approx([0.5, 0.5, 1.0])
    with pytest.raises(ModelError, match="outside"):
        scores.confusion_matrix(truth, answer + 2, 3)
    with pytest.raises(ModelError, match="shape"):
        scores.confusion_matrix(truth, answer[:1], 3)


def test_macro_f1_leaves_out_classes_that_hardly_occur():
    table = np.array([[900, 0, 0], [0, 96, 0], [4, 0, 0]])
    assert scores.macro_f1(table) == pytest.approx((2 * 900 / 1804 + 1) / 2)
    assert scores.macro_f1(table, 0.0) == pytest.approx((2 * 900 / 1804 + 1 + 0) / 3)
    assert np.isnan(scores.macro_f1(np.zeros((2, 2), int)))


def test_edges_are_the_pixels_with_another_neighbour():
    labels = np.zeros((6, 6), np.uint8)
    labels[:, 3:] = 1
    edge = scores.edge_mask(labels)
    assert edge[:, 2:4].all()
    assert not edge[:, [0, 1, 4, 5]].any()


def test_inside_and_edge_make_up_the_whole():
    rng = np.random.default_rng(0)
    truth = mosaic(0).labels
    answer = np.where(rng.random(truth.shape) < 0.8, truth, (truth + 1) % 3)
    result = scores.compute_scores([truth], [answer], 3)
    edge = scores.edge_mask(truth)
    assert result.overall == pytest.approx((truth == answer).mean())
    assert result.edge == pytest.approx((truth == answer)[edge].mean())
    assert result.inside == pytest.approx((truth == answer)[~edge].mean())
    assert result.pixels == truth.size
    assert result.to_mapping()["overall"] == round(result.overall, 4)


@pytest.mark.parametrize("shape", [(64, 64), (80, 113), (97, 224)])
def test_a_whole_mosaic_is_covered(shape):
    chip = mosaic(0, size=224)
    part = train.LabelledMosaic(
        inputs={n: v[:, : shape[0], : shape[1]] for n, v in chip.inputs.items()},
        labels=chip.labels[: shape[0], : shape[1]],
    )
    part.inputs["S2L2A"][:, :50, :50] = np.nan
    result = train.predict_probabilities(
        segmenter(), part, device="cpu", window=64 if shape[0] < 96 else 96
    )
    assert result.shape == (3, *shape)
    np.testing.assert_allclose(result.sum(0), 1, atol=1e-5)


def test_a_mosaic_below_a_window_is_refused():
    with pytest.raises(ModelError, match="smaller"):
        train.predict_probabilities(segmenter(), mosaic(0), device="cpu")


def gaussians(count=6000, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, count, p=[0.6, 0.3, 0.1])
    means = np.array([[0, 0], [2, 1], [-1, 3]])
    roots = np.array([[[1, 0], [0.5, 0.6]], [[0.4, 0], [0.3, 1]], [[1, 0], [-0.8, 0.3]]])
    x = means[labels] + np.einsum("nij,nj->ni", roots[labels], rng.standard_normal((count, 2)))
    return x, labels, means, roots


def test_qda_equals_the_densities_written_out():
    from scipy.stats import multivariate_normal

    x, labels, *_ = gaussians()
    baseline = train.Qda.fit(x, labels, 3)
    scores = np.stack(
        [
            multivariate_normal(x[labels == k].mean(0), np.cov(x[labels == k].T, bias=True)).logpdf(
                x
            )
            + np.log((labels == k).mean())
            for k in range(3)
        ],
        axis=1,
    )
    assert (baseline.predict(x) == scores.argmax(1)).mean() > 0.999
    assert (baseline.predict(x) == labels).mean() > 0.8


def test_qda_integrates_missing_features_out():
    x, labels, *_ = gaussians()
    baseline = train.Qda.fit(x, labels, 3)
    alone = train.Qda.fit(x[:, :1], labels, 3)
    with_nan = x.copy()
    with_nan[:, 1] = np.nan
    assert (baseline.predict(with_nan) == alone.predict(x[:, :1])).mean() > 0.999
    assert (baseline.predict(np.full((3, 2), np.nan)) == 0).all()


def test_qda_never_answers_a_class_it_has_not_seen():
    x, labels, *_ = gaussians()
    baseline = train.Qda.fit(x, labels, 5)
    assert baseline.predict(x).max() <= 2
    with pytest.raises(ModelError, match="no complete sample"):
        train.Qda.fit(np.full((4, 2), np.nan), np.zeros(4, int), 3)
