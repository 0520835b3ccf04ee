"""Templates to self-contained pages: autoescaped, style and script inlined and allowed by their digests alone."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from oculex.report.measures import duration, number, share, span


@cache
def _environment() -> Environment:
    env = Environment(
        loader=PackageLoader("oculex.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    env.filters |= {"number": number, "share": share, "duration": duration, "thousands": "{:,}".format}
    env.globals |= {"span": span}
    return env


def render(template: str, **values: Any) -> str:
    """A page under a content security policy: no resource but inlined images, no script but ours."""
    style, script = _asset("style.css"), _asset("chart.js")
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    page = _environment().get_template(template)
    return page.render(policy=policy, style=Markup(style), script=Markup(script), **values)


def svg(drawing: str) -> Markup:
    """A chart's markup, whose strings ``charts`` has escaped."""
    return Markup(drawing)


@cache
def _asset(name: str) -> str:
    return files("oculex.report").joinpath("templates", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
