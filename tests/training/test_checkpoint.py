import errno
import os

import pytest
import torch
from torch import nn

from oculex.contracts import UserError
from oculex.training import checkpoint
from oculex.training.folder import RunFolder, append_line, cut_after, read_lines


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run")


def put(folder, step, keep=2, value=1.0):
    checkpoint.save(folder, step, {"note": "x"}, {"weights": {"w": torch.full((3, 4), value)}}, keep)


def test_the_last_k_are_kept_and_read_back(folder):
    for step in (10, 20, 30):
        put(folder, step, value=float(step))
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == ["step-000000020", "step-000000030"]
    newest = checkpoint.latest(folder)
    assert checkpoint.state(newest)["step"] == 30
    assert torch.equal(checkpoint.tensors(newest, "weights")["w"], torch.full((3, 4), 30.0))


def test_a_half_written_checkpoint_is_passed_over(folder):
    put(folder, 10)
    put(folder, 20)
    os.truncate(folder.checkpoints / "step-000000020" / "weights.safetensors", 40)
    assert checkpoint.latest(folder).name == "step-000000010"
    (folder.checkpoints / "step-000000030").mkdir()
    assert checkpoint.latest(folder).name == "step-000000010"


def test_a_full_disk_leaves_the_earlier_checkpoint_usable(folder, monkeypatch):
    put(folder, 10)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match=r"No space left.*oculex resume"):
        put(folder, 20)
    assert [p.name for p in folder.checkpoints.iterdir()] == ["step-000000010"]
    assert checkpoint.latest(folder).name == "step-000000010"


def test_a_file_that_is_not_safetensors_is_named(folder):
    put(folder, 10)
    file = folder.checkpoints / "step-000000010" / "weights.safetensors"
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(UserError, match="cannot read"):
        checkpoint.tensors(checkpoint.latest(folder), "weights")


def test_weights_that_do_not_fit_are_named(tmp_path):
    model = nn.Linear(3, 2)
    with pytest.raises(UserError, match=r"'weight'"):
        checkpoint.load_weights(model, {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, tmp_path)
    with pytest.raises(UserError, match=r"'extra'"):
        checkpoint.load_weights(model, {**model.state_dict(), "extra": torch.zeros(1)}, tmp_path)


def test_an_optimizer_goes_on_to_the_bit():
    def train(model, optimizer, steps):
        for i in range(steps):
            optimizer.zero_grad()
            (model(torch.full((2, 3), float(i + 1))) ** 2).sum().backward()
            optimizer.step()

    def fresh():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

    model, optimizer = fresh()
    train(model, optimizer, 3)
    flat, groups = checkpoint.pack_optimizer(optimizer)
    other, resumed = fresh()
    other.load_state_dict(model.state_dict())
    checkpoint.unpack_optimizer(resumed, {k: v.clone() for k, v in flat.items()}, groups)
    train(model, optimizer, 2)
    train(other, resumed, 2)
    assert torch.equal(model.weight, other.weight)


def test_a_run_is_never_overwritten(folder):
    folder.recipe.write_text("{}")
    with pytest.raises(UserError, match="oculex resume"):
        RunFolder.create(folder.path)
    with pytest.raises(UserError, match="is not a run folder"):
        RunFolder.open(folder.path / "assets")


def test_lines_after_a_checkpoint_are_cut_and_a_torn_last_line_is_ignored(folder):
    for step in range(5):
        append_line(folder.metrics, {"step": step})
    with folder.metrics.open("a") as file:
        file.write('{"step": 5, "lo')
    assert [line["step"] for line in read_lines(folder.metrics)] == [0, 1, 2, 3, 4]
    cut_after(folder.metrics, 2)
    assert folder.metrics.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="choose another --out"):
        RunFolder.create(blocked / "run")
