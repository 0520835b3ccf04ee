"""The optimizer SGD-SaI at work: it learns, its state is half of AdamW's, and ranks and shards change nothing."""

import pytest

from oculex import runs
from oculex.claims import experiment
from oculex.contracts import UserError
from oculex.systems.distill.sgd_sai import CLAIMS
from oculex.training import memory
from oculex.training.folder import RunFolder, read_lines
from tests import toys

PUBLISHED = {"vit_s_16": 22_050_664}
"""Of timm's vit_small_patch16_224."""
SQUARES = {"image_size": 16, "patch": 8, "width": 32, "layers": [1], "heads": 2, "batch": 32, "precision": "32-true",
           "data.workers": 0, "data.holdout": 0.25, "evaluation.tasks": ["classify"], "logging.every": 1}  # fmt: skip


def train(data, out, budget, **changes):
    sources = [] if data is None else [str(data)]
    return runs.train("sgd_sai", data=sources, out=out, budget=budget, changes=SQUARES | changes, quiet=True)


def last(run):
    return list(read_lines(run.evaluations))[-1]["metrics"]


@pytest.mark.parametrize("preset", PUBLISHED)
def test_parameter_counts_are_the_published_ones(preset, evidence):
    count = runs.describe("sgd_sai")["presets"][preset]["parameters"]
    assert count == PUBLISHED[preset]
    evidence("sgd_sai", "preset", parameters=count, equals="timm's vit_small_patch16_224")


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return toys.squares(tmp_path_factory.mktemp("squares"))


def test_it_learns_to_name_colours(squares, tmp_path, evidence):
    run = train(squares, tmp_path / "run", "120steps", **{"optimizer.lr": 0.03})
    top1 = last(run)["squares.parquet/classify/top1"]
    assert top1["n"] == 60
    assert top1["value"] >= 0.95
    evidence("sgd_sai", "learning", task="naming 8 colours, 120 steps of 32", top1=top1)


@pytest.fixture(scope="module")
def alone(squares, tmp_path_factory):
    return train(squares, tmp_path_factory.mktemp("alone") / "run", "6steps")


def on_rank(rank, data, out, strategy):
    train(data, out, "6steps", strategy=strategy)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_on_ranks_is_the_run_of_one_process(pool, squares, alone, strategy, tmp_path):
    """Each weight's scale is that of its whole gradient, also where a rank holds some of its rows."""
    pool.run(on_rank, squares, tmp_path / "run", strategy)
    wanted, got = (
        [line["loss"] for line in read_lines(run.metrics)] for run in (alone, RunFolder(tmp_path / "run"))
    )
    assert len(got) == 6
    assert got == pytest.approx(wanted, rel=1e-4)
    assert memory.optimizer_state(RunFolder(tmp_path / "run")) == memory.optimizer_state(alone)


def test_the_state_is_half_of_adamws(squares, alone, tmp_path):
    """To the one number per weight tensor that both keep."""
    adamw = train(squares, tmp_path / "run", "2steps", **{"optimizer.part": "adamw"})
    numbers = 4 * len(list(runs.load(alone.path).parameters()))
    assert memory.optimizer_state(alone) - numbers == (memory.optimizer_state(adamw) - numbers) / 2
    assert memory.optimizer_state(alone) == 4 * runs.parameters(alone.path) + numbers
    (alone.path / "nothing").mkdir()
    with pytest.raises(UserError, match="no whole checkpoint"):
        memory.optimizer_state(RunFolder(alone.path / "nothing"))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_both_arms_of_a_claim_are_treated_alike(claim):
    experiment.check("sgd_sai", claim)
    ours, adamw = (experiment._recipe("sgd_sai", claim, arm, {}) for arm in claim.arms)
    assert (ours.optimizer.part, adamw.optimizer.part) == ("sgd_sai", "adamw")
    for field in ("system", "model", "budget", "batch", "precision", "data", "stages", "evaluation"):
        assert getattr(ours, field) == getattr(adamw, field), field
