"""Whole runs on little data: learning, and what a user is told."""

import pytest

from oculex import embeddings, runs
from oculex.contracts import UserError
from oculex.training.folder import read_lines
from tests.training.small import losses, train


def metric(metrics, name):
    """Of the only set there is."""
    return next(value for key, value in metrics.items() if key.endswith(f"/{name}"))


def test_it_learns_colours(photos, tmp_path):
    folder = train(photos, tmp_path / "run", budget="150steps")
    metrics = list(read_lines(folder.evaluations))[-1]["metrics"]
    recall, chance = (metric(metrics, f"retrieval/text_to_image_{name}") for name in ("r1", "chance_r1"))
    assert recall["low"] > chance["value"]
    assert losses(folder)[-1][1] < 0.75 * losses(folder)[0][1]


def test_the_seed_decides_everything(photos, whole, tmp_path):
    again = train(photos, tmp_path / "again", "ema=0.9")
    other = train(photos, tmp_path / "other", "ema=0.9", "seed=1")
    assert losses(again) == losses(whole)
    assert losses(other) != losses(whole)


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


def test_a_trained_run_is_used_from_python_and_evaluates_again_equally(whole, photos, tmp_path):
    result = runs.evaluate(whole.path)
    last = list(read_lines(whole.evaluations))[-1]["metrics"]
    again, before = (metric(found, "retrieval/text_to_image_r1") for found in (result["metrics"], last))
    assert again["value"] == pytest.approx(before["value"])
    assert embeddings.index(whole.path, str(photos), tmp_path / "index") == 60
    assert len(embeddings.search(tmp_path / "index", "a red square", 5)) == 5
    assert embeddings.embed(whole.path, tmp_path / "e.parquet", images=str(photos)) == 60


def test_activation_checkpointing_leaves_losses_identical(photos, whole, tmp_path):
    lean = train(photos, tmp_path / "lean", "ema=0.9", "activation_checkpointing=true")
    assert [loss for _, loss in losses(lean)] == pytest.approx([loss for _, loss in losses(whole)], rel=1e-6)
