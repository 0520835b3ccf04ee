"""An arm that begins from another arm's weights: that arm is trained first, and its weights are the start."""

import json

import pytest
import torch

from oculex import runs
from oculex.claims.experiment import check, judge
from oculex.contracts import Arm, Claim
from oculex.systems.selfsup.gmml import SYSTEM

SMALL = {
    "data.sources": ["world:scenes=64"],
    "budget": "2steps",
    "batch": 16,
    "width": 32,
    "layers": [2],
    "heads": 2,
    "precision": "32-true",
    "data.workers": 0,
}


def test_weights_come_from_the_other_arm_of_the_same_seed(tmp_path):
    pretrained = Arm(
        "pretrained", "world/knn/top1", set={**SMALL, "model.decoded": [2], "evaluation.tasks": ["knn"]}
    )
    still = {**SMALL, "optimizer.lr": 0, "evaluation.tasks": ["classify"]}
    tuned = Arm("tuned", "world/classify/top1", system="supervised", set=still, starts_from="pretrained")
    scratch = Arm("scratch", "world/classify/top1", system="supervised", set={**still, "budget": "4steps"})
    claim = Claim("tuning", "", "", (pretrained, tuned, scratch), "tuned", "scratch", seeds=(0, 1))
    judge("gmml", claim, tmp_path)
    found = {}
    for path in (tmp_path / "runs").iterdir():
        recipe = json.loads((path / "recipe.json").read_text())
        kind = "tuned" if recipe["init"]["run"] else recipe["system"]
        found[kind, recipe["seed"]] = runs.load(path).image.patches.weight
    assert len(found) == 6
    for seed in (0, 1):
        assert torch.equal(found["tuned", seed], found["gmml", seed])
        assert not torch.equal(found["supervised", seed], found["gmml", seed])
    assert not torch.equal(found["tuned", 0], found["tuned", 1])


def test_an_arm_pays_for_what_it_starts_from():
    pretrained = Arm("pretrained", "world/knn/top1", set={"budget": "30samples"})
    tasks = {"evaluation.tasks": ["classify"]}
    tuned = Arm(
        "tuned", "m", system="supervised", set={**tasks, "budget": "10samples"}, starts_from="pretrained"
    )
    for budget, fair in (("40samples", True), ("10samples", False)):
        scratch = Arm("scratch", "m", system="supervised", set={**tasks, "budget": budget})
        claim = Claim("tuning", "", "", (pretrained, tuned, scratch), "tuned", "scratch")
        if fair:
            check("gmml", claim)
        else:
            with pytest.raises(ValueError, match="differ in budget"):
                check("gmml", claim)


def test_the_claims_of_gmml_are_fair():
    for claim in SYSTEM.claims:
        check("gmml", claim)
