"""Colours of classes that no model and no job gives a colour.

The first seven are those of Okabe and Ito, the next four of Paul Tol's muted scheme. The rest were
computed once, as the colours that are the farthest in CIELAB from all before them, for normal
colour vision, protanopia and deuteranopia (Machado et al. 2009). Colours are part of a plan's
digest, so the table must not change.

source: Okabe, Ito (2008), Color universal design. Tol (2021), Colour schemes, SRON/EPS/TN/09-002.
Glasbey et al. (2007), Colour displays for categorical images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

COLOR_PATTERN = "#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})"
"""Regular expression of a colour as it is written."""

_TABLE = (
    "0072B2D55E00009E73F0E442CC79A756B4E9E69F00DDCC773322888822551177330096FF003C0F5A0F5A"
    "87E1FF69A55A785A87693C8778A53C5A4B00005AB43C2D2DE1D25A69C3874B694BD2F0A596B4D24B96E1"
    "9687C3781E1EA5A5963C78D2B43C2D4B78692D965A004B4B5A0069005A6996C378B4B45A0000FF1E5AF0"
    "0000B4003CB42D69E11E2DE100D21EB44B0F0F3CD2E1F0874B4B3C4B3C960078A52D0F960F69695AD2FF"
    "78E1E15AA5B43CB4FF5A963CB40FFF876987A5694B87961EB4F0FF4B4B2D3CE1A5D200C300FFE1C369FF"
    "6900003C4BD2E1B496C3B44BB43CA5A5FF003C2DFF0F00E1D2F05A5A0F4BFFB43C2D3CA5A51E0FA5A5A5"
    "D278781E78E1870078F087C3F0690F000FA5D2F0B469002DD2F096D2D287E196692D5A9696F06900A5D2"
    "874B1E96782D783C1E002DB4FF5A3C69785A96B4E1D2D296A51E69A5F0C38769FF78D2E1FF96B43C8796"
    "4B2D3C5A7878E1D2003C2D87964B4B00E169784B87F0695AB4A5785A87E1D296FF3CA5E1A5FF69000FD2"
    "870F5AE12D1E69E14B1E78C3F04B96785A5AB43C3C961E3C1E69C3F0784BFF5AC3B4878796A5874B3C1E"
    "B44BD25A00784B96A50F2DD2872D2D8787B4C3B41E87B46969D2F01E874B0F4B5A3C1E96B45A78961E78"
    "E169D20069962D69FFF0E1E1D2D2D21E3CC35A1E69FFB44B780F4B87E1F069C3A52D96D2C369A5786900"
    "F01E3C690F782D2D5A69C3B4781E96C3786969A500694B4B2D3CE16996F0C30F69A5F078692D87784BD2"
    "693CA5F01E78780F0F5AA54B7800A5002DC3E1E1D2879696783CE17878B4786996693CC3A5B4960F00C3"
    "1E69B4F0B4693CF0B4004BB45A2D692DB4C369D296D269F096F01E78003C694BA5C3A5F04BD2B4785A2D"
    "FFA5C3C3E1A5C35A5AD2C3874B0FA5A52D78F0A53C2D3CF0005AE1001EB4003C3CE1A587B4C3D24B0FF0"
    "96F0F0E13C8787C3E1D2E196960F00D2E187789669A52D96873CF00FF05A001EC3F0782D3C695AE1E14B"
    "D2C3A5967869FF5AB44B5A0FB469873C69A578B44BB41E87877896C3A53CE10FC33C87783CD24B5AB45A"
    "E1B4F0D2783C"
)

PALETTE: tuple[Color, ...] = tuple(
    (int(_TABLE[i : i + 2], 16), int(_TABLE[i + 2 : i + 4], 16), int(_TABLE[i + 4 : i + 6], 16))
    for i in range(0, len(_TABLE), 6)
)
"""Colours by preference. The first 13 differ by at least 17 (CIE 1976) for all three kinds of
vision; more classes than that cannot all be told apart by everyone."""

BACKGROUND_COLOR: Color = (214, 208, 196)
"""Colour of a class that means the absence of the others."""

_BACKGROUND_NAME = re.compile(r"others?|background|none|rest|un\w+|no[nt]?[ _-].*")

_COLORS_BY_WORD = {
    "water": (PALETTE[0], PALETTE[5]),
    "flood": (PALETTE[0], PALETTE[5]),
    "burn": (PALETTE[1],),
    "fire": (PALETTE[1],),
    "forest": (PALETTE[10], PALETTE[2]),
    "tree": (PALETTE[10], PALETTE[2]),
    "vegetat": (PALETTE[2],),
    "crop": (PALETTE[6],),
}
"""Beginning of a word in a class name → colours that maps of it usually have, the best first."""


def choose_colors(names: Sequence[str], stated: Sequence[Color | None]) -> tuple[Color, ...]:
    """Return a colour for each class: the stated one, one that fits its name, or the next.

    No two classes get the same colour, unless both are stated.

    Args:
        names: names of the classes, at most as many as :data:`PALETTE` has colours.
        stated: the colour of each class; None where there is none.
    """
    chosen: list[Color | None] = list(stated)
    used = {color for color in stated if color is not None}
    for index, name in enumerate(names):
        free = [color for color in _suggest_colors(name) if color not in used]
        if chosen[index] is None and free:
            chosen[index] = free[0]
            used.add(free[0])
    remaining = iter([color for color in PALETTE if color not in used])
    return tuple(next(remaining) if color is None else color for color in chosen)


def parse_color(text: str) -> Color:
    """Return the colour of ``#rrggbb``; the hash sign may be missing.

    Raises:
        ValueError: the text has another form.
    """
    match = re.fullmatch(COLOR_PATTERN, text.strip())
    if match is None:
        raise ValueError(
            f"the colour {text!r} is not of the form '#d55e00': write six digits from 0 "
            "to f, in quotes."
        )
    red, green, blue = (int(part, 16) for part in match.groups())
    return red, green, blue


def format_color(color: Color) -> str:
    """Return a colour as six hexadecimal digits, without ``#``."""
    return "".join(f"{channel:02X}" for channel in color)


def _suggest_colors(name: str) -> tuple[Color, ...]:
    folded = name.strip().casefold()
    if _BACKGROUND_NAME.fullmatch(folded):
        return (BACKGROUND_COLOR,)
    words = re.findall(r"[a-z]+", folded)
    suggested = (
        colors
        for beginning, colors in _COLORS_BY_WORD.items()
        if any(word.startswith(beginning) for word in words)
    )
    return next(suggested, ())
