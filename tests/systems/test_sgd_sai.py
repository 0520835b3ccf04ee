"""The optimizer SGD-SaI at work: it learns, its state is half of AdamW's, and ranks and shards change nothing."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from oculex import cli, runs
from oculex.claims import experiment
from oculex.contracts import UserError
from oculex.data.collate import collate
from oculex.data.sources import open_source
from oculex.systems.distill.sgd_sai import CLAIMS
from oculex.training import memory
from oculex.training.folder import RunFolder, read_lines
from tests import toys

PUBLISHED = {"vit_s_16": 22_050_664}
"""Of timm's vit_small_patch16_224."""
SQUARES = {"image_size": 16, "patch": 8, "width": 32, "layers": [1], "heads": 2, "batch": 32, "precision": "32-true",
           "data.workers": 0, "data.holdout": 0.25, "evaluation.tasks": ["classify"], "logging.every": 1,
           "optimizer.lr": 0.03}  # fmt: skip

PICTURES = {"image_size": 32, "patch": 4, "width": 64, "layers": [3], "heads": 2, "batch": 64, "crop": [0.5, 1.0],
            "logging.every": 20}  # fmt: skip
"""What 1,500 pictures teach something in a minute."""


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


@pytest.fixture(scope="module")
def learnt(squares, tmp_path_factory):
    return train(squares, tmp_path_factory.mktemp("learnt") / "run", "120steps")


def test_it_learns_to_name_colours(learnt, evidence):
    top1 = last(learnt)["squares.parquet/classify/top1"]
    assert top1["n"] == 60
    assert top1["value"] >= 0.95
    evidence("sgd_sai", "learning", task="naming 8 colours, 120 steps of 32", top1=top1)


def test_what_it_learnt_is_used_elsewhere(learnt, squares, tmp_path, evidence, capsys):
    """Opened again, asked from Python and the command line, and by timm with equal outputs."""
    timm = pytest.importorskip("timm")
    cli.main(["evaluate", str(learnt.path), "--json"])
    told = json.loads(capsys.readouterr().out)["metrics"]
    assert {name: told[name] for name in last(learnt)} == last(learnt)

    system, source = runs.load(learnt.path), open_source(str(squares))
    samples = [source[index] for index in range(len(source))]
    batch = collate([system.view(sample, None) for sample in samples])
    with torch.no_grad():
        logits, features = system.classify(batch), system.represent_image(batch)
    named = logits.argmax(1) == torch.tensor([sample["label"] for sample in samples])
    assert named.sum() >= 0.95 * len(samples)

    cli.main(["embed", str(learnt.path), "--images", str(squares), "-o", str(tmp_path / "features.parquet")])
    table = pq.read_table(tmp_path / "features.parquet")
    assert table["id"].to_pylist() == [sample["id"] for sample in samples]
    np.testing.assert_allclose(table["embedding"].to_pylist(), features, atol=1e-5)

    cli.main(["export", str(learnt.path), str(tmp_path / "timm"), "--to", "timm"])
    peer = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    scale = (np.array(getattr(system.config, name)).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    mean, std = (torch.tensor(each, dtype=torch.float32) for each in scale)
    with torch.no_grad():
        theirs = peer((batch["image"] / 255 - mean) / std)
    error = float((theirs - logits).abs().max())
    assert error <= 1e-4
    evidence("sgd_sai", "usable", evaluated_again="the same numbers, from the command line",
             named=f"{int(named.sum())} of {len(samples)} pictures by the loaded system",
             embedded=f"{len(table)} pictures to Parquet", export_max_abs_error={"timm": error})  # fmt: skip


def test_it_learns_from_real_pictures(real_data, tmp_path, evidence):
    """For the record with enough steps that held-out pictures are named far beyond chance."""
    budget = "300steps" if evidence.recording else "60steps"
    run = train(real_data / "cifar10", tmp_path / "run", budget, **PICTURES)
    top1, chance = (last(run)[f"cifar10/classify/{name}"] for name in ("top1", "chance_top1"))
    assert top1["n"] == 500
    assert top1["low"] > (2 if evidence.recording else 1) * chance["value"]
    evidence("sgd_sai", "real_data", data="CIFAR-10: 1,500 labelled pictures, 500 more held out",
             budget=f"{budget} of {PICTURES['batch']}", top1=top1, chance_top1=chance["value"])  # fmt: skip


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
