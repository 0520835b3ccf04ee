"""Foundations: trained systems that other systems learn from, by name. What is trained for it is trained once."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from oculex import catalog
from oculex.contracts import UserError
from oculex.data.assets import RunAssets
from oculex.data.sources.files import cache_folder, digest
from oculex.nn.image.timm_classifier import TimmClassifier
from oculex.nn.published import blip2
from oculex.training import checkpoint, loop, plan, ranks, recipes, reopen
from oculex.training.folder import RunFolder, finished


def foundation(spec: str) -> Any:
    """A trained system in evaluation mode.

    ``spec``: the folder of a run; NAME:PRESET, a catalog system that is trained by that preset once and kept in the
    cache under a digest of its recipe and data; published weights as open_clip:MODEL/WEIGHTS (a tag or a file),
    transformers:FOLDER, timm:MODEL, a classifier, or blip2:NAME, a query transformer. Raises UserError for anything else.
    """
    kind, colon, name = spec.partition(":")
    if kind == "timm":
        return TimmClassifier(name).eval()
    if kind == "blip2":
        return blip2.read(name).eval()
    if kind in ("open_clip", "transformers"):
        return _published(kind, name).eval()
    folder = _trained(kind, name) if colon else RunFolder.open(Path(spec))
    return reopen.load(folder).eval()  # type: ignore[attr-defined]


def _published(kind: str, name: str) -> Any:
    """What others trained, as the system that it is."""
    try:
        read = import_module(f"oculex.nn.published.{kind}").read
    except ImportError as error:
        raise UserError(f"{kind} is not installed; pip install 'oculex[{kind.replace('_', '')}]'") from error
    found = read(name) if kind == "transformers" or Path(name).is_dir() else read(*_model_and_weights(name))
    plugin = catalog.load(found.system)
    system: Any = plugin.system.build(plugin.config(**vars(found.config)), RunAssets(None, None))
    checkpoint.load_weights(system, found.weights, Path(name))
    return system


def _model_and_weights(name: str) -> tuple[str, str]:
    model, _, weights = name.partition("/")
    return model, weights


@torch.inference_mode(False)
@torch.enable_grad()
def _trained(name: str, preset: str) -> RunFolder:
    """The run of the preset. An evaluation may be the first to ask for it, and computes without gradients."""
    from filelock import FileLock

    recipe = recipes.preset(catalog.load(name), name, preset)
    tree = recipes.identity(recipe)
    pool = plan.open_pool(recipe.data.sources, recipe.data.holdout)
    key = digest([tree, sorted(pool.fingerprints().items())])
    path = cache_folder() / "foundations" / f"{name}-{preset}-{key}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        folder = RunFolder(path)
        if not finished(folder):
            if ranks.size() > 1:
                raise UserError(
                    f"{name}:{preset} is not trained yet; start once without torchrun, which trains it"
                )
            begun = folder.plan.exists()
            _say(f"{'going on with' if begun else 'training'} the foundation {name}:{preset}, once")
            if begun:
                loop.resume(folder, _unjudged, foundation)
            else:
                loop.start(recipe, path, _unjudged, foundation)
        if not finished(folder):
            raise UserError(f"stopped before {name}:{preset} was trained; the same command goes on with it")
    return folder


def _unjudged(*_: Any) -> dict[str, Any]:
    return {}


def _say(text: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(text)
