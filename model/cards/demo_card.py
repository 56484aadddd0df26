"""The card of a trained model, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.predictor.cards import Card


def render_card(card: Card, *, sha256: str, size: int) -> str:
    """Return the card of the demo model as Markdown.

    Args:
        card: the card that lies beside the weights.
        sha256: of the weights.
        size: of the weights, bytes.
    """
    made = card.training
    recipe, fit = made["recipe"], made["fit"]
    return "\n".join(
        [
            "# The demo model",
            "",
            made["what"],
            "",
            (
                f"- Architecture: TerraMind's encoder, width {card.architecture.dim}, depth "
                f"{card.architecture.depth}, heads {card.architecture.heads}, with a "
                "segmentation head over tokens and raw pixels at half resolution."
            ),
            f"- Inputs: {', '.join(card.inputs)}; windows of {card.window} px at 10 m.",
            f"- Classes: {', '.join(card.class_names)}.",
            f"- Weights: `weights.safetensors`, {size / 1e6:.1f} MB, sha256 `{sha256}`.",
            (
                f"- Trained on the countries of seeds {recipe['seeds'][0]} to "
                f"{recipe['seeds'][-1]} ({recipe['size']} px a granule), {fit['steps']} steps of "
                f"{recipe['batch']} crops, {fit['seconds']:.0f} s on {fit['device']}."
            ),
            (
                "- Not good for: real land. Spectra, texture and backscatter of the countries "
                "follow statistics of a few real scenes; landscapes, seasons and most of the "
                "world's surfaces do not occur in them."
            ),
            "",
            "## On countries it has not learnt from",
            "",
            (
                "Pixel by pixel against the countries' truth, on composites made as a job makes "
                "them. The baseline is a Gaussian classifier of single pixels (quadratic "
                "discriminant analysis) that learnt from the same countries. Without tokens: the "
                "same network with the encoder's answer set to zero."
            ),
            "",
            *_country_table(made["test_countries"]),
            "",
            "F1 by class:",
            "",
            *_f1_table(made["test_countries"]),
            "",
            *render_edge_effect(card.reach.to_summary() if card.reach else None),
            "",
            "## On real land",
            "",
            (
                "Agreement with the land cover that TerraMesh gives for three places (itself a "
                "model's map, not of the scenes' day): whatever it is, here it is."
            ),
            "",
            *_place_table(made["real_places"]),
            "",
        ]
    )


def render_edge_effect(edge_effect: Mapping[str, Any] | None) -> list[str]:
    """Return the section on the edge of a window.

    Args:
        edge_effect: what :meth:`Reach.to_mapping` gives, and the overlap that follows from it.
    """
    title = "## At the edge of a window"
    if edge_effect is None:
        return [title, "", "Not measured."]
    steps = edge_effect["steps"]
    classed = steps[0]["differs"] is not None
    names = [*(["another class"] if classed else []), "mean change"]
    measured = f" Measured on {edge_effect['on']}." if edge_effect["on"] else ""
    rows = [
        title,
        "",
        (
            "Pixels at a distance from the edge of a window, against the same pixels in the middle "
            f"of another one: what windows of {edge_effect['window']} px owe to where they end.{measured}"
        ),
        "",
        f"| px from the edge | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for step in steps:
        share = [f"{100 * step['differs']:.1f} %"] if classed else []
        figures = " | ".join([*share, f"{step['change']:.3f}"])
        first, last = step["first"], step["stop"] - 1
        rows.append(f"| {first if first == last else f'{first} to {last}'} | {figures} |")
    overlap = edge_effect["overlap"]
    return [*rows, "", f"From this follows that windows overlap by {overlap} px, all blended."]


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
    for seed, scored in tested.items():
        for kind, title in titles.items():
            one = scored[kind]
            figures = (one[key] for key in ("overall", "macro_f1", "inside", "edge"))
            rows.append(f"| {seed} | {title} | {' | '.join(f'{value:.3f}' for value in figures)} |")
    return rows


def _f1_table(tested: Mapping[str, Any]) -> list[str]:
    names = list(next(iter(tested.values()))["model"]["f1"])
    rows = [f"| seed | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for seed, scored in tested.items():
        values = (scored["model"]["f1"][name] for name in names)
        rows.append(f"| {seed} | {' | '.join(_format_figure(value) for value in values)} |")
    return rows


def _place_table(places: Mapping[str, Any]) -> list[str]:
    if not places:
        return ["Not measured: no real scenes were at hand."]
    rows = ["| place | overall | macro F1 |", "|---|---|---|"]
    return rows + [
        f"| {name} | {one['overall']:.3f} | {one['macro_f1']:.3f} |" for name, one in places.items()
    ]


def _format_figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
