"""Battle of the backbones: metrics are the authors', heads on a frozen backbone do not touch one another, they learn on
the world and on real data, and a battle is ranked, shown and gone on with."""

from pathlib import Path

import numpy as np
import pytest
import torch

from oculex import cli, runs
from oculex.contracts import Classifies, Detects, Features, Segments, UserError
from oculex.data.assets import RunAssets
from oculex.data.collate import collate
from oculex.data.sources import open_source
from oculex.evaluation.image_retrieval import scored
from oculex.evaluation.ranking import KINDS, agreement, mean_z, z_scores
from oculex.systems.studies.battle_of_backbones import HEADS, SYSTEM, BattleConfig, BattleOfBackbones
from oculex.training import recipes
from oculex.training.backbones import begins_from
from oculex.training.folder import read_json, read_lines

GOLDEN = Path(__file__).parents[1] / "golden" / "battle_of_backbones.npz"
SMALL = {"image_tower": "resnet", "image_size": 32, "width": 8, "layers": [1, 1, 1], "heads": 4, "head_width": 16,
         "init.run": "", "stages.0.trainable": ["*"], "data.workers": 0, "batch": 16, "logging.every": 10,
         "optimizer.lr": 4e-3}  # fmt: skip
"""A network that learns from fresh weights in seconds, whole."""
FOUR = "world:most=1,size=32,part=1/48,keys=boxes+box_labels+semantic"
"""Two shapes in two colours."""


def built(tasks=tuple(HEADS), classes=4, **of):
    torch.manual_seed(0)
    config = BattleConfig(image_size=32, patch=8, width=32, layers=(1,), heads=2, head_width=16, anchor=4.0, regions=4,
                          tasks=tasks, **of)  # fmt: skip
    return BattleOfBackbones.build(config, RunAssets(None, None, [f"class {n}" for n in range(classes)]))


def scenes(system, count=6):
    source = open_source(f"{FOUR},scenes=8")
    return collate([system.view(source[n], np.random.default_rng(n)) for n in range(count)])


def total(system, batch):
    losses = system.losses(Features(system.encode(batch)), batch)
    return sum(system.loss_weights().get(name, 1.0) * value.mean() for name, value in losses.items())


# -------------------------------------------------------------------------------------------------- golden


def test_average_precision_and_scores_are_the_authors(evidence):
    """Retrieval as their code scores it; z-scores and correlations of the table that they publish."""
    golden = np.load(GOLDEN)
    features, labels = golden["features"], golden["labels"]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    errors = []
    for query, theirs in enumerate(golden["aps"]):
        others = np.delete(np.arange(len(labels)), query)
        order = others[np.argsort(-(unit[others] @ unit[query]), kind="stable")]
        places = np.flatnonzero(labels[order] == labels[query])
        if len(places):
            errors.append(abs(scored(places)[1] - theirs))
        else:
            assert np.isnan(theirs)
    table = golden["table"]
    z = float(np.abs(z_scores(table) - golden["z"]).max())
    correlations = {kind: float(np.abs(agreement(table, kind) - golden[kind]).max()) for kind in KINDS}
    assert max(errors) < 1e-6
    assert z < 1e-9
    assert max(correlations.values()) < 1e-9
    first = str(golden["backbones"][mean_z(table).argmax()])
    assert "22k" in first
    evidence("battle_of_backbones", "golden", peer=str(golden["provenance"]),
             max_abs_error={"average precision": max(errors), "z": z, **correlations},
             first_of_33_in_their_retrieval_table=first)  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "model", "published"),
    [
        ("vit_b_16_probe", "vit_base_patch16_224", 86_567_656),
        ("convnext_base_whole", "convnext_base", 88_591_464),
    ],
)
def test_parameter_counts_are_the_published_ones(preset, model, published, evidence):
    """Of the backbone with a classifier for ImageNet, as timm publishes it."""
    timm = pytest.importorskip("timm", reason="parity needs timm")
    with torch.device("meta"):
        ours = SYSTEM.system.build(SYSTEM.presets[preset]().model, RunAssets(None, None, ["class"] * 1000))
        theirs = timm.create_model(model)
    count = sum(p.numel() for p in ours.parameters())
    assert count == published == sum(p.numel() for p in theirs.parameters())
    evidence("battle_of_backbones", "preset", parameters=count, equals=f"timm's {model}")


# -------------------------------------------------------------------------------------------------- system


def test_heads_of_a_frozen_backbone_do_not_touch_one_another():
    """Each head's gradient is that which it gets alone, and the backbone gets none and stays in evaluation mode."""
    whole = built()
    whole.image.requires_grad_(False)
    whole.train()
    assert not whole.image.training
    batch = scenes(whole)
    total(whole, batch).backward()
    assert all(p.grad is None for p in whole.image.parameters())
    for task in HEADS:
        alone = built((task,))
        alone.load_state_dict({k: v for k, v in whole.state_dict().items() if k in alone.state_dict()})
        alone.image.requires_grad_(False)
        alone.train()
        total(alone, scenes(alone)).backward()
        for (name, mine), (_, theirs) in zip(
            alone.heads[task].named_parameters(), whole.heads[task].named_parameters(), strict=True
        ):
            torch.testing.assert_close(mine.grad, theirs.grad, msg=lambda m, n=name: f"{n}: {m}")


def test_a_backbone_that_is_trained_gets_gradients():
    system = built().train()
    assert system.image.training
    total(system, scenes(system)).backward()
    assert all(p.grad is not None for name, p in system.image.named_parameters() if "norm_post" not in name)


def test_nobody_is_asked_for_what_has_no_head():
    protocols = {"classification": Classifies, "segmentation": Segments, "detection": Detects}
    for task in HEADS:
        found = {name for name, protocol in protocols.items() if isinstance(built((task,)), protocol)}
        assert found == {task}
    with pytest.raises(UserError, match="there are heads for classification, segmentation, detection"):
        built(("depth",))


def test_a_mirrored_view_mirrors_boxes_and_masks():
    system = built(flip=1.0)
    sample = open_source(f"{FOUR},scenes=8")[0]
    view, plain = (
        system.view(sample, np.random.default_rng(0)),
        built(flip=0.0).view(sample, np.random.default_rng(0)),
    )
    assert (view["image"] == plain["image"][:, :, ::-1]).all()
    assert (view["semantic"] == plain["semantic"][:, ::-1]).all()
    np.testing.assert_allclose(view["boxes"][0, [0, 2]], 32 - plain["boxes"][0, [2, 0]])


def test_one_pass_gives_what_two_give():
    """Pooled features beside the maps are those alone, for both ways of pooling."""
    for pool in ("class", "mean"):
        system = built(pool=pool).eval()
        pixels = torch.rand(2, 3, 32, 32)
        together, alone = system.seen(pixels, True, True), system.seen(pixels, True, False)
        torch.testing.assert_close(together[0], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "spec", ["clip:tiny_patches", "clip:tiny", "tinyvit:tiny", "supervised:tiny", "timm:resnet10t"]
)
def test_a_backbone_by_name_is_a_recipe(spec):
    base = recipes.preset(SYSTEM, "battle_of_backbones", "tiny")
    pretrained, fresh = (recipes.change(base, begins_from(each)) for each in (spec, f"scratch:{spec}"))
    assert pretrained.init.run == spec
    assert fresh.init.run == ""
    assert fresh.model == pretrained.model
    with torch.device("meta"):
        SYSTEM.system.build(fresh.model, RunAssets(None, None))


def test_what_has_no_image_tower_is_named():
    with pytest.raises(UserError, match="has no image tower"):
        begins_from("gpt:tiny_llama")


# ------------------------------------------------------------------------------------------------ learning


def metrics_of(folder):
    return list(read_lines(folder.evaluations))[-1]["metrics"]


def short(metrics, *names):
    return {name: next(v for k, v in metrics.items() if k.endswith(f"/{name}")) for name in names}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, request):
    """All heads and a small network from fresh weights, on scenes of four kinds."""
    steps = 400 if request.config.getoption("--record-evidence") else 100
    changes = SMALL | {"evaluation.on": [f"{FOUR},split=test,scenes=60"]}
    return runs.train("battle_of_backbones", data=[f"{FOUR},scenes=240"], out=tmp_path_factory.mktemp("battle") / "run",
                      budget=f"{steps}steps", changes=changes, quiet=True)  # fmt: skip


def test_it_learns_all_tasks(trained, evidence):
    found = metrics_of(trained)
    kept = short(found, "classify/top1", "shifts/top1", "segmentation/miou", "segmentation/blind_miou", "detection/ap",
                 "detection/ap50", "image_retrieval/map_at_r", "image_retrieval/wrong_image_map_at_r")  # fmt: skip
    value = {name: each["value"] for name, each in kept.items()}
    assert value["classify/top1"] >= 0.6
    assert value["segmentation/miou"] >= value["segmentation/blind_miou"] + 0.1
    assert value["detection/ap50"] >= 0.1
    assert value["image_retrieval/map_at_r"] > value["image_retrieval/wrong_image_map_at_r"] + 0.1
    evidence(
        "battle_of_backbones",
        "learning",
        task="four classes of scenes of one object, a small network whole",
        **kept,
    )


def test_what_it_learnt_is_used(trained, tmp_path, evidence):
    """Opened again it says the same of a picture, and its features go to a file."""
    system = runs.load(trained.path)
    scene = open_source(f"{FOUR},split=test,scenes=4")[1]
    batch = collate([system.view({"id": "x", "image": scene["image"]}, None)])
    with torch.inference_mode():
        label = int(system.classify(batch).argmax())
        mask, found = system.segment(batch, 32)[0], system.detect(batch, 5)[0]
    assert 0 <= label < 4
    assert mask.shape == (32, 32)
    assert found.shape == (5, 6)
    cli.main(
        [
            "embed",
            str(trained.path),
            "--images",
            f"{FOUR},split=test,scenes=4",
            "-o",
            str(tmp_path / "e.parquet"),
        ]
    )
    assert (tmp_path / "e.parquet").stat().st_size > 0
    evidence(
        "battle_of_backbones", "usable", opened="classifies, segments and detects; features by oculex embed"
    )


def test_it_learns_from_real_photos(real_data, tmp_path, evidence):
    """COCO's boxes and polygons, and classes of CIFAR-10; for the record to an accuracy on what was held out."""
    folder = runs.train("battle_of_backbones", data=[str(real_data / "tiny_coco/annotations/instances_train2017.json")],
                        out=tmp_path / "coco", budget="30steps", quiet=True,
                        changes=SMALL | {"image_size": 64, "tasks": ["segmentation", "detection"],
                                         "batch": 8, "regions": 30})  # fmt: skip
    losses = [line["loss"] for line in read_lines(folder.metrics)]
    assert losses[-1] < 0.9 * losses[0]
    dense = short(metrics_of(folder), "segmentation/miou", "segmentation/blind_miou", "detection/ap")
    steps = 600 if evidence.recording else 20
    asked = ["classify", "shifts", "image_retrieval"]
    small = {name: value for name, value in SMALL.items() if name != "head_width"}
    changes = small | {"tasks": ["classification"], "evaluation.tasks": asked}
    folder = runs.train("battle_of_backbones", data=[str(real_data / "cifar10/train.tar")], out=tmp_path / "cifar",
                        budget=f"{steps}steps", changes=changes, quiet=True)  # fmt: skip
    found = short(metrics_of(folder), "classify/top1", "shifts/top1", "image_retrieval/map_at_r")
    if evidence.recording:
        assert found["classify/top1"]["low"] > 0.15
        evidence("battle_of_backbones", "real_data", chance_top1=0.1, coco=dense, cifar10=found,
                 data="COCO: 50 photos with boxes and polygons, 5 held out; CIFAR-10: 1,800 of 2,000",
                 budget=f"30 steps of 8; {steps} of 16")  # fmt: skip


def test_a_battle_is_ranked_shown_and_gone_on_with(tmp_path, capsys, evidence):
    """From the command line: two backbones, then a third, of which alone the cells are run."""
    given = ["race", "battle_of_backbones", "--data", f"{FOUR},scenes=16", "--budget", "32samples", "--seeds", "2",
             "-o", str(tmp_path), "--set", "batch=16", "data.workers=0", "tasks=[\"classification\"]"]  # fmt: skip
    two = ["scratch:clip:tiny_patches", "scratch:supervised:tiny"]
    cli.main([*given, "--backbones", *two])
    first = {path.name for path in (tmp_path / "runs").iterdir()}
    assert len(first) == 2 * (2 + 2)
    before = {name: (tmp_path / "runs" / name / "metrics.jsonl").stat().st_mtime_ns for name in first}
    cli.main([*given, "--backbones", *two, "scratch:tinyvit:tiny"])
    assert len(list((tmp_path / "runs").iterdir())) == 3 * (2 + 2)
    assert all(
        (tmp_path / "runs" / name / "metrics.jsonl").stat().st_mtime_ns == t for name, t in before.items()
    )
    battle = read_json(tmp_path / "battle.json")
    assert [setting["task"] for setting in battle["settings"]] == ["classify", "shifts", "image_retrieval"]
    assert set(battle["score"]) == {*two, "scratch:tinyvit:tiny"}
    assert abs(sum(each["value"] for each in battle["score"].values())) < 1e-6
    assert battle["backbones"]["scratch:supervised:tiny"]["multiply_adds"] > 1e5
    assert all(rate in battle["rates"] for each in battle["chosen"].values() for rate in each.values())
    printed = capsys.readouterr().out
    assert "scratch:tinyvit:tiny" in printed
    page = (tmp_path / "battle.html").read_text()
    assert "Which to take" in page
    evidence(
        "battle_of_backbones",
        "usable",
        battle="oculex race battle_of_backbones --backbones: ranking, page, goes on",
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["clip", "--backbones", "a", "b"], "compared by battle_of_backbones"),
        (["battle_of_backbones", "--backbones", "clip:tiny"], "two different backbones"),
        (
            ["battle_of_backbones", "--backbones", "clip:tiny", "supervised:tiny", "--budget", "3m"],
            "budget 3m is time",
        ),
    ],
)
def test_mistakes_are_told(given, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["race", *given])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
