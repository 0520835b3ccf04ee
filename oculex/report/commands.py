"""What to type: to train the same again, and to go on from a run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oculex import catalog
from oculex.contracts import UserError
from oculex.nn.image.image_encoder import ImageEncoder
from oculex.nn.joint.dual_encoder import DualEncoder
from oculex.nn.language.causal import LanguageConfig

_OWN_FLAGS = ("system", "preset", "budget", "seed", "data.sources")


def reproduce(recipe: Mapping[str, Any]) -> str:
    """The `oculex train` command of a resolved recipe: its preset, and every field that differs from it."""
    parts = ["oculex", "train", str(recipe["system"]), "--preset", str(recipe["preset"])]
    parts += ["--data", *recipe["data"]["sources"], "--budget", str(recipe["budget"])]
    parts += ["--seed", str(recipe["seed"])]
    changes = changed(recipe)
    if changes:
        parts += ["--set", *(f"{name}={value}" for name, value in changes.items())]
    return shlex.join(parts)


def changed(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Dotted fields that differ from the preset's, beside those that have flags of their own.

    Empty too where this oculex has no such system or preset any more.
    """
    from oculex.training import recipes

    try:
        plugin = catalog.load(recipe["system"])
        base = flat(recipes.to_tree(recipes.preset(plugin, recipe["system"], recipe["preset"])))
    except UserError:
        return {}
    return {n: v for n, v in flat(recipe).items() if n not in _OWN_FLAGS and base.get(n) != v}


def flat(tree: Mapping[str, Any], where: str = "") -> dict[str, str]:
    """Dotted names, as `--set` takes them, with values as JSON; lists of records by index."""
    out: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{where}{key}"
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = {str(i): item for i, item in enumerate(value)}
        if isinstance(value, dict) and value:
            out |= flat(value, f"{name}.")
        else:
            out[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return out


ASKED_BY: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("captioning", "vqa"), "Have a picture described", "generate {} --image PICTURE"),
    (("drawing",), "Have a text drawn", 'generate {} --draw "a red cube" -o cube.png'),
    (("control", "imitation"), "Ask what a robot is to do", 'act {} --image PICTURE --instruction "push the red cross"'),
    (("captioning", "vqa", "drawing"), "Have a page of it in the browser", "serve {}"),
)  # fmt: skip
"""Tasks whose figures say that a run can do something, and the command that lets it."""


def further(run: Path, system: str, metrics: Sequence[str], program: str = "oculex") -> list[tuple[str, str]]:
    """(what for, command) of what a run can be used for next."""
    at = shlex.quote(str(run))
    tasks = {name.split("/")[1] for name in metrics if name.count("/") > 1}
    steps = [("Ask everything of it that it can do", f"{program} evaluate {at}")]
    if "retrieval" in tasks:
        steps += [
            ("Search your own pictures", f"{program} index {at} --images PATH -o my.index"),
            ("", f'{program} search my.index "a red ball"'),
        ]
    steps += [(what, f"{program} {command.format(at)}") for of, what, command in ASKED_BY if tasks & {*of}]
    if to := _held_by(system):
        steps.append(("Use it in other tools", f"{program} export {at} OUT --to {to}"))
    return [*steps, ("See whether another run is really better", f"{program} compare {at} OTHER_RUN")]


def _held_by(system: str) -> str:
    """Which library's format can hold what such a system learns; empty: none, or the system is gone."""
    try:
        plugin = catalog.load(system)
    except UserError:
        return ""
    if issubclass(plugin.system, DualEncoder):
        return "open_clip"
    if issubclass(plugin.config, LanguageConfig):
        return "transformers"
    return "timm" if issubclass(plugin.system, ImageEncoder) else ""
