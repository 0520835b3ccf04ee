"""Whole runs on little data: learning, killing, resuming, and what a user is told."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from oculex import runs
from oculex.contracts import UserError
from oculex.training import checkpoint
from oculex.training.folder import RunFolder, read_lines

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "white": (250, 250, 250)}
SMALL = ["image_size=16", "patch=8", "width=32", "layers=[1]", "heads=2", "embedding=16", "text_width=32",
         "text_layers=1", "text_heads=2", "tokenizer=corpus:300", "vocabulary=300", "batch=16",
         "precision=32-true", "data.workers=0",
         "checkpoint.every=5", "logging.every=1", "optimizer.lr=3e-3"]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Plain squares whose caption tells the colour."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    rows = ["image,caption"]
    for index in range(60):
        name, rgb = list(COLOURS.items())[index % 4]
        pixels = np.clip(np.array(rgb) + rng.normal(0, 20, (24, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        rows += [f"{index}.png,a {name} square", f"{index}.png,something {name}"]
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


def train(photos, out, *changes, budget="20steps"):
    return runs.train(
        "clip", data=[str(photos)], out=out, budget=budget, changes=[*SMALL, *changes], quiet=True
    )


def losses(folder):
    return [(line["step"], line["loss"]) for line in read_lines(folder.metrics)]


def weights(folder):
    return checkpoint.tensors(checkpoint.latest(folder), "weights")


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """A run that nothing interrupted."""
    return train(photos, tmp_path_factory.mktemp("runs") / "whole", "ema=0.9")


def test_it_learns_colours(photos, tmp_path):
    folder = train(photos, tmp_path / "run", budget="150steps")
    metrics = list(read_lines(folder.evaluations))[-1]["metrics"]
    recall = metrics["captions.csv/retrieval/text_to_image_r1"]
    assert recall["low"] > metrics["captions.csv/retrieval/text_to_image_chance_r1"]["value"]
    assert losses(folder)[-1][1] < 0.75 * losses(folder)[0][1]


def test_killed_anywhere_it_goes_on_to_the_bit(photos, whole, tmp_path):
    """kill -9 after the 8th step: three steps of work beyond the last checkpoint are done again."""
    out = tmp_path / "killed"
    code = (
        "import sys; from oculex import runs\n"
        f"runs.train('clip', data=[{str(photos)!r}], out={str(out)!r}, budget='20steps', "
        f"changes={[*SMALL, 'ema=0.9']!r}, quiet=True)"
    )
    code = code.replace("out='", "out=__import__('pathlib').Path('").replace("', budget", "'), budget")
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    until = time.time() + 120
    while time.time() < until and process.poll() is None:
        lines = (out / "metrics.jsonl").read_text().count("\n") if (out / "metrics.jsonl").exists() else 0
        if lines >= 8:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    process.wait(120)
    resumed = runs.resume(out, quiet=True)
    assert losses(resumed) == losses(whole)
    for name, value in weights(whole).items():
        assert value.equal(weights(resumed)[name]), name


def test_the_seed_decides_everything(photos, whole, tmp_path):
    again = train(photos, tmp_path / "again", "ema=0.9")
    other = train(photos, tmp_path / "other", "ema=0.9", "seed=1")
    assert losses(again) == losses(whole)
    assert losses(other) != losses(whole)


def test_sigterm_saves_and_leaves(photos, whole, tmp_path):
    out = tmp_path / "stopped"

    def stop(system, pool, step, final):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    from oculex.training import loop, recipes

    recipe = runs.load(whole.path).config  # the system's own configuration
    full = recipes.change(loop.load_recipe(whole), {"evaluation.every": 7})
    assert full.model == recipe
    loop.start(full, out, stop, quiet=True)
    assert checkpoint.state(checkpoint.latest(RunFolder(out)))["step"] == 7
    resumed = runs.resume(out, quiet=True)
    assert losses(resumed) == losses(whole)


def test_unreadable_pictures_are_named_and_counted(photos, tmp_path):
    broken = tmp_path / "photos"
    broken.mkdir()
    for path in photos.iterdir():
        content = path.read_bytes()
        (broken / path.name).write_bytes(content[:60] if path.name in ("3.png", "17.png") else content)
    folder = train(broken, tmp_path / "run", "data.bad_limit=0.2", "data.holdout=0.0")
    named = {line["id"] for line in read_lines(folder.skipped)}
    assert named == {"3.png", "17.png"}
    with pytest.raises(UserError, match=r"over data.bad_limit=0.01"):
        train(broken, tmp_path / "strict", "data.bad_limit=0.01", "data.holdout=0.0", budget="60steps")


def test_changed_data_is_noticed_on_resume(photos, tmp_path):
    own = tmp_path / "photos"
    own.mkdir()
    for path in photos.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    folder = train(own, tmp_path / "run")
    (own / "captions.csv").write_text((own / "captions.csv").read_text() + "\n1.png,more")
    with pytest.raises(UserError, match="the data changed"):
        runs.resume(folder.path, quiet=True)


def test_a_loss_that_is_not_finite_stops_before_the_update(photos, tmp_path):
    with pytest.raises(UserError, match="skip-batch"):
        train(photos, tmp_path / "run", "optimizer.lr=1e30")
    crash = json.loads((tmp_path / "run" / "crash-rank0.json").read_text())
    assert len(crash["ids"]) == 16


def test_a_trained_run_is_used_from_python_and_evaluates_again_equally(whole, photos, tmp_path):
    result = runs.evaluate(whole.path)
    last = list(read_lines(whole.evaluations))[-1]["metrics"]
    name = "captions.csv/retrieval/text_to_image_r1"
    assert result["metrics"][name]["value"] == pytest.approx(last[name]["value"])
    assert runs.index(whole.path, str(photos), tmp_path / "index") == 60
    assert len(runs.search(tmp_path / "index", "a red square", 5)) == 5
    assert runs.embed(whole.path, tmp_path / "e.parquet", images=str(photos)) == 60


def test_activation_checkpointing_leaves_losses_identical(photos, whole, tmp_path):
    lean = train(photos, tmp_path / "lean", "ema=0.9", "activation_checkpointing=true")
    assert [loss for _, loss in losses(lean)] == pytest.approx([loss for _, loss in losses(whole)], rel=1e-6)
