"""Killed anywhere, a run goes on as if it had never stopped."""

import json
import os
import random
import signal
import time

import psutil
import pytest

from oculex import runs
from oculex.contracts import UserError
from oculex.training import checkpoint, foundations, loop, plan, probe, recipes, reopen
from oculex.training.folder import RunFolder, read_json, read_lines, write_json
from tests.pool import apart, begin
from tests.training.small import (
    SMALL,
    assert_same_to_the_bit,
    losses,
    squares,
    train,
    victim,
)

STAGES = (
    '[{"name": "both", "share": 0.5}, {"name": "text", "share": 0.5, "trainable": ["text*", "log_scale"]}]'
)
RICH = [
    "data.workers=1", "accumulate=2", "ema=0.9", "patch_dropout=0.25", "precision=bf16-mixed", "evaluation.every=6",
    "optimizer.clip_norm=1.0", "optimizer.spike=1e6", f"stages={STAGES}",
]  # fmt: skip
STEPS = "24steps"
"""Stages meet at step 12, checkpoints are written every 5 steps and at a stage's end."""


@pytest.fixture(scope="module")
def mixture(photos, tmp_path_factory):
    other = squares(tmp_path_factory.mktemp("other"), count=23, seed=1)
    return [f"{photos}@2", f"{other}@1"]


@pytest.fixture(scope="module")
def rich(mixture, tmp_path_factory):
    """Workers, a mixture, accumulation, averaged weights, two stages, evaluations: uninterrupted."""
    out = tmp_path_factory.mktemp("rich") / "run"
    assert apart(victim, mixture, out, RICH, STEPS) == 0
    return RunFolder(out)


def test_killed_at_every_kind_of_moment_it_goes_on_to_the_bit(mixture, rich, tmp_path):
    out = tmp_path / "run"
    for point, at in [
        ("in a step", 3),
        ("while weights are written", 2),
        ("while a checkpoint is flushed", 3),
        ("in an evaluation", 1),
        ("while a line is written", 3),
        ("before old checkpoints go", 3),
        ("in a step", 4),
        ("while lines are cut", 1),
        ("while lines are cut", 2),
        ("in an evaluation", 2),
    ]:
        status = apart(victim, mixture, out, RICH, STEPS, point, at)
        assert status == -signal.SIGKILL, (
            f"{point}, call {at}: the run ended with {status} and was not killed"
        )
    assert apart(victim, mixture, out, RICH, STEPS) == 0
    assert_same_to_the_bit(RunFolder(out), rich)
    left = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert left == sorted(path.name for path in rich.checkpoints.iterdir()), "half-written checkpoints stay"


def test_killed_at_any_time_it_goes_on_to_the_bit(mixture, rich, tmp_path):
    out, chance, workers = tmp_path / "run", random.Random(7), []
    for step in (7, 14, 21):
        process = begin(victim, mixture, out, RICH, STEPS)
        while process.is_alive() and not any(at >= step for at, _ in losses(RunFolder(out))):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1))
        workers += psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.join()
    assert apart(victim, mixture, out, RICH, STEPS) == 0
    assert_same_to_the_bit(RunFolder(out), rich)
    assert workers
    assert psutil.wait_procs(workers, timeout=30)[1] == [], "workers outlive the process that they load for"


def test_a_run_that_only_lacked_its_last_evaluation_is_not_trained_again(mixture, rich, tmp_path):
    """And a finished run that is resumed has its last evaluation once."""
    before = lines_of(rich)
    runs.resume(rich.path, quiet=True)
    assert lines_of(rich) == before
    assert len(list(read_lines(rich.evaluations))) == 4


def lines_of(run):
    return run.metrics.read_text(), [line["step"] for line in read_lines(run.evaluations)]


def test_sigterm_saves_and_leaves(photos, whole, tmp_path):
    out = tmp_path / "stopped"

    def stop(system, pool, step, final):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    full = recipes.change(reopen.load_recipe(whole), {"evaluation.every": 7})
    loop.start(full, out, stop, foundations.foundation, quiet=True)
    assert checkpoint.state(checkpoint.latest(RunFolder(out)))["step"] == 7
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert losses(runs.resume(out, quiet=True)) == losses(whole)


def ends_itself(data, out):
    """The command, which SIGTERM reaches in its 8th step."""
    from oculex import cli

    original, calls = loop.backward, iter(range(1, 1000))

    def backward(*arguments, **named):
        if next(calls) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **named)

    loop.backward = backward
    os.dup2(os.open(out.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT), 1)
    where = ["--data", str(data), "--out", str(out), "--budget", "20steps"]
    cli.main(["train", "clip", *where, "--set", *SMALL, "ema=0.9"])


def test_the_command_says_how_to_go_on_and_exits_with_0(photos, whole, tmp_path):
    out = tmp_path / "run"
    assert apart(ends_itself, photos, out) == 0
    assert f"resume {out}" in out.with_suffix(".txt").read_text()
    assert losses(runs.resume(out, quiet=True)) == losses(whole)


def test_a_budget_of_time_is_turned_into_steps_once(photos, tmp_path):
    out = tmp_path / "run"
    assert apart(victim, photos, out, ["ema=0.9"], "1s", "in a step", probe.LEAST + 4) == -signal.SIGKILL
    steps = read_json(RunFolder(out).plan)["steps"]
    loop.seconds_per_step = None  # a second measurement would fail
    folder = runs.resume(out, quiet=True)
    assert read_json(folder.plan)["steps"] == steps == losses(folder)[-1][0]


@pytest.fixture(autouse=True)
def _measures():
    kept = loop.seconds_per_step
    yield
    loop.seconds_per_step = kept


def test_measuring_the_budget_leaves_no_trace(photos, tmp_path):
    """The run of N seconds is the run of as many steps, averages and all."""
    timed = train(photos, tmp_path / "timed", "ema=0.9", budget="0.5s")
    steps = read_json(timed.plan)["steps"]
    counted = train(photos, tmp_path / "counted", "ema=0.9", budget=f"{steps}steps")
    assert_same_to_the_bit(timed, counted)


# --------------------------------------------------------------------------- changed between start and resume


def test_a_changed_recipe_is_refused_by_the_names_of_its_fields(whole, tmp_path):
    run = copied(whole, tmp_path)
    tree = read_json(run.recipe)
    tree["optimizer"]["lr"], tree["model"]["width"], tree["budget"] = 1e-3, 64, "30steps"
    write_json(run.recipe, tree)
    with pytest.raises(UserError) as caught:
        runs.resume(run.path, quiet=True)
    for part in ("optimizer.lr=0.001 (was 0.003)", "model.width=64", "budget=30steps", "oculex train clip"):
        assert part in str(caught.value)


def test_what_does_not_change_the_run_may_be_changed(photos, whole, tmp_path):
    half = train(photos, tmp_path / "run", "ema=0.9", "checkpoint.every=100")
    for path in half.checkpoints.iterdir():
        path.rename(tmp_path / path.name)
    tree = read_json(half.recipe)
    tree["data"]["workers"], tree["checkpoint"]["every"], tree["checkpoint"]["keep"] = 1, 7, 3
    write_json(half.recipe, tree)
    resumed = runs.resume(half.path, quiet=True)
    assert losses(resumed) == losses(whole)
    assert [p.name[-2:] for p in sorted(resumed.checkpoints.iterdir())] == ["07", "14", "20"]


def test_changed_data_is_named(photos, tmp_path):
    own, late = squares(tmp_path / "own"), squares(tmp_path / "late", seed=2)
    stages = json.dumps([{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "sources": [str(late)]}])
    run = train(own, tmp_path / "run", f"stages={stages}", budget="4steps")
    (late / "captions.csv").write_text((late / "captions.csv").read_text() + "\n1.png,more")
    with pytest.raises(UserError, match="the data changed") as caught:
        runs.resume(run.path, quiet=True)
    assert str(late) in str(caught.value)
    assert str(own) not in str(caught.value)


def test_a_mistake_in_a_late_stage_is_found_before_the_first(photos, tmp_path):
    stages = json.dumps([{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "sources": ["/none"]}])
    with pytest.raises(UserError, match="/none"):
        train(photos, tmp_path / "run", f"stages={stages}", budget="4steps")
    assert not (tmp_path / "run").exists()


def copied(run, folder):
    import shutil

    shutil.copytree(run.path, folder / "copy")
    return RunFolder(folder / "copy")


def test_fields_are_compared_by_dotted_name():
    before = {"a": 1, "b": {"c": [1, {"d": 2}]}, "e": {}}
    assert plan._flat(before) == {"a": 1, "b.c.0": 1, "b.c.1.d": 2, "e": {}}
