"""Recipes to JSON and back, and changes by dotted name. Every mistake is reported, all of them at once."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from oculex.contracts import Judges, Plugin, Recipe, UserError


def preset(plugin: Plugin, system: str, name: str) -> Recipe:
    """A preset's full recipe; an unknown one is named with the known ones."""
    if name not in plugin.presets:
        raise UserError(f"{system} has no preset {name!r}; it has: {', '.join(plugin.presets)}")
    return dataclasses.replace(plugin.presets[name](), system=system, preset=name)


def to_tree(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested dicts and lists that JSON can hold."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def identity(recipe: Recipe) -> str:
    """What names a run in a cache: the tree as text. Fields that came later are left out where they have their default,
    so that what was run before keeps its name."""
    tree = to_tree(recipe)
    for path, default in _LATER.items():
        *parents, last = path.split(".")
        part = tree
        for parent in parents:
            part = part[parent]
        if part[last] == default:
            del part[last]
    return json.dumps(tree, sort_keys=True)


_LATER = {"evaluation.judges": dataclasses.asdict(Judges())}


def from_tree(tree: Mapping[str, Any], config: type) -> Recipe:
    """The recipe of a tree; ``config`` is the class of ``recipe.model``.

    Raises UserError that lists every unknown key and every value of the wrong type.
    """
    mistakes = _unknown(Recipe, tree, "") + _unknown(config, tree.get("model", {}), "model.")
    if mistakes:
        raise UserError("; ".join(mistakes))
    values = {key: value for key, value in tree.items() if key != "model"}
    model, bad_model = _validate(config, tree.get("model", {}), "model.")
    recipe, bad = _validate(Recipe, {**values, "model": None}, "")
    if bad or bad_model:
        raise UserError("; ".join(bad + bad_model))
    return _check(dataclasses.replace(recipe, model=model))


def change(recipe: Recipe, changes: Mapping[str, Any] | Sequence[str]) -> Recipe:
    """The recipe with fields set by dotted name: {"optimizer.lr": 1e-3} or ["optimizer.lr=1e-3"].

    A name that is not the recipe's own is looked for in its model, so ``width=256`` means ``model.width=256``;
    a number indexes a tuple (``stages.0.name``). A field of the model that its other fields leave without effect
    (``model.unused()``) is refused.
    """
    if not isinstance(changes, Mapping):
        changes = _pairs(changes)
    tree, mistakes, asked = to_tree(recipe), [], {}
    for name, value in changes.items():
        path = name.split(".")
        if path[0] not in tree and path[0] in tree["model"]:
            path = ["model", *path]
        asked[".".join(path)] = name
        mistakes += _set(tree, path, value, name)
    if mistakes:
        raise UserError("; ".join(mistakes))
    changed = from_tree(tree, type(recipe.model))
    unused = changed.model.unused() if hasattr(changed.model, "unused") else {}
    idle = [f"{asked[f'model.{n}']} {why}" for n, why in unused.items() if f"model.{n}" in asked]
    if idle:
        raise UserError(f"{'; '.join(idle)}; leave it out")
    return changed


def _pairs(texts: Sequence[str]) -> dict[str, Any]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set takes key=value, got {text!r}")
        try:
            pairs[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            pairs[name.strip()] = value
    return pairs


def _set(tree: Any, path: list[str], value: Any, name: str) -> list[str]:
    for depth, key in enumerate(path[:-1]):
        tree, missing = _child(tree, key)
        if missing:
            return [f"no field {name!r} in the recipe{_near(path[depth], missing)}"]
    _, missing = _child(tree, path[-1])
    if missing:
        return [f"no field {name!r} in the recipe{_near(path[-1], missing)}"]
    if isinstance(tree, list):
        tree[int(path[-1])] = value
    else:
        tree[path[-1]] = value
    return []


def _child(tree: Any, key: str) -> tuple[Any, list[str]]:
    """The child, or the keys there are."""
    keys = (
        list(tree)
        if isinstance(tree, dict)
        else [str(i) for i in range(len(tree))]
        if isinstance(tree, list)
        else []
    )
    if key not in keys:
        return None, keys or ["(nothing below it)"]
    return (tree[key] if isinstance(tree, dict) else tree[int(key)]), []


def _near(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; known there: {', '.join(known)}"


def _unknown(cls: type, tree: Any, where: str) -> list[str]:
    """Keys in the tree that the dataclass does not have, at any depth."""
    if not isinstance(tree, Mapping):
        return [f"{where.rstrip('.') or 'the recipe'} must be a mapping, not {type(tree).__name__}"]
    hints = get_type_hints(cls)
    found = []
    for key, value in tree.items():
        if key not in hints:
            found.append(f"unknown key {where}{key}{_near(key, list(hints))}")
        elif dataclasses.is_dataclass(hints[key]):
            found += _unknown(hints[key], value, f"{where}{key}.")
        elif isinstance(value, list):
            inner = getattr(hints[key], "__args__", (object,))[0]
            if dataclasses.is_dataclass(inner):
                for i, item in enumerate(value):
                    found += _unknown(inner, item, f"{where}{key}.{i}.")  # type: ignore[arg-type]
    return found


def _validate(cls: type, tree: Any, where: str) -> tuple[Any, list[str]]:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(cls).validate_python(tree), []
    except ValidationError as error:
        return None, [
            f"{where}{'.'.join(str(p) for p in e['loc'])}: {e['msg'].lower()} (got {e['input']!r})"
            for e in error.errors()
        ]


def _check(recipe: Recipe) -> Recipe:
    """What no single field's type can say."""
    wrong = []
    if recipe.batch < 1 or recipe.accumulate < 1 or recipe.batch % recipe.accumulate:
        wrong.append(f"batch={recipe.batch} must be a positive multiple of accumulate={recipe.accumulate}")
    if recipe.precision not in ("32-true", "bf16-mixed", "16-mixed"):
        wrong.append(f"precision={recipe.precision!r} is not one of 32-true, bf16-mixed, 16-mixed")
    if not recipe.stages or abs(sum(stage.share for stage in recipe.stages) - 1) > 1e-6:
        wrong.append("the shares of the stages must sum to 1")
    if not 0 <= recipe.ema < 1:
        wrong.append(f"ema={recipe.ema} must be at least 0 and below 1")
    if not recipe.data.sources:
        wrong.append("data.sources is empty; name at least one source, or world")
    if wrong:
        raise UserError("; ".join(wrong))
    return recipe
