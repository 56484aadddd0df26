"""What was seen, for people: the picture by date, the scenes, and what was left out and why."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pipeline.product import descriptions
from pipeline.report import charts, page

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from catalogs.scene import Scene
    from catalogs.scene_selection import Refusal
    from catalogs.search import Doubt
    from pipeline.quality.coverage import Day


def search_page(title: str, days: Sequence[Day], tables: Sequence[str]) -> str:
    """Return a page of its own for the answer of a search."""
    heading = f"<header><h1>{escape(title)}</h1></header>"
    return page.page(title, "\n".join((heading, picture(days), *tables)))


def picture(days: Sequence[Day]) -> str:
    """Return the section with the coverage by date; nothing where there is none."""
    drawn = charts.svg(days)
    if not drawn:
        return ""
    return page.section(
        "What was seen",
        "<p>Share of the region under the scenes of each day. A footprint says what was in view, "
        "not what was clear.</p>"
        f'<figure class="scroll">{drawn}</figure>',
    )


def scenes(used: Sequence[Scene], without_scl: Collection[str] = ()) -> str:
    """Return the section with the scenes that were used."""
    rows = [_scene(scene, without_scl) for scene in used]
    heads = ("Scene", "Input", "Time, UTC", "Platform", "Cell", "Baseline", "Orbit", "Cloud")
    return page.section(
        f"Scenes used ({len(rows)})",
        page.folded(page.table((*heads, "Remarks"), rows), len(rows)),
    )


def _scene(scene: Scene, without_scl: Collection[str]) -> str:
    """Return one line about a scene."""
    time = "" if scene.datetime is None else f"{scene.datetime:%Y-%m-%d %H:%M}"
    cloud = "" if scene.cloud_cover is None else f"{scene.cloud_cover:.0f} %"
    orbit = f"{scene.orbit_state or ''} {scene.relative_orbit or ''}".strip()
    remark = "no SCL: treated as clear" if scene.id in without_scl else ""
    where = (scene.platform or "", scene.tile or "", scene.baseline or "", orbit)
    cells = (scene.modality, time, *where, cloud, remark)
    rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row" class="id">{escape(scene.id)}</th>{rest}</tr>'


def doubts(open_questions: Sequence[Doubt]) -> str:
    """Return the section with what is doubtful about scenes that were used."""
    return reasons(
        "Open questions",
        "Scene",
        [(one.id, one.text) for one in open_questions],
    )


def proof(verdicts: Mapping[str, int]) -> str:
    """Say how far the pixels bear out what the catalog says of its numbers."""
    if not verdicts:
        return ""
    said = ", ".join(f"{answer}: {count}" for answer, count in verdicts.items())
    return (
        "<p>The pixels of every scene were compared with the offset, scale and unit that its "
        f"catalog claims ({escape(said)} scenes). A scene without dark ground cannot tell.</p>"
    )


def refused(left: Sequence[Refusal]) -> str:
    """Return the section with the scenes that were left out, and why."""
    return reasons("Scenes refused", "Scene", [(entry.id, entry.reason) for entry in left])


def reasons(title: str, head: str, entries: Sequence[tuple[str, str]]) -> str:
    """Return a table of things and reasons; nothing where there is none."""
    if not entries:
        return ""
    rows = [
        f'<tr><th scope="row" class="id">{escape(name)}</th>'
        f"<td>{escape(descriptions.scrub(reason))}</td></tr>"
        for name, reason in entries
    ]
    return page.section(
        f"{title} ({len(rows)})", page.folded(page.table((head, "Reason"), rows), len(rows))
    )
