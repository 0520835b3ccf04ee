import json
from dataclasses import dataclass, replace

import pytest

from oculex.contracts import Optimizer, Recipe, Stage, UserError
from oculex.training import recipes


@dataclass(frozen=True)
class Config:
    width: int = 64
    dropout: float = 0.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tower: str = "vit"


BASE = Recipe(
    system="fake", model=Config(), stages=(Stage("a", 0.25), Stage("b", 0.75, trainable=("head.*",)))
)


def test_a_recipe_survives_json():
    tree = json.loads(json.dumps(recipes.to_tree(BASE)))
    assert recipes.from_tree(tree, Config) == BASE


def test_changes_reach_every_field_by_its_dotted_name():
    changed = recipes.change(
        BASE,
        [
            "optimizer.lr=1e-3",
            "width=128",
            "stages.1.name=tail",
            "model.tower=resnet",
            'data.sources=["a","b@2"]',
        ],
    )
    assert changed.optimizer == replace(Optimizer(), lr=1e-3)
    assert changed.model == replace(Config(), width=128, tower="resnet")
    assert [stage.name for stage in changed.stages] == ["a", "tail"]
    assert changed.data.sources == ("a", "b@2")


def test_all_mistakes_are_reported_at_once_in_the_users_words():
    with pytest.raises(UserError) as caught:
        recipes.change(BASE, ["optimizer.lrr=1", "widht=3", "stages.7.name=x", "checkpoint.every.more=1"])
    text = str(caught.value)
    assert "\n" not in text
    for part in ("optimizer.lrr", "did you mean lr", "widht", "stages.7.name", "checkpoint.every.more"):
        assert part in text
    with pytest.raises(UserError) as caught:
        recipes.change(BASE, ["optimizer.lr=fast", "width=2.5", "batch=many"])
    for part in ("optimizer.lr", "'fast'", "model.width", "2.5", "batch"):
        assert part in str(caught.value)


def test_unknown_keys_in_a_file_are_errors_at_any_depth():
    tree = recipes.to_tree(BASE)
    tree["model"]["wdith"] = 3
    tree["stages"][1]["shares"] = 1
    tree["spee"] = 1
    with pytest.raises(UserError) as caught:
        recipes.from_tree(tree, Config)
    for part in ("model.wdith", "did you mean width", "stages.1.shares", "unknown key spee"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("batch=10", "multiple of accumulate"),
        ("precision=int4", "bf16-mixed"),
        ("stages.0.share=0.5", "sum to 1"),
        ("ema=1.0", "below 1"),
        ("data.sources=[]", "at least one source"),
        ("nonsense", "key=value"),
    ],
)
def test_what_no_single_type_can_say(change, said):
    with pytest.raises(UserError, match=said):
        recipes.change(replace(BASE, accumulate=4), [change])


def test_what_came_later_leaves_the_names_of_earlier_runs_as_they_were():
    tree = json.loads(recipes.identity(BASE))
    assert "judges" not in tree["evaluation"]
    full = recipes.to_tree(BASE)
    assert full["evaluation"].pop("judges") == {"detector": "", "clip": ""}
    assert tree == full
    judged = recipes.change(BASE, ["evaluation.judges.clip=clip:tiny"])
    assert json.loads(recipes.identity(judged))["evaluation"]["judges"]["clip"] == "clip:tiny"
