"""Disks that are full, folders that are not ours to write, files that are damaged: one line, nothing lost."""

import os
import resource
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from oculex import runs
from oculex.contracts import UserError
from oculex.training import checkpoint, crash
from oculex.training.folder import RunFolder, append_line, read_lines, write_text
from tests.training.small import assert_same_to_the_bit, losses, train

NOBODY = 65534


@contextmanager
def largest_file(size):
    """No file grows beyond ``size`` bytes: what a full disk or a quota does, on any machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def nobody(folder: Path):
    """Not even root writes: for a moment we are someone to whom the folder does not belong."""
    if os.geteuid():
        pytest.skip("becoming nobody takes root")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public():
    """A folder that nobody may enter and read, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="oculex-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def one_line(caught, *parts):
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_a_file_that_may_not_grow_leaves_the_earlier_checkpoint_usable(photos, whole, tmp_path):
    folder = RunFolder(copy(whole, tmp_path))
    before = checkpoint.latest(folder)
    with largest_file(4096), pytest.raises(UserError) as caught:
        checkpoint.save(folder, 30, {}, {"weights": {"w": torch.zeros(4096)}}, keep=1)
    one_line(caught, "cannot write checkpoint", "File too large", f"oculex resume {folder.path}")
    assert checkpoint.latest(folder) == before
    assert not list(folder.checkpoints.glob(".*"))


def test_a_full_disk_stops_a_run_which_goes_on_when_there_is_room(photos, whole, small_disk, tmp_path):
    out = small_disk / "run"
    with pytest.raises(UserError) as caught:
        train(photos, out, "ema=0.9")
    one_line(caught, "cannot write", "No space left on device")
    roomy = tmp_path / "run"
    shutil.copytree(out, roomy)
    assert checkpoint.latest(RunFolder(roomy)) is not None
    assert_same_to_the_bit(runs.resume(roomy, quiet=True), whole)


def test_a_disk_that_fills_up_between_checkpoints_is_one_line(whole, tmp_path):
    folder = RunFolder(copy(whole, tmp_path))
    size = folder.metrics.stat().st_size
    with largest_file(size + 10), pytest.raises(UserError) as caught:
        append_line(folder.metrics, {"step": 21, "loss": 0.123456789})
    one_line(caught, str(folder.metrics), "File too large")
    assert [line["step"] for line in read_lines(folder.metrics)] == list(range(1, 21))
    with largest_file(10), pytest.raises(UserError, match="File too large"):
        write_text(folder.plan, "x" * 100)
    assert folder.plan.read_text().startswith("{")
    with largest_file(10), pytest.raises(UserError, match="cannot write"):
        crash.record(folder, {"step": 3}, {"w": torch.zeros(9)})


def test_a_run_folder_that_may_not_be_written_is_one_line(photos, whole, public):
    out = copy(whole, public)
    with nobody(public):
        with pytest.raises(UserError) as caught:
            RunFolder.create(public / "new")
        one_line(caught, str(public / "new"), "Permission denied", "choose another --out")
        with pytest.raises(UserError) as caught:
            checkpoint.save(RunFolder(out), 30, {}, {"weights": {"w": torch.zeros(3)}}, keep=1)
        one_line(caught, "cannot write checkpoint", "Permission denied")
        with pytest.raises(UserError) as caught:
            append_line(RunFolder(out).metrics, {"step": 3})
        one_line(caught, "cannot write", "Permission denied")
    assert losses(RunFolder(out)) == losses(whole)


def test_a_read_only_run_is_told_on_resume(photos, whole, tmp_path):
    out = copy(whole, tmp_path)
    bound = subprocess.run(["mount", "--bind", out, out], capture_output=True, text=True, check=False)
    if bound.returncode:
        pytest.skip(f"a read-only folder needs the right to mount one: {bound.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", out], check=True)
        with pytest.raises(UserError) as caught:
            runs.resume(out, quiet=True)
        one_line(caught, "cannot write", "Read-only file system", "make the folder writable")
    finally:
        subprocess.run(["umount", "-l", out], check=True)


@pytest.mark.parametrize("harm", ["truncated", "emptied", "state lost", "rewritten"])
def test_a_damaged_checkpoint_is_passed_over_or_named(whole, harm, tmp_path):
    folder = RunFolder(copy(whole, tmp_path))
    newest = checkpoint.latest(folder)
    file = newest / "weights.safetensors"
    size = file.stat().st_size
    if harm == "rewritten":  # the right size, other bytes: told when it is read
        file.write_bytes(os.urandom(size))
        with pytest.raises(UserError) as caught:
            runs.resume(folder.path, quiet=True)
        one_line(caught, str(file), f"delete {newest}")
        shutil.rmtree(newest)
    elif harm == "state lost":
        (newest / "state.json").unlink()
    else:
        os.truncate(file, 0 if harm == "emptied" else size - 1)
    assert checkpoint.latest(folder).name < newest.name
    assert_same_to_the_bit(runs.resume(folder.path, quiet=True), whole)


def test_a_damaged_newest_checkpoint_never_costs_the_one_just_written(whole, tmp_path):
    folder = RunFolder(copy(whole, tmp_path))
    later = folder.checkpoints / "step-000000099"
    later.mkdir()
    checkpoint.save(folder, 30, {}, {"weights": {"w": torch.zeros(3)}}, keep=1)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-000000030"]


def test_what_a_killed_process_with_our_number_left_is_no_obstacle(whole, tmp_path):
    """In a container every run has the same process number."""
    folder = RunFolder(copy(whole, tmp_path))
    (folder.checkpoints / f".step-000000030.{os.getpid()}").mkdir()
    (folder.checkpoints / ".step-000000025.1").mkdir()
    checkpoint.save(folder, 30, {}, {"weights": {"w": torch.zeros(3)}}, keep=1)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-000000030"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n\x00\x00\x00\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"line 2 of .*metrics.jsonl is damaged"):
        list(read_lines(path))
    path.write_text('{"step": 1}\n\x00\x00\x00\n')  # what a power cut leaves at the end
    assert list(read_lines(path)) == [{"step": 1}]


def copy(run, folder):
    shutil.copytree(run.path, folder / "copy")
    return folder / "copy"
