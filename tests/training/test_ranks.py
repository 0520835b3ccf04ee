"""Whole runs on ranks: the run of one process, files written once, sharded or not."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from oculex import runs
from oculex.contracts import UserError
from oculex.training import checkpoint, loop
from oculex.training.folder import RunFolder, read_json, read_lines
from tests.pool import GlooPool
from tests.training.small import SMALL, assert_same_to_the_bit, lines, losses, squares, train, weights

STAGES = (
    '[{"name": "both", "share": 0.5}, {"name": "text", "share": 0.5, "trainable": ["text*", "log_scale"]}]'
)
CHANGES = ["ema=0.9", f"stages={STAGES}", "evaluation.every=4", "optimizer.clip_norm=1.0", "data.workers=0"]
STEPS = "12steps"


class Lost(Exception):
    """What a rank that is gone leaves its run with."""


def on_rank(rank, data, out, changes, stop_at=0, fail_at=0):
    """Trains or goes on; the ids of every step, after which rank 1 gets SIGTERM or all of them fail."""
    ids, original = {}, loop.batches

    def recorded(*arguments):
        for loaded in original(*arguments):
            if loaded.step + 1 == fail_at:
                raise Lost
            ids[loaded.step] = loaded.ids
            if loaded.step + 1 == stop_at and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield loaded

    loop.batches = recorded
    try:
        if (out / "recipe.json").exists():
            runs.resume(out, quiet=True)
        else:
            train(data, out, *changes, budget=STEPS)
    except Lost:
        pass
    finally:
        loop.batches = original
    return ids


def union(parts):
    """The ids of each step over all ranks, in order."""
    return {step: [name for part in parts for name in part[step]] for step in parts[0]}


@pytest.fixture(scope="module")
def alone(photos, tmp_path_factory):
    """One process: its run, and its ids."""
    out = tmp_path_factory.mktemp("alone") / "run"
    ids = on_rank(0, photos, out, CHANGES)
    return RunFolder(out), union([ids])


@pytest.mark.parametrize(
    "changes", [[], ["accumulate=2"], ["strategy=fsdp"], ["strategy=fsdp", "accumulate=2"]], ids=str
)
def test_a_run_on_ranks_is_the_run_of_one_process(pool, photos, alone, changes, tmp_path):
    """Losses, weights, averages and evaluations over two stages; each line and file once."""
    one, ids = alone
    assert union(pool.run(on_rank, photos, tmp_path / "run", [*CHANGES, *changes])) == ids
    many = RunFolder(tmp_path / "run")
    assert [step for step, _ in losses(many)] == list(range(1, 13))
    assert [loss for _, loss in losses(many)] == pytest.approx([loss for _, loss in losses(one)], rel=1e-4)
    for name in ("weights", "average"):
        for key, value in weights(one, name).items():
            assert weights(many, name)[key].allclose(value, atol=2e-4), f"{name}: {key}"
    assert [line["step"] for line in lines(many.evaluations)] == [4, 8, 12]
    assert [path.name for path in many.records.glob("*.parquet")] == ["step-000000012.parquet"]
    system = runs.load(many.path)
    for key, value in weights(many, "average").items():
        assert system.state_dict()[key].equal(value)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_on_another_number_of_ranks_no_sample_is_skipped_or_repeated(pool, photos, alone, strategy, tmp_path):
    """All ranks are lost after the 8th step; one process, or half of the ranks, go on from the 6th."""
    one, ids = alone
    out, changes = tmp_path / "run", [*CHANGES, f"strategy={strategy}"]
    before = union(pool.run(on_rank, photos, out, changes, 0, 8))
    assert sorted(before) == list(range(7))
    fewer = GlooPool(pool.ranks // 2) if pool.ranks > 2 else None
    try:
        after = union(fewer.run(on_rank, photos, out, []) if fewer else [on_rank(0, photos, out, [])])
    finally:
        if fewer:
            fewer.close()
    assert sorted(after) == list(range(6, 12))
    assert before | after == ids
    assert [loss for _, loss in losses(RunFolder(out))] == pytest.approx(
        [loss for _, loss in losses(one)], rel=1e-4
    )


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_sigterm_to_one_rank_stops_all_at_the_same_step(pool, photos, alone, strategy, tmp_path):
    out = tmp_path / "run"
    parts = pool.run(on_rank, photos, out, [*CHANGES, f"strategy={strategy}"], 7)
    assert {len(part) for part in parts} == {7}
    assert checkpoint.state(checkpoint.latest(RunFolder(out)))["step"] == 7
    pool.run(on_rank, photos, out, [])
    assert [step for step, _ in losses(RunFolder(out))] == list(range(1, 13))
    assert [loss for _, loss in losses(RunFolder(out))] == pytest.approx(
        [loss for _, loss in losses(alone[0])], rel=1e-4
    )


def refused(rank, data, out, changes):
    try:
        train(data, out, *changes, budget=STEPS)
    except UserError as error:
        return str(error)
    return ""


def test_a_mistake_is_every_ranks(pool, photos, tmp_path):
    """Nobody is left waiting for a rank that met it alone."""
    held = tmp_path / "held"
    held.mkdir()
    (held / "recipe.json").write_text("{}")
    for out, changes, said in [
        (held, [], "already holds a run"),
        (tmp_path / "a", ["strategy=zero"], "strategy='zero' is unknown; known: ddp, fsdp"),
        (tmp_path / "b", ["strategy=fsdp", "precision=16-mixed"], "does not go with"),
        (tmp_path / "c", ["batch=6"] if pool.ranks == 4 else ["batch=7"], "does not divide over"),
        (tmp_path / "d", ["optimizer.lr=1e30"], "nothing was updated"),
    ]:
        answers = pool.run(refused, photos, out, changes)
        assert all(said in answer for answer in answers), answers
    crash = json.loads(next((tmp_path / "d" / "crash").glob("*/crash.json")).read_text())
    assert [len(ids) for ids in crash["ids"]] == [16 // pool.ranks] * pool.ranks


def replayed(rank, file):
    return runs.replay(file)


def test_a_step_of_many_ranks_is_repeated_on_them_or_alone(pool, photos, tmp_path):
    changes = ["optimizer.spike=1e-9", "patch_dropout=0.25"]
    assert all("a spike" in said for said in pool.run(refused_early, photos, tmp_path / "run", changes))
    file = next((tmp_path / "run" / "crash").glob("*/crash.json"))
    wanted = json.loads(file.read_text())
    for found in pool.run(replayed, file):
        assert found["values"] == wanted["values"]
    found = runs.replay(file)
    assert found["ids"] == [name for ids in wanted["ids"] for name in ids]
    assert found["values"] == pytest.approx(wanted["values"], rel=1e-4)


def refused_early(rank, data, out, changes):
    from oculex.training.crash import Spikes

    kept, Spikes.LEARN = Spikes.LEARN, 3
    try:
        return refused(rank, data, out, changes)
    finally:
        Spikes.LEARN = kept


def test_unreadable_samples_are_counted_over_all_ranks(pool, tmp_path):
    own = squares(tmp_path / "photos")
    for name in ("3.png", "17.png", "22.png", "31.png", "40.png", "59.png"):
        (own / name).write_bytes((own / name).read_bytes()[:60])
    out, changes = (
        tmp_path / "run",
        ["data.holdout=0.0", "data.bad_limit=0.2", "strategy=fsdp", "accumulate=2"],
    )
    pool.run(on_rank, own, out, changes)
    skipped = list(read_lines(RunFolder(out).skipped))
    one = train(own, tmp_path / "one", "data.holdout=0.0", "data.bad_limit=0.2", budget=STEPS)
    assert sorted((s["step"], s["id"]) for s in skipped) == sorted(
        (s["step"], s["id"]) for s in read_lines(one.skipped)
    )
    assert len(skipped) > 3
    assert [loss for _, loss in losses(RunFolder(out))] == pytest.approx(
        [loss for _, loss in losses(one)], rel=1e-4
    )
    answers = pool.run(refused, own, tmp_path / "strict", ["data.holdout=0.0", "data.bad_limit=0.0"])
    assert all("over data.bad_limit=0.0" in answer for answer in answers)


def test_torchrun_and_the_command(photos, alone, tmp_path):
    """Two ranks under torchrun: one report, one line each, exit status 0; SIGTERM to one of them ends both cleanly."""
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "oculex",
    ]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    settings = ["--data", str(photos), "--out", str(out), "--budget", "400steps", "--set", *SMALL, "ema=0.9"]
    process = subprocess.Popen(
        [*command, "train", "clip", *settings], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    deadline = time.time() + 240
    while time.time() < deadline and process.poll() is None and len(losses(RunFolder(out))) < 3:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    children[1].terminate()
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert said.count(f"resume {out}") == 1, said
    stopped = checkpoint.state(checkpoint.latest(RunFolder(out)))["step"]
    assert [step for step, _ in losses(RunFolder(out))] == list(range(1, stopped + 1))
    assert stopped < 400


def test_measuring_the_budget_on_ranks_leaves_no_trace(pool, photos, tmp_path):
    """Sharded too: the run of half a second is the run of as many steps."""
    changes = ["ema=0.9", "strategy=fsdp"]
    pool.run(timed, photos, tmp_path / "timed", changes, "0.3s")
    steps = read_json(RunFolder(tmp_path / "timed").plan)["steps"]
    pool.run(timed, photos, tmp_path / "counted", changes, f"{steps}steps")
    assert_same_to_the_bit(RunFolder(tmp_path / "timed"), RunFolder(tmp_path / "counted"))


def timed(rank, data, out, changes, budget):
    train(data, out, *changes, budget=budget)
