"""Model cards as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from model.predictor.card_file import Card
from model.predictor.edge_effect import EdgeEffect
from model.tools.model_card import DescribedModality, ModelDescription

LINE_LENGTH = 118
"""Longest line of prose in a card."""


def render_demo_card(card: Card, *, sha256: str, size: int) -> str:
    """Return the card of the demo model with its training and accuracy.

    Args:
        card: the card of its folder.
        sha256: checksum of the weights.
        size: of the weights, bytes.
    """
    training = card.training
    recipe, fit = training["recipe"], training["fit"]
    return "\n".join(
        [
            "# The demo model",
            "",
            *_wrap(training["what"]),
            "",
            *_wrap(
                f"- Architecture: TerraMind's encoder, width {card.architecture.dim}, depth "
                f"{card.architecture.depth}, heads {card.architecture.heads}, with a "
                "segmentation head over tokens and raw pixels at half resolution."
            ),
            f"- Inputs: {', '.join(card.inputs)}; windows of {card.window} px at 10 m.",
            f"- Classes: {', '.join(card.class_names)}.",
            *_wrap(f"- Weights: `weights.safetensors`, {size / 1e6:.1f} MB, sha256 `{sha256}`."),
            *_wrap(
                f"- Trained on the countries of seeds {recipe['seeds'][0]} to "
                f"{recipe['seeds'][-1]} ({recipe['size']} px a granule), {fit['steps']} steps of "
                f"{recipe['batch']} crops, {fit['seconds']:.0f} s on {fit['device']}."
            ),
            *_wrap(
                "- Not suited to: real land. Spectra, texture and backscatter of the countries "
                "follow statistics of a few real scenes; real landscapes and seasons and most of "
                "the world's surfaces do not occur in them."
            ),
            "",
            "## Accuracy on countries that it was not trained on",
            "",
            *_wrap(
                "All pixels compared with the true land cover, on composites as in a job. The "
                "baseline is a Gaussian classifier of single pixels (quadratic discriminant "
                'analysis, QDA) that was fitted to the training countries. "Without tokens" is the '
                "same network with the encoder's tokens set to zero."
            ),
            "",
            *_country_table(training["test_countries"]),
            "",
            "F1 by class:",
            "",
            *_f1_table(training["test_countries"]),
            "",
            *render_edge_effect(card.reach),
            "",
            "## Agreement on real land",
            "",
            *_wrap(
                "Agreement with the land cover of TerraMesh at three places. That land cover is "
                "itself the output of a model, and not of the same day as the scenes."
            ),
            "",
            *_place_table(training["real_places"]),
            "",
        ]
    )


def render_edge_effect(edge_effect: EdgeEffect | None) -> list[str]:
    """Return the section on the edge of a window; None = not measured."""
    title = "## At the edge of a window"
    if edge_effect is None:
        return [title, "", "Not measured."]
    classed = edge_effect.steps[0].differs is not None
    names = [*(["another class"] if classed else []), "mean change"]
    measured = f" Measured on {edge_effect.measured_on}." if edge_effect.measured_on else ""
    rows = [
        title,
        "",
        *_wrap(
            "Difference between pixels at a distance from the edge of a window and the same pixels "
            f"in the middle of another window, for windows of {edge_effect.window} px.{measured}"
        ),
        "",
        f"| px from the edge | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for step in edge_effect.steps:
        share = [] if step.differs is None else [f"{100 * step.differs:.1f} %"]
        figures = " | ".join([*share, f"{step.change:.3f}"])
        first, last = step.first, step.stop - 1
        rows.append(f"| {first if first == last else f'{first} to {last}'} | {figures} |")
    return [
        *rows,
        "",
        (
            f"Neighbouring windows therefore overlap by {edge_effect.overlap} px and are blended "
            "over all of them."
        ),
    ]


def _wrap(text: str) -> list[str]:
    """Break a paragraph or a list item into lines."""
    return textwrap.wrap(
        text,
        LINE_LENGTH,
        subsequent_indent="  " if text.startswith("- ") else "",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _country_table(tested: Mapping[str, Any]) -> list[str]:
    rows = [
        "| seed | | overall | macro F1 | inside parcels | at edges |",
        "|---|---|---|---|---|---|",
    ]
    titles = {
        "model": "model",
        "model_without_tokens": "model without tokens",
        "per_pixel_qda": "single pixels (QDA)",
    }
    for seed, scores_by_model in tested.items():
        for kind, title in titles.items():
            scores = scores_by_model[kind]
            figures = (scores[key] for key in ("overall", "macro_f1", "inside", "edge"))
            rows.append(f"| {seed} | {title} | {' | '.join(f'{value:.3f}' for value in figures)} |")
    return rows


def _f1_table(tested: Mapping[str, Any]) -> list[str]:
    names = list(next(iter(tested.values()))["model"]["f1"])
    rows = [f"| seed | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for seed, scores_by_model in tested.items():
        values = (scores_by_model["model"]["f1"][name] for name in names)
        rows.append(f"| {seed} | {' | '.join(_format_figure(value) for value in values)} |")
    return rows


def _place_table(places: Mapping[str, Any]) -> list[str]:
    if not places:
        return ["Not measured: no real scenes were available."]
    rows = ["| place | overall | macro F1 |", "|---|---|---|"]
    return rows + [
        f"| {name} | {scores['overall']:.3f} | {scores['macro_f1']:.3f} |"
        for name, scores in places.items()
    ]


def _format_figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def render_markdown(model: ModelDescription) -> Iterator[str]:
    """Yield the lines of a model's card."""
    yield from (f"# {model.name}", "", model.what, "")
    weights, size = model.weights, model.architecture
    counted = [f"{name} {_format_millions(count)}" for name, count in model.parts.items()]
    facts = (
        ("Kind", model.kind),
        ("Fits", ", ".join(model.fits or ())),
        ("Parameters", model.parameters and _format_millions(model.parameters)),
        ("Parts", ", ".join(counted)),
        ("Transformer", size and f"width {size.dim}, depth {size.depth}, heads {size.heads}"),
        ("Window", model.window and f"{model.window} px"),
        ("Licence", model.licence),
        ("Download", weights.page),
        ("File", weights.path and f"`{weights.path}`"),
        ("sha256", weights.sha256 and f"`{weights.sha256}`"),
        ("Commit", weights.commit and f"`{weights.commit}`"),
        ("Classes", ", ".join(model.classes)),
    )
    yield from (f"- {name}: {value}" for name, value in facts if value)
    if model.window and model.kind != "tokenizer":
        yield from ("", *render_edge_effect(model.reach))
    for title, entries in (("Inputs", model.inputs), ("Outputs", model.outputs)):
        if entries:
            yield from ("", f"## {title}", "", *_render_table(entries))
    for title, lines in (("Limits", model.limits), ("Sources", model.sources)):
        if lines:
            yield from ("", f"## {title}", "", *(f"- {line}" for line in lines))


def _format_millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"


def _render_table(entries: Sequence[DescribedModality]) -> Iterator[str]:
    yield "| modality | form | unit | band | mean | standard deviation |"
    yield "|---|---|---|---|---|---|"
    for entry in entries:
        unit = {"pixels": "bands", "tokens": "tokens"}.get(entry.form, "classes")
        bands = entry.bands or (f"{entry.size} {unit}",)
        means, stds = (values or ["-"] * len(bands) for values in (entry.mean, entry.std))
        for index, (band, mean, std) in enumerate(zip(bands, means, stds, strict=True)):
            head = (entry.name, entry.form, entry.unit or "-") if index == 0 else ("",) * 3
            yield "| " + " | ".join(map(str, (*head, band, mean, std))) + " |"
