"""To and from the libraries that people already use. Every conversion is checked by running both sides."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from oculex import catalog, runs
from oculex.contracts import UserError
from oculex.data.assets import RunAssets
from oculex.export.parity import Parity
from oculex.nn.image.image_encoder import ImageEncoder
from oculex.nn.joint.dual_encoder import DualEncoder
from oculex.nn.language.causal import Speaks
from oculex.training import checkpoint, recipes, reopen
from oculex.training.folder import RunFolder, write_json

TARGETS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "open_clip": (DualEncoder, "dual encoders"),
    "transformers": ((DualEncoder, Speaks), "dual encoders and language models"),
    "timm": (ImageEncoder, "image towers"),
    "onnx": (DualEncoder, "dual encoders"),
}
"""Which systems each can hold."""


@runtime_checkable
class Separable(Protocol):
    """A system of several encoders into one space, each of which makes a dual encoder of its own with text."""

    def dual_encoder(self, name: str) -> DualEncoder: ...


def export_run(run: Path, to: str, out: Path, modality: str = "image") -> list[Parity]:
    """Writes the run's model to ``out`` in another library's format; how exactly both agree.

    ``modality``: of a system that encodes several, the one whose encoder is written with that of text.

    Raises UserError where the library cannot hold the model, is not installed, or differs by more than 1e-4.
    """
    if to not in TARGETS:
        raise UserError(f"cannot export to {to!r}; known: {', '.join(TARGETS)}")
    opened = RunFolder.open(run)
    system: Any = runs.load(run)
    if modality != "image":
        if not isinstance(system, Separable):
            name = reopen.load_recipe(opened).system
            raise UserError(f"{name} has no encoder of {modality!r} to export alone")
        system = system.dual_encoder(modality)
    kind, holds = TARGETS[to]
    if not isinstance(system, kind):
        raise UserError(f"{to} has no format for {reopen.load_recipe(opened).system}; it holds {holds}")
    return _module("oculex.export", to).export(system, RunAssets(opened.assets, None), out)


def import_run(
    kind: str, model: str, out: Path, pretrained: str = "", allow_pickle: bool = False
) -> list[Parity]:
    """Makes a run folder of published weights, evaluated and trained on like any other."""
    read = _module("oculex.nn.published", kind).read
    found = read(model, pretrained, allow_pickle) if kind == "open_clip" else read(model)
    folder = RunFolder.create(out)
    assets = RunAssets(folder.assets, None)
    plugin = catalog.load("clip")
    config = plugin.config(**vars(found.config))
    system: Any = plugin.system.build(config, assets)
    checkpoint.load_weights(system, found.weights, Path(model))
    recipe = recipes.preset(plugin, "clip", "vit_b_32")
    recipe = recipes.change(recipe, {"data.sources": ["world"], "budget": "1steps"})
    tree = recipes.to_tree(recipe) | {"model": vars(config), "preset": "imported"}
    write_json(folder.recipe, tree)
    state = {"groups": [], "average_updates": 0, "scaler": None, "skips": [], "seen": 0, "lost": 0}
    checkpoint.save(folder, 0, state, {"weights": system.state_dict()}, keep=1)
    compare = _module("oculex.export", kind).compare
    return compare(system.eval(), assets.tokenizer(config.tokenizer), found.peer())


def _module(package: str, kind: str) -> Any:
    try:
        return importlib.import_module(f"{package}.{kind}")
    except ImportError as error:
        raise UserError(f"{kind} is not installed; pip install 'oculex[{kind.replace('_', '')}]'") from error
