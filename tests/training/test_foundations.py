"""What others are trained from: runs, published folders, and presets that are trained once and kept."""

from dataclasses import replace

import pytest
import torch

from oculex import catalog, export, runs
from oculex.contracts import UserError
from oculex.systems.contrastive.clip import SYSTEM
from oculex.training import foundations, recipes
from oculex.training.foundations import foundation
from tests.training.small import SMALL, train

WHOLE = 'init.take=[["", ""]]'


def same(got, wanted):
    got, wanted = dict(got), dict(wanted)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, atol=1e-6, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(params=["run", "open_clip", "transformers"])
def spec(request, whole, tmp_path):
    """The same trained weights, kept in three ways."""
    if request.param == "run":
        return str(whole.path)
    pytest.importorskip(request.param)
    export.export_run(whole.path, request.param, tmp_path / "out")
    return f"{request.param}:{tmp_path / 'out'}"


def test_the_weights_are_those_that_were_trained(spec, whole):
    found = foundation(spec)
    assert not found.training
    same(found.state_dict(), runs.load(whole.path).state_dict())


def test_training_begins_from_them(spec, whole, photos, tmp_path):
    """At a learning rate of 0, what is trained is what it began from."""
    run = train(photos, tmp_path / "run", f"init.run={spec}", WHOLE, "optimizer.lr=0", "optimizer.weight_decay=0",
                "seed=1", budget="2steps")  # fmt: skip
    same(runs.load(run.path).state_dict(), runs.load(whole.path).state_dict())


def test_a_part_of_them_can_be_taken(whole, photos, tmp_path):
    start = [f"init.run={whole.path}", 'init.take=[["text.", "text."]]', "optimizer.lr=0", "seed=1"]
    run = train(photos, tmp_path / "run", *start, budget="2steps")
    got, wanted = (runs.load(folder.path).state_dict() for folder in (run, whole))
    equal = {name for name in wanted if torch.equal(got[name], wanted[name])}
    assert {name for name in wanted if name.startswith("text.")} <= equal
    assert "image.patches.weight" not in equal


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("text_width=48", "give both the same sizes"),
        ("text_layers=2", "is missing"),
        ('init.take=[["", "sound."]]', "no weight here begins with 'sound.'"),
    ],
)
def test_weights_that_do_not_fit_are_named(whole, photos, tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        train(photos, tmp_path / "run", f"init.run={whole.path}", WHOLE, change, budget="2steps")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nowhere", "is not a run folder"),
        ("clip:huge", "huge"),
        ("klip:tiny", "klip"),
        ("open_clip:ViT-Z-99/x", "ViT-Z-99"),
    ],
)
def test_what_is_no_foundation_is_one_line(spec, said):
    with pytest.raises(UserError, match=said):
        foundation(spec)


def test_a_preset_is_trained_once_and_kept(photos, monkeypatch):
    """Even where an evaluation is the first to ask for it."""

    def wee():
        changes = [*SMALL, f'data.sources=["{photos}"]', "budget=3steps"]
        return recipes.change(SYSTEM.presets["tiny"](), changes)

    monkeypatch.setattr(
        catalog, "load", lambda name: replace(SYSTEM, presets={**SYSTEM.presets, "wee": wee}), raising=True
    )
    with torch.inference_mode():
        first = foundation("clip:wee")
    monkeypatch.setattr(foundations, "_say", lambda text: pytest.fail(f"it was trained again: {text}"))
    same(foundation("clip:wee").state_dict(), first.state_dict())
