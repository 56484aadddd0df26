"""What was seen, for people: the picture by date, the scenes, and what was left out and why."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pipeline.product import descriptions
from pipeline.report import charts, page

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from catalogs.scene import Scene
    from catalogs.scene_selection import Caveat, RejectedScene
    from pipeline.quality.coverage import DayCoverage


def render_search_page(title: str, days: Sequence[DayCoverage], tables: Sequence[str]) -> str:
    """Return a page of its own for the answer of a search."""
    heading = f"<header><h1>{escape(title)}</h1></header>"
    return page.render_page(title, "\n".join((heading, render_coverage(days), *tables)))


def render_coverage(days: Sequence[DayCoverage]) -> str:
    """Return the section with the coverage by date; nothing where there is none."""
    drawn = charts.render_coverage(days)
    if not drawn:
        return ""
    return page.render_section(
        "What was seen",
        "<p>Share of the region under the scenes of each day. A footprint says what was in view, "
        "not what was clear.</p>"
        f'<figure class="scroll">{drawn}</figure>',
    )


def render_scenes(used_scenes: Sequence[Scene], without_scl: Collection[str] = ()) -> str:
    """Return the section with the scenes that were used."""
    rows = [_render_scene_row(scene, without_scl) for scene in used_scenes]
    heads = ("Scene", "Input", "Time, UTC", "Platform", "Cell", "Baseline", "Orbit", "Cloud")
    return page.render_section(
        f"Scenes used ({len(rows)})",
        page.collapse_long_table(page.render_table((*heads, "Remarks"), rows), len(rows)),
    )


def _render_scene_row(scene: Scene, without_scl: Collection[str]) -> str:
    """Return one line about a scene."""
    time = "" if scene.datetime is None else f"{scene.datetime:%Y-%m-%d %H:%M}"
    cloud = "" if scene.cloud_cover is None else f"{scene.cloud_cover:.0f} %"
    orbit = f"{scene.orbit_state or ''} {scene.relative_orbit or ''}".strip()
    remark = "no SCL: treated as clear" if scene.id in without_scl else ""
    where = (scene.platform or "", scene.tile or "", scene.baseline or "", orbit)
    cells = (scene.modality, time, *where, cloud, remark)
    rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row" class="id">{escape(scene.id)}</th>{rest}</tr>'


def render_caveats(caveats: Sequence[Caveat]) -> str:
    """Return the section with what is doubtful about scenes that were used."""
    return render_reasons(
        "Open questions",
        "Scene",
        [(one.id, one.text) for one in caveats],
    )


def render_radiometry_check(verdicts: Mapping[str, int]) -> str:
    """Say how far the pixels bear out what the catalog says of its numbers."""
    if not verdicts:
        return ""
    said = ", ".join(f"{answer}: {count}" for answer, count in verdicts.items())
    return (
        "<p>The pixels of every scene were compared with the offset, scale and unit that its "
        f"catalog claims ({escape(said)} scenes). A scene without dark ground cannot tell.</p>"
    )


def render_rejected(rejected_scenes: Sequence[RejectedScene]) -> str:
    """Return the section with the scenes that were left out, and why."""
    return render_reasons(
        "Scenes refused", "Scene", [(entry.id, entry.reason) for entry in rejected_scenes]
    )


def render_reasons(title: str, column_title: str, entries: Sequence[tuple[str, str]]) -> str:
    """Return a table of things and reasons; nothing where there is none."""
    if not entries:
        return ""
    rows = [
        f'<tr><th scope="row" class="id">{escape(name)}</th>'
        f"<td>{escape(descriptions.redact_message(reason))}</td></tr>"
        for name, reason in entries
    ]
    return page.render_section(
        f"{title} ({len(rows)})",
        page.collapse_long_table(page.render_table((column_title, "Reason"), rows), len(rows)),
    )
