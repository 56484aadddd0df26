"""Training: data, augmentation, fitting, metrics and the baseline."""

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
def _use_one_thread():
    """Run on one thread, which is faster for tiny shapes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_mosaic(seed=0, size=64, classes=3):
    """Return a mosaic of stripes of classes that differ in every band, with noise."""
    rng = np.random.default_rng(seed)
    labels = (np.add.outer(np.arange(size) // 20, np.arange(size) // 28) % classes).astype(np.uint8)
    class_level = labels.astype(np.float32)
    s2 = 500 + 900 * class_level + rng.normal(0, 100, (12, size, size))
    s1 = -18 + 4 * class_level + rng.normal(0, 1, (2, size, size))
    dem = 200 + 50 * class_level[None] + rng.normal(0, 5, (1, size, size))
    inputs = {"S2L2A": s2, "S1RTC": s1, "DEM": dem}
    return train.LabelledMosaic(
        inputs={name: values.astype(np.float32) for name, values in inputs.items()}, labels=labels
    )


def build_segmenter(classes=3, seed=0):
    return model.segmenter(TINY, list(CHANNELS), classes, width=8, weights={"random": seed})


def fit_segmenter(segmenter, chips, **options):
    settings = {"steps": 4, "batch": 2, "learning_rate": 3e-3, "seed": 0, "device": "cpu"}
    settings["options"] = fitting.FitOptions(crop=32)
    return train.fit(segmenter, chips, **(settings | options))


def test_fit_learns_a_simple_mosaic():
    chips = [make_mosaic(0), make_mosaic(1)]
    stats = train.compute_band_statistics(chips)
    segmenter = build_segmenter()
    before = train.evaluate(segmenter, [make_mosaic(7)], statistics=stats, device="cpu", window=64)
    weak_augmentation = augmentation.Augmentation(
        modality_dropout=0, cutout_probability=0, pixel_dropout=0, level_m=1
    )
    options = fitting.FitOptions(crop=32, augmentation=weak_augmentation)
    record = fit_segmenter(segmenter, chips, steps=60, batch=4, statistics=stats, options=options)
    after = train.evaluate(segmenter, [make_mosaic(7)], statistics=stats, device="cpu", window=64)
    assert after.overall > max(0.95, before.overall)
    assert record.losses[-1] < record.losses[0] / 2
    assert record.steps == 60
    assert not segmenter.training


def test_the_same_seed_gives_the_same_weights():
    def compute_digest(seed):
        segmenter = build_segmenter()
        fit_segmenter(segmenter, [make_mosaic(0)], seed=seed)
        return model.weights.loading.hash_state_dict(segmenter.state_dict())

    assert compute_digest(3) == compute_digest(3)
    assert compute_digest(3) != compute_digest(4)


def test_training_does_not_change_the_global_generators():
    segmenter = build_segmenter()
    torch.manual_seed(5)
    fit_segmenter(segmenter, [make_mosaic(0)], steps=2)
    result = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(result, torch.rand(1))


def test_every_parameter_is_trained():
    segmenter = build_segmenter()
    before = {name: parameter.detach().clone() for name, parameter in segmenter.named_parameters()}
    fit_segmenter(segmenter, [make_mosaic(0)], steps=6)
    assert [
        name
        for name, parameter in segmenter.named_parameters()
        if torch.equal(parameter, before[name])
    ] == []


def test_progress_is_reported_and_the_time_budget_kept():
    reports = []
    record = fit_segmenter(
        build_segmenter(), [make_mosaic(0)], steps=100_000, time_budget=0.5, progress=reports.append
    )
    assert 1 <= len(reports) == record.steps < 100_000
    assert reports[-1].step == len(reports)
    assert record.seconds < 10


def test_missing_data_and_ignored_labels_are_accepted():
    chip = make_mosaic(0)
    chip.inputs["S2L2A"][:, :40] = np.nan
    chip.inputs["S1RTC"][0, 5:9] = np.nan
    chip.labels[30:] = train.IGNORE_INDEX
    dem_only = train.LabelledMosaic(
        inputs={"DEM": make_mosaic(1).inputs["DEM"]}, labels=make_mosaic(1).labels
    )
    record = fit_segmenter(build_segmenter(), [chip, dem_only], steps=8)
    assert np.isfinite(record.losses).all()


def test_training_in_half_precision_has_finite_losses():
    record = fit_segmenter(
        build_segmenter(), [make_mosaic(0)], options=fitting.FitOptions(crop=32, use_bf16=True)
    )
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
def test_invalid_settings_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        fit_segmenter(build_segmenter(), [make_mosaic(0)], **options)


def test_unusable_training_data_is_refused():
    with pytest.raises(ModelError, match="nothing to train"):
        fit_segmenter(build_segmenter(), [])
    with pytest.raises(ModelError, match="labels"):
        fit_segmenter(build_segmenter(classes=2), [make_mosaic(0)])
    with pytest.raises(ModelError, match="expected like"):
        train.LabelledMosaic(
            inputs={"DEM": np.zeros((1, 4, 4), np.float32)}, labels=np.zeros((4, 5), "u1")
        )
    invalid_inputs = {"S2L2A": np.zeros((11, 64, 64), np.float32)}
    chip = train.LabelledMosaic(inputs=invalid_inputs, labels=make_mosaic().labels)
    with pytest.raises(ModelError, match="bands"):
        fit_segmenter(build_segmenter(), [chip])


def test_a_loss_that_is_not_finite_stops_the_training():
    segmenter = build_segmenter()
    with torch.no_grad():
        segmenter.head.logits.bias[0] = torch.inf
    with pytest.raises(ModelError, match="loss is"):
        fit_segmenter(segmenter, [make_mosaic(0)])


def test_the_learning_rate_rises_and_falls():
    rates = [fitting.learning_rate_factor(progress) for progress in np.linspace(0, 1, 101)]
    index_of_maximum = int(np.argmax(rates))
    assert index_of_maximum == 5
    assert rates[:index_of_maximum] == sorted(rates[:index_of_maximum])
    assert rates[index_of_maximum:] == sorted(rates[index_of_maximum:], reverse=True)
    assert rates[-1] == pytest.approx(0.01)


def make_sampler(chips, **options):
    stats = train.compute_band_statistics(chips)
    settings = {"classes": 3, "device": torch.device("cpu"), "rng": np.random.default_rng(0)}
    return dataset.CropSampler(chips, CHANNELS, stats, **(settings | options))


def test_crops_keep_pixels_and_labels_aligned():
    chip = make_mosaic(0)
    pixel_numbers = np.arange(64 * 64, dtype=np.float32).reshape(1, 64, 64)
    labels = (pixel_numbers[0] % 3).astype(np.uint8)
    chip = train.LabelledMosaic(inputs={"DEM": pixel_numbers}, labels=labels)
    stats = {"DEM": Statistics(mean=(0.0,), std=(1.0,))}
    crops = dataset.CropSampler(
        [chip], {"DEM": 1}, stats, 3, torch.device("cpu"), np.random.default_rng(0)
    ).draw_crops(40, 16, 0.5)
    assert crops.planes.shape == (40, 1, 16, 16)
    assert torch.equal((crops.planes[:, 0] % 3).long(), crops.labels)


def test_rare_classes_are_drawn_more_often_and_absent_classes_have_finite_weights():
    chip = make_mosaic(0, size=128)
    chip.labels[:] = 0
    chip.labels[100:103, 100:103] = 2
    crops = make_sampler([chip]).draw_crops(60, 16, 1.0)
    share = (crops.labels == 2).flatten(1).any(1).float().mean()
    assert share > 0.3
    weights = make_sampler([chip]).class_weights(0.5)
    assert weights[2] > 10 * weights[0]
    assert torch.isfinite(weights).all()


def test_class_weights_have_a_mean_of_one_over_the_pixels():
    chips = [make_mosaic(0), make_mosaic(1)]
    sampler = make_sampler(chips)
    class_shares = sampler.class_counts.sum(0) / sampler.class_counts.sum()
    assert float((sampler.class_weights(0.35).numpy() * class_shares).sum()) == pytest.approx(1)


@pytest.mark.parametrize("index", range(8))
def test_the_eight_symmetries_differ_and_keep_all_values(index):
    x = torch.arange(12).reshape(3, 4)[:3, :3]
    transformed = augmentation.apply_symmetry(x, index)
    assert sorted(transformed.flatten().tolist()) == sorted(x.flatten().tolist())
    other_results = [
        augmentation.apply_symmetry(x, other_index)
        for other_index in range(8)
        if other_index != index
    ]
    assert not any(torch.equal(transformed, result) for result in other_results)


def test_statistics_ignore_missing_pixels():
    chip = make_mosaic(0)
    chip.inputs["S2L2A"][:, :10] = np.nan
    stats = train.compute_band_statistics([chip, make_mosaic(1)])
    pixels = np.concatenate(
        [chip.inputs["S2L2A"][3].ravel(), make_mosaic(1).inputs["S2L2A"][3].ravel()]
    )
    assert stats["S2L2A"].mean[3] == pytest.approx(np.nanmean(pixels), rel=1e-4)
    assert stats["S2L2A"].std[3] == pytest.approx(np.nanstd(pixels), rel=1e-4)
    empty_mosaic = train.LabelledMosaic(
        inputs={"DEM": np.full((1, 4, 4), np.nan, "f4")}, labels=np.zeros((4, 4), "u1")
    )
    with pytest.raises(ModelError, match="no valid pixel"):
        train.compute_band_statistics([empty_mosaic])


def augment_planes(options, seed=0):
    stats = train.compute_band_statistics([make_mosaic(0)])
    planes = torch.randn(4, 15, 16, 16, generator=torch.Generator().manual_seed(1))
    before = planes.clone()
    augmented = augmentation.augment(planes, CHANNELS, stats, options, np.random.default_rng(seed))
    assert torch.equal(planes, before)
    return before, stats, augmented


NO_AUGMENTATION = augmentation.Augmentation(
    scene_gain=0,
    band_gain=0,
    band_offset=0,
    level_db=0,
    level_m=0,
    modality_dropout=0,
    cutout_probability=0,
    pixel_dropout=0,
)


def test_disabled_augmentation_changes_nothing():
    before, _, augmented = augment_planes(NO_AUGMENTATION)
    torch.testing.assert_close(torch.cat(list(augmented.values()), 1), before)


def test_heights_are_shifted_as_a_whole():
    from dataclasses import replace

    before, stats, augmented = augment_planes(replace(NO_AUGMENTATION, level_m=300))
    shift = (augmented["DEM"] - before[:, 14:]) * stats["DEM"].std[0]
    assert shift.flatten(1).std(1).max() < 1e-2
    assert shift.flatten(1).mean(1).std() > 50


def test_gains_act_on_physical_values():
    from dataclasses import replace

    before, stats, augmented = augment_planes(replace(NO_AUGMENTATION, scene_gain=0.1))
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (stats["S2L2A"].mean, stats["S2L2A"].std)
    )
    ratio = (augmented["S2L2A"] * std + mean) / (before[:, :12] * std + mean)
    per_sample = ratio.flatten(1)
    torch.testing.assert_close(
        per_sample, per_sample[:, :1].expand_as(per_sample), rtol=1e-3, atol=0
    )
    assert per_sample[:, 0].std() > 0.01


@settings(max_examples=30, deadline=None)
@given(dropout_rate=st.floats(0, 1), seed=st.integers(0, 1000))
def test_at_least_one_modality_is_kept(dropout_rate, seed):
    from dataclasses import replace

    _, _, augmented = augment_planes(replace(NO_AUGMENTATION, modality_dropout=dropout_rate), seed)
    assert augmented


def test_cutouts_affect_optical_data_only():
    from dataclasses import replace

    _, _, augmented = augment_planes(replace(NO_AUGMENTATION, cutout_probability=1.0))
    assert torch.isnan(augmented["S2L2A"]).any()
    assert not torch.isnan(augmented["S1RTC"]).any()


def test_the_confusion_matrix_counts_reference_and_prediction():
    reference = np.array([[0, 0, 1], [2, 255, 1]], np.uint8)
    predicted = np.array([[0, 1, 1], [2, 0, 0]])
    matrix = scores.confusion_matrix(reference, predicted, 3)
    assert matrix.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert scores.overall_accuracy(matrix) == pytest.approx(3 / 5)
    assert scores.f1_by_class(matrix).tolist() == pytest.approx([0.5, 0.5, 1.0])
    with pytest.raises(ModelError, match="outside"):
        scores.confusion_matrix(reference, predicted + 2, 3)
    with pytest.raises(ModelError, match="shape"):
        scores.confusion_matrix(reference, predicted[:1], 3)


def test_macro_f1_excludes_very_rare_classes():
    matrix = np.array([[900, 0, 0], [0, 96, 0], [4, 0, 0]])
    assert scores.macro_f1(matrix) == pytest.approx((2 * 900 / 1804 + 1) / 2)
    assert scores.macro_f1(matrix, 0.0) == pytest.approx((2 * 900 / 1804 + 1 + 0) / 3)
    assert np.isnan(scores.macro_f1(np.zeros((2, 2), int)))


def test_edges_are_pixels_with_a_different_neighbour():
    labels = np.zeros((6, 6), np.uint8)
    labels[:, 3:] = 1
    edge = scores.edge_mask(labels)
    assert edge[:, 2:4].all()
    assert not edge[:, [0, 1, 4, 5]].any()


def test_edge_and_inside_pixels_add_up_to_all():
    rng = np.random.default_rng(0)
    reference = make_mosaic(0).labels
    predicted = np.where(rng.random(reference.shape) < 0.8, reference, (reference + 1) % 3)
    result = scores.compute_scores([reference], [predicted], 3)
    edge = scores.edge_mask(reference)
    assert result.overall == pytest.approx((reference == predicted).mean())
    assert result.edge == pytest.approx((reference == predicted)[edge].mean())
    assert result.inside == pytest.approx((reference == predicted)[~edge].mean())
    assert result.pixels == reference.size
    assert result.to_mapping()["overall"] == round(result.overall, 4)


@pytest.mark.parametrize("shape", [(64, 64), (80, 113), (97, 224)])
def test_a_whole_mosaic_is_predicted(shape):
    chip = make_mosaic(0, size=224)
    cropped = train.LabelledMosaic(
        inputs={name: values[:, : shape[0], : shape[1]] for name, values in chip.inputs.items()},
        labels=chip.labels[: shape[0], : shape[1]],
    )
    cropped.inputs["S2L2A"][:, :50, :50] = np.nan
    result = train.predict_probabilities(
        build_segmenter(), cropped, device="cpu", window=64 if shape[0] < 96 else 96
    )
    assert result.shape == (3, *shape)
    np.testing.assert_allclose(result.sum(0), 1, atol=1e-5)


def test_a_mosaic_smaller_than_a_window_is_refused():
    with pytest.raises(ModelError, match="smaller"):
        train.predict_probabilities(build_segmenter(), make_mosaic(0), device="cpu")


def draw_gaussians(count=6000, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, count, p=[0.6, 0.3, 0.1])
    means = np.array([[0, 0], [2, 1], [-1, 3]])
    covariance_roots = np.array([[[1, 0], [0.5, 0.6]], [[0.4, 0], [0.3, 1]], [[1, 0], [-0.8, 0.3]]])
    features = means[labels] + np.einsum(
        "nij,nj->ni", covariance_roots[labels], rng.standard_normal((count, 2))
    )
    return features, labels, means, covariance_roots


def test_qda_equals_the_explicit_densities():
    from scipy.stats import multivariate_normal

    features, labels, *_ = draw_gaussians()
    baseline = train.Qda.fit(features, labels, 3)
    log_densities = np.stack(
        [
            multivariate_normal(
                features[labels == class_index].mean(0),
                np.cov(features[labels == class_index].T, bias=True),
            ).logpdf(features)
            + np.log((labels == class_index).mean())
            for class_index in range(3)
        ],
        axis=1,
    )
    assert (baseline.predict(features) == log_densities.argmax(1)).mean() > 0.999
    assert (baseline.predict(features) == labels).mean() > 0.8


def test_qda_marginalises_missing_features():
    features, labels, *_ = draw_gaussians()
    baseline = train.Qda.fit(features, labels, 3)
    one_feature_baseline = train.Qda.fit(features[:, :1], labels, 3)
    with_nan = features.copy()
    with_nan[:, 1] = np.nan
    assert (
        baseline.predict(with_nan) == one_feature_baseline.predict(features[:, :1])
    ).mean() > 0.999
    assert (baseline.predict(np.full((3, 2), np.nan)) == 0).all()


def test_qda_never_predicts_an_unseen_class():
    features, labels, *_ = draw_gaussians()
    baseline = train.Qda.fit(features, labels, 5)
    assert baseline.predict(features).max() <= 2
    with pytest.raises(ModelError, match="no complete sample"):
        train.Qda.fit(np.full((4, 2), np.nan), np.zeros(4, int), 3)
