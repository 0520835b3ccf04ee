"""Small runs of each kind, and a server for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from oculex import catalog, runs
from oculex.training import recipes
from tests import toys

pytest.importorskip("gradio", reason="the page needs gradio; pip install 'oculex[serve]'")

from oculex.serve import Server
from oculex.serve.opened import Opened
from oculex.serve.shelf import shelf


@pytest.fixture(scope="session")
def squares(tmp_path_factory) -> Path:
    return toys.squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="session")
def clip(squares, tmp_path_factory) -> Path:
    changes = toys.SMALL | toys.TEXT | {"embedding": 32}
    out = tmp_path_factory.mktemp("clip") / "run"
    return runs.train(
        "clip", data=[str(squares)], out=out, budget="80steps", changes=changes, quiet=True
    ).path


@pytest.fixture(scope="session")
def classifier(squares, tmp_path_factory) -> Path:
    changes = ["image_size=16", "model.width=32", "model.layers=[1]", "model.heads=2", "model.patch=4", "batch=32",
               "optimizer.lr=3e-3", "data.workers=0", "data.holdout=0.25", 'evaluation.tasks=["classify"]',
               "precision=32-true", "mixup=0", "cutmix=0"]  # fmt: skip
    out = tmp_path_factory.mktemp("classifier") / "run"
    return runs.train(
        "supervised", data=[str(squares)], out=out, budget="60steps", changes=changes, quiet=True
    ).path


@pytest.fixture(scope="session")
def llava(tmp_path_factory) -> Path:
    from tests.systems.test_visual_language import CHANGES, named_squares

    folder = tmp_path_factory.mktemp("llava")
    changes = CHANGES | {"data.sources": named_squares(folder / "data"), "tokenizer": "corpus:300"}
    return runs.train("llava", out=folder / "run", budget="150steps", changes=changes, quiet=True).path


@pytest.fixture(scope="session")
def lavit(tmp_path_factory) -> Path:
    from tests.systems.test_lavit import SIZES, plain_squares

    folder = tmp_path_factory.mktemp("lavit")
    small = {key: value for key, value in toys.SMALL.items() if key not in ("evaluation.prompts", "context")}
    fresh = {"vision_foundation": "", "language_foundation": "", "evaluation.tasks": ["captioning"],
             "budget": "30steps", "data.sources": [str(plain_squares(folder / "data"))]}  # fmt: skip
    recipe = recipes.change(
        recipes.preset(catalog.load("lavit"), "lavit", "tiny"), {**small, **SIZES, **fresh}
    )
    return runs.start(recipe, folder / "run", quiet=True).path


@pytest.fixture(scope="session")
def fiber(tmp_path_factory) -> Path:
    from oculex.systems.fusion.fiber import FINE_FIELDS
    from tests.systems.test_fiber import boxed, changes

    folder = tmp_path_factory.mktemp("fiber")
    settings = changes(*FINE_FIELDS) | {"optimizer.lr": 4e-3, "init.run": "", "init.take": [], "data.holdout": 0.25,
                                        "evaluation.tasks": ["grounding"]}  # fmt: skip
    return runs.train("fiber", preset="tiny_fine", data=[str(boxed(folder / "data"))], out=folder / "run",
                      budget="20steps", changes=settings, quiet=True).path  # fmt: skip


@pytest.fixture(scope="session")
def gpt(squares, tmp_path_factory) -> Path:
    recipe = recipes.preset(catalog.load("gpt"), "gpt", "tiny")
    sizes = replace(recipe.model, language_width=32, language_layers=1, language_heads=2, context=24, vocabulary=300,
                    tokenizer="corpus:300")  # fmt: skip
    changes = {"data.sources": [str(squares)], "budget": "60steps", "batch": 32, "precision": "32-true",
               "data.workers": 0, "data.holdout": 0.25}  # fmt: skip
    return runs.start(
        recipes.change(replace(recipe, model=sizes), changes),
        tmp_path_factory.mktemp("gpt") / "run",
        quiet=True,
    ).path


@pytest.fixture(scope="session")
def serving(tmp_path_factory) -> Iterator[Callable[[Path], Server]]:
    """A server of a run, started once; all keep uploads in one folder."""
    servers: dict[Path, Server] = {}
    own = pytest.MonkeyPatch()
    own.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))

    def start(run: Path) -> Server:
        if run not in servers:
            opened = Opened.of(run)
            servers[run] = Server(opened, shelf(opened))
        return servers[run]

    yield start
    for server in servers.values():
        server.close()
    own.undo()
