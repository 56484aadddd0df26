"""Render the HTML pages from the templates beside this file."""

from __future__ import annotations

import base64
import functools
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from pipeline.product import descriptions
from pipeline.storage import color_ramps


def render_template(name: str, **values: Any) -> str:
    """Render a template of ``pipeline/product/report/templates``.

    Args:
        name: file name of the template.
        values: variables of the template; what is no ``markupsafe.Markup`` is escaped.

    Raises:
        jinja2.UndefinedError: the template uses a variable that is not passed.
    """
    return _environment().get_template(name).render(**values)


def render_drawing(name: str, **values: Any) -> Markup:
    """Render an SVG template, to be put into a page as it is."""
    return Markup(render_template(name, **values))  # noqa: S704 -- the template escapes


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.product.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = _encode_base64
    environment.filters["percent"] = _format_percent
    environment.filters["ramp_stops"] = _ramp_stops
    environment.filters["redact"] = descriptions.redact_message
    return environment


def _encode_base64(png: bytes) -> str:
    return base64.b64encode(png).decode()


def _format_percent(share: float) -> str:
    """Format a share of 0 to 1 as a percentage."""
    return f"{100 * share:.3g} %"


def _ramp_stops(ramp: color_ramps.ColorRamp) -> str:
    """Return the colours of a ramp as the stops of a CSS gradient."""
    colors = color_ramps.ramp_colors(np.linspace(0, 1, 9), ramp)
    return ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in colors)
