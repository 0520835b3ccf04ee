"""Backbones by name: what a recipe has to say so that its image tower begins from a foundation's."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from oculex import catalog
from oculex.contracts import Recipe, UserError
from oculex.nn.image.plain_encoder import PlainEncoderConfig
from oculex.nn.image.towers import FIELDS, timm_model, unused
from oculex.training import recipes
from oculex.training.folder import RunFolder, read_json

SCRATCH = "scratch"
_SPARED = ("patch_dropout", "drop_path")
"""How a backbone was regularised in its own training says nothing of what is trained now."""


def begins_from(spec: str) -> dict[str, Any]:
    """Recipe changes by dotted name: the tower's sizes, the size and scale of its pixels, and ``init``.

    ``spec``: what ``oculex.training.foundations`` knows, that is the folder of a run, NAME:PRESET or timm:MODEL, or
    scratch:SPEC, the same network from fresh weights. Nothing is trained or downloaded yet. Raises UserError where the
    image encoder of the foundation is not told by its configuration.
    """
    kind, colon, name = spec.partition(":")
    if kind == SCRATCH and colon:
        return {**begins_from(name), "init.run": ""}
    if kind == "timm" and colon:
        return _timm(name) | {"init.run": spec, "init.take": [["model.", "image.model."]]}
    model = _recipe(spec, kind, name if colon else "").model
    known = [field.name for field in fields(PlainEncoderConfig) if hasattr(model, field.name)]
    if "image_tower" not in known:
        raise UserError(
            f"{spec} has no image tower to compare; name a system that sees, such as clip:tiny_patches"
        )
    idle = unused(model.image_tower, tuple(field for field in FIELDS if field in known))
    own = {field: getattr(model, field) for field in known if field not in (*idle, *_SPARED)}
    return {"pool": "class", **own, "init.run": spec, "init.take": [["image.", "image."]]}


def _recipe(spec: str, kind: str, preset: str) -> Recipe:
    if preset:
        return recipes.preset(catalog.load(kind), kind, preset)
    tree = read_json(RunFolder.open(Path(spec)).recipe)
    return recipes.from_tree(tree, catalog.load(tree.get("system", "")).config)


def _timm(name: str) -> dict[str, Any]:
    expected = timm_model(name, pretrained=False).pretrained_cfg
    return {
        "image_tower": name,
        "image_size": int(expected["input_size"][-1]),
        "mean": list(expected["mean"]),
        "std": list(expected["std"]),
        "pool": "class",
    }
