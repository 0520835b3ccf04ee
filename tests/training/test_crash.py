"""What is not finite, and spikes: stopped before the update, kept, repeated alone, left out."""

import math
import shutil

import pytest
import torch
from torch import nn

from oculex import cli, runs
from oculex.contracts import UserError
from oculex.systems.contrastive.clip import CLIP
from oculex.training import checkpoint, crash
from oculex.training.folder import RunFolder, read_json
from tests.training.small import losses, train, weights


@pytest.fixture
def poisoned(monkeypatch):
    """CLIP that in the 8th update embeds the first caption of each micro-batch as not a number."""
    encode, at = CLIP.encode, {"step": 0}
    monkeypatch.setattr(CLIP, "before_step", lambda self, step, steps: at.update(step=step))

    def broken(self, batch):
        features = encode(self, batch)
        if at["step"] == 7:
            features["text"] = features["text"].index_fill(0, torch.tensor([0]), math.nan)
        return features

    monkeypatch.setattr(CLIP, "encode", broken)


def stopped(photos, out, *changes):
    with pytest.raises(UserError) as caught:
        train(photos, out, "ema=0.9", *changes)
    return str(caught.value)


def test_a_step_that_is_not_finite_stops_before_the_update(photos, whole, poisoned, tmp_path):
    said = stopped(photos, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    file = crash.folder_of(folder, 7) / "crash.json"
    for part in ("step 7", "nothing was updated", f"--replay {file}", "--skip-batch"):
        assert part in said
    facts = read_json(file)
    assert (facts["step"], len(facts["ids"]), len(facts["ids"][0])) == (7, 1, 16)
    assert facts["values"]["loss"] == "nan"
    assert [step for step, _ in losses(folder)] == [1, 2, 3, 4, 5, 6, 7]
    kept = checkpoint.read_tensors(file.parent / "weights.safetensors")
    assert all(value.isfinite().all() for value in kept.values())
    with pytest.raises(UserError, match="step 7"):  # the same batch stops it again
        runs.resume(folder.path, quiet=True)


def test_the_step_is_repeated_alone(photos, poisoned, tmp_path, capsys):
    stopped(photos, tmp_path / "run", "accumulate=2", "patch_dropout=0.25")
    file = crash.folder_of(RunFolder(tmp_path / "run"), 7) / "crash.json"
    found = runs.replay(file)
    facts = read_json(file)
    assert found["ids"] == facts["ids"][0]
    assert math.isnan(found["values"]["loss"])
    assert found["samples"] == {found["ids"][0]: "feature text", found["ids"][8]: "feature text"}
    assert found["weights"] == []
    assert "log_scale" in found["gradients"]
    assert set(found["norms"]) >= {"image", "text", "log_scale"}
    cli.main(["train", "clip", "--replay", str(file)])
    said = capsys.readouterr().out
    for part in (
        "step 7, 16 samples",
        "gradient norms",
        "weights that are not finite: 0",
        next(iter(found["samples"])),
    ):
        assert part in said
    with pytest.raises(UserError, match="of a run of clip; type `train clip"):
        cli.Train("mae", replay=file).run()


def test_what_is_repeated_is_the_step_to_the_bit(photos, tmp_path, monkeypatch):
    """A spike is finite, so that the repeated step can be compared with the one that stopped."""
    monkeypatch.setattr(crash.Spikes, "LEARN", 5)
    said = stopped(photos, tmp_path / "run", "optimizer.spike=0.01", "patch_dropout=0.25", "accumulate=2")
    assert "a spike" in said
    file = crash.folder_of(RunFolder(tmp_path / "run"), 5) / "crash.json"
    wanted = read_json(file)["values"]
    found = runs.replay(file)
    assert found["values"] == wanted
    assert (found["samples"], found["weights"], found["gradients"]) == ({}, [], [])
    total = math.sqrt(sum(value**2 for value in found["norms"].values()))
    assert total == pytest.approx(wanted["grad_norm"], rel=1e-5)
    assert runs.replay(file, ["precision=bf16-mixed"])["values"] != wanted


def test_the_batch_is_left_out_and_stays_left_out(photos, whole, poisoned, tmp_path):
    stopped(photos, tmp_path / "run")
    folder = runs.resume(tmp_path / "run", quiet=True, skip_batch=True)
    assert [step for step, _ in losses(folder)] == [step for step in range(1, 21) if step != 8]
    assert losses(folder)[:7] == losses(whole)[:7]
    assert all(value.isfinite().all() for value in weights(folder).values())
    once = losses(folder)
    shutil.rmtree(folder.checkpoints)  # killed before the next checkpoint, it still knows what to leave out
    folder.checkpoints.mkdir()
    assert losses(runs.resume(folder.path, quiet=True)) == once


def test_without_a_crash_there_is_nothing_to_skip_or_repeat(whole, tmp_path):
    with pytest.raises(UserError, match="no crash to skip"):
        runs.resume(whole.path, quiet=True, skip_batch=True)
    for name, content in {"a.json": "{}", "b.json": "{"}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=name):
            runs.replay(tmp_path / name)
    with pytest.raises(UserError, match="leave out --budget"):
        cli.Train("clip", replay=tmp_path / "a.json", budget="3m").run()


def test_a_diverged_run_keeps_its_healthy_checkpoints(photos, tmp_path):
    with pytest.raises(UserError, match="a smaller"):
        train(photos, tmp_path / "run", "optimizer.lr=1e30")
    assert checkpoint.latest(RunFolder(tmp_path / "run")) is None


def test_spikes_are_told_from_the_median_of_what_came_before():
    spikes = crash.Spikes(10.0)
    assert not any(spikes.is_one(1.0 + 0.1 * (n % 3)) for n in range(crash.Spikes.LEARN))
    assert not spikes.is_one(9.0)
    assert spikes.is_one(12.0)
    assert 12.0 not in spikes.norms
    assert not spikes.is_one(math.inf)
    assert not crash.Spikes(None).is_one(1e9)


def test_what_is_not_finite_is_told_by_its_first_cause():
    system = nn.Linear(2, 1)
    system.weight.grad = torch.tensor([[1.0, math.inf]])
    rows = torch.zeros(3, 2)
    broken = rows.clone()
    broken[1, 0] = math.nan
    every = {"loss": torch.full((3,), math.nan)}
    ids = ["a", "b", "c"]
    found = crash.examine(system, {"x": rows}, ids, {"text": broken}, every)
    assert found["samples"] == {"b": "feature text"}
    assert found["gradients"] == ["weight"]
    assert crash.examine(system, {"x": broken}, ids, {"text": broken}, every)["samples"] == {"b": "input x"}
    assert set(crash.examine(system, {"x": rows}, ids, {}, every)["samples"]) == set(ids)
