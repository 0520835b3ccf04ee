"""Fast distillation: stored answers are the teacher's own, training on them learns, presets are the published ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oculex import cli, runs
from oculex.contracts import Features, Stage, UserError
from oculex.data.assets import RunAssets
from oculex.data.collate import collate
from oculex.data.loader import Steps
from oculex.data.order import Order
from oculex.data.sources import open_source
from oculex.nn.image.backbones.tinyvit import SIZES, TinyViT
from oculex.systems.backbones.tinyvit import SYSTEM, FastDistillation, TinyViTConfig
from oculex.training import initial, optimizers
from oculex.training.folder import read_lines
from tests import toys

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40], [40, 200, 200]])
CLASSES = ("red", "green", "blue", "yellow", "cyan")
MODEL = TinyViTConfig(
    image_tower="tinyvit_nano", image_size=32, teacher="the oracle", epochs=2, kept=3, randaugment=3.0
)


class Patches:
    """Noisy pictures of one of five colours; ``wrong`` of the labels are another class's."""

    name, classes = "patches", CLASSES

    def __init__(self, count, wrong=0.0):
        self.count, self.wrong = count, wrong

    def fingerprint(self):
        return f"patches {self.count} {self.wrong}"

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        truth = int(rng.integers(5))
        image = np.clip(COLOURS[truth] + rng.normal(0, 30, (40, 40, 3)), 0, 255).astype(np.uint8)
        label = int(rng.integers(5)) if rng.random() < self.wrong else truth
        return {"id": f"p{index}", "image": image, "label": label, "truth": truth}


class Oracle(nn.Module):
    """Knows the colours; counts how often it is asked."""

    def __init__(self, classes=5):
        super().__init__()
        self.register_buffer("colours", torch.tensor(COLOURS[:classes], dtype=torch.float32))
        self.asked = 0

    def classify(self, batch):
        self.asked += len(batch["image"])
        mean = batch["image"].float().mean(dim=(2, 3))
        return -torch.cdist(mean, self.colours) / 25


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OCULEX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def built(model, source, teacher=None, seed=0):
    torch.manual_seed(seed)
    assets = RunAssets(Path("/nonexistent"), None, (), [source], lambda spec: teacher)
    assets._classes = source.classes
    assets.classes = lambda: source.classes
    return FastDistillation.build(model, assets)


def batch_of(system, source, step, size=16):
    steps = Steps([source], Order([len(source)], None, 0), system.view, size, seed=7)
    return steps[step].batch


def loss_of(system, batch, seed=0):
    torch.manual_seed(seed)
    features = system.encode(batch)
    (loss,) = system.losses(Features(features), batch).values()
    return loss


@pytest.mark.parametrize("kept", [3, 5])
def test_stored_answers_give_the_loss_of_a_teacher_beside_the_student(cache, kept):
    source, teacher = Patches(48), Oracle()
    model = replace(MODEL, kept=kept)
    stored = built(model, source, teacher)
    asked = teacher.asked
    beside = built(replace(model, stored=False), source, teacher)
    assert asked == 2 * 48
    for step in (0, 2, 4, 9):  # of the first, the second, and again of the first epoch
        mine, theirs = (batch_of(system, source, step) for system in (stored, beside))
        torch.testing.assert_close(mine["image"], theirs["image"], atol=0, rtol=0)
        losses = [loss_of(system, batch) for system, batch in ((stored, mine), (beside, theirs))]
        torch.testing.assert_close(losses[0], losses[1], atol=3e-3, rtol=0)  # float16 has 11 bits
    assert teacher.asked == asked + 4 * 16  # by the one beside it alone


def test_every_epoch_has_its_own_views_and_they_come_back(cache):
    source = Patches(16)
    system = built(MODEL, source, Oracle())
    first, second, again = (batch_of(system, source, step) for step in (0, 1, 2))
    order = Order([16], None, 0)
    rows = [[order.at(16 * step + n)[1] for n in range(16)] for step in range(3)]
    pictures = [
        dict(zip(r, b["image"], strict=True)) for r, b in zip(rows, (first, second, again), strict=True)
    ]
    assert all(torch.equal(pictures[0][n], pictures[2][n]) for n in range(16))
    assert sum(torch.equal(pictures[0][n], pictures[1][n]) for n in range(16)) < 4


def test_the_store_is_made_once_and_shared_by_students(cache):
    source, teacher = Patches(20), Oracle()
    built(MODEL, source, teacher)
    asked = teacher.asked
    built(replace(MODEL, image_tower="tinyvit_mini"), source, teacher, seed=3)
    assert teacher.asked == asked == 40
    teacher.colours += 1  # another teacher
    built(MODEL, source, teacher)
    built(replace(MODEL, erasing=0.5), source, teacher)  # another view
    assert teacher.asked == 3 * asked
    assert len([path for path in (cache / "teachers").iterdir() if path.is_dir()]) == 3


def test_fresh_weights_do_not_depend_on_what_the_cache_holds(cache):
    class Drawing(Oracle):
        def classify(self, batch):
            torch.rand(1)
            return super().classify(batch)

    first, second = (built(MODEL, Patches(20), Drawing()) for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_teacher_is_none_of_the_students_weights(cache):
    system = built(replace(MODEL, stored=False), Patches(8), Oracle())
    assert not any("colours" in name for name in system.state_dict())
    assert len(list(system.children())) == 2  # backbone and classifier


def test_a_teacher_of_other_classes_is_refused(cache):
    with pytest.raises(UserError, match="the oracle knows 4 classes, the training data 5"):
        built(MODEL, Patches(8), Oracle(classes=4))


def test_distillation_learns_what_wrong_labels_hide(cache, evidence):
    """Most labels are wrong here, the teacher is right: who learns from it is right on new pictures."""
    torch.set_num_threads(1)
    source, fresh = Patches(256, wrong=0.9), [Patches(600)[n] for n in range(400, 500)]
    right = {}
    for name, model in {"teacher": MODEL, "labels": replace(MODEL, teacher="", smoothing=0.0)}.items():
        system = built(model, source, Oracle())
        optimizer = torch.optim.AdamW(system.parameters(), 3e-3)
        for step in range(40):
            optimizer.zero_grad()
            loss_of(system, batch_of(system, source, step, 32), step).mean().backward()
            optimizer.step()
        with torch.no_grad():
            answers = (
                system.eval().classify(collate([system.view(sample, None) for sample in fresh])).argmax(1)
            )
        right[name] = np.mean(answers.numpy() == [sample["truth"] for sample in fresh])
    assert right["teacher"] > 0.9
    assert right["labels"] < right["teacher"]
    evidence(
        "tinyvit",
        "learning",
        task="naming 5 colours of which labels tell 1 in 4, 40 steps of 32",
        n=100,
        **right,
    )


# -------------------------------------------------------------------------------------------------- recipes

PUBLISHED = {
    ("tinyvit_5m", 21_841): 12_082_725, ("tinyvit_11m", 21_841): 20_354_581, ("tinyvit_21m", 21_841): 33_223_825,
    ("tinyvit_5m_finetune", 1000): 5_392_764, ("tinyvit_11m_finetune", 1000): 10_996_972,
    ("tinyvit_21m_finetune", 1000): 21_198_568, ("tinyvit_21m_384", 1000): 21_230_488,
    ("tinyvit_21m_512", 1000): 21_268_120, ("tinyvit_5m_scratch", 1000): 5_392_764,
}  # fmt: skip


@pytest.mark.parametrize(("preset", "classes"), PUBLISHED)
def test_parameter_counts_of_the_presets_are_the_published_ones(preset, classes, tmp_path, evidence):
    timm = pytest.importorskip("timm")
    model = SYSTEM.presets[preset]().model
    assets = RunAssets(tmp_path, None, [str(n) for n in range(classes)])
    size = f"tiny_vit_{model.image_tower.split('_')[1]}_{model.image_size}"
    with torch.device("meta"):
        system = FastDistillation.build(model, assets)
        peer = timm.create_model(size, num_classes=classes)
    count = sum(p.numel() for p in system.parameters())
    assert count == PUBLISHED[preset, classes] == sum(p.numel() for p in peer.parameters())
    evidence("tinyvit", "preset", parameters=count, equals=f"timm's {size} with {classes:,} classes")


def test_settings_without_effect_are_mistakes():
    from oculex.training import recipes

    with pytest.raises(UserError, match="mixup has no effect with a teacher"):
        recipes.change(SYSTEM.presets["tiny"](), {"mixup": 0.8})
    with pytest.raises(UserError, match="kept has no effect without a teacher"):
        recipes.change(SYSTEM.presets["teacher"](), {"kept": 3})
    labels = recipes.change(SYSTEM.presets["tiny"](), {"teacher": "", "mixup": 0.8})
    assert labels.model.mixup == 0.8


def test_learning_rates_fall_with_depth_and_biases_are_not_decayed_as_in_the_authors_code():
    model = TinyViT(SIZES["tinyvit_5m"])
    system = nn.ModuleDict({"image": model, "head": nn.Linear(320, 10)})
    scales = optimizers.layer_scales(system, 0.8)
    expected = {
        "image.stem.0.conv.weight": 11, "image.stages.0.0.up.conv.weight": 11, "image.stages.0.1.down.norm.bias": 10,
        "image.stages.1.merging.mix.conv.weight": 10, "image.stages.1.blocks.0.up.weight": 9,
        "image.stages.2.merging.out.norm.weight": 8, "image.stages.2.blocks.5.attention.biases": 2,
        "image.stages.3.blocks.1.local.conv.weight": 0, "image.norm.weight": 0, "head.weight": 0,
    }  # fmt: skip
    for name, exponent in expected.items():
        assert scales[name] == pytest.approx(0.8**exponent), name
    config = replace(SYSTEM.presets["tinyvit_5m"]().optimizer, weight_decay=0.3)
    groups = optimizers.build(system, config, Stage()).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    found = {name: decay[id(p)] for name, p in system.named_parameters()}
    assert {name for name, value in found.items() if name.endswith("biases") and value} == set()
    assert found["image.stages.1.blocks.0.attention.qkv.weight"] == 0.3
    assert found["image.stages.1.blocks.0.norm_1.weight"] == 0


def test_batch_norms_stand_still_in_fine_tuning():
    system = built(replace(MODEL, teacher="", fixed_norms=True), Patches(8))
    system.train()
    before = {name: value.clone() for name, value in system.named_buffers()}
    loss_of(system, batch_of(system, Patches(8), 0, 8))
    assert all(torch.equal(value, before[name]) for name, value in system.named_buffers())
    assert system.head.training


def test_a_larger_window_begins_from_the_smaller_ones_weights():
    small, large = (nn.ModuleDict({"image": TinyViT(SIZES[f"tinyvit_21m{size}"])}) for size in ("", "_384"))
    for table in (block.attention.biases for stage in small["image"].stages[1:] for block in stage.blocks):
        nn.init.normal_(table)
    begun = replace(SYSTEM.presets["tinyvit_21m_384"]().init, run="small", take=(("image.", "image."),))
    initial.load(large, begun, small)
    ours = large["image"].stages[2].blocks[3].attention.biases
    theirs = small["image"].stages[2].blocks[3].attention.biases
    square = nn.functional.interpolate(theirs.view(1, 12, 14, 14), (24, 24), mode="bicubic").view(12, 576)
    torch.testing.assert_close(ours, square)
    torch.testing.assert_close(large["image"].norm.weight, small["image"].norm.weight)


# ------------------------------------------------------------------------------------------------ whole runs


def taught(data, folder, steps, **changes):
    """(teacher, student): runs of both presets on ``data``, the second one from stored answers of the first."""
    common = {"batch": 32, "image_size": 32, "data.workers": 0, "logging.every": 1, **changes}
    own = {"teacher": {}, "tiny": {"teacher": str(folder / "teacher"), "epochs": 2}}
    return tuple(
        runs.train(
            "tinyvit",
            preset,
            [str(data)],
            folder / preset,
            f"{steps}steps",
            0,
            common | own[preset],
            quiet=True,
        )
        for preset in ("teacher", "tiny")
    )


def last(run):
    return list(read_lines(run.evaluations))[-1]["metrics"]


def test_what_it_learnt_is_used_elsewhere(tmp_path, cache, evidence):
    """Judged again with equal numbers, opened by timm with equal logits, and begun from by another system."""
    timm = pytest.importorskip("timm")
    data = toys.squares(tmp_path)
    changes = {"image_tower": "tinyvit_nano", "data.holdout": 0.25, "evaluation.tasks": ["classify"]}
    _, student = taught(data, tmp_path, 60, **changes)
    found = last(student)
    top1 = found["squares.parquet/classify/top1"]
    assert top1["n"] == 60
    assert top1["low"] > 0.5
    again = runs.evaluate(student.path)["metrics"]
    assert {name: again[name] for name in found} == found

    cli.main(["export", str(student.path), str(tmp_path / "timm"), "--to", "timm"])
    peer = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    facts = timm.data.resolve_data_config({}, model=peer)
    assert tuple(facts["input_size"]) == (3, 32, 32)
    mean, std = (torch.tensor(facts[name]).view(3, 1, 1) for name in ("mean", "std"))
    system, source = runs.load(student.path), open_source(str(data))
    batch = collate([system.view(source[n], None) for n in range(len(source))])
    with torch.no_grad():
        logits, theirs = system.classify(batch), peer((batch["image"] / 255 - mean) / std)
    error = float((logits - theirs).abs().max())
    assert error <= 1e-4
    names = peer.pretrained_cfg["label_names"]
    named = sum(names[best] == list(toys.COLOURS)[n % 8] for n, best in enumerate(theirs.argmax(1)))
    assert named > 120

    tower = {
        "image_tower": "tinyvit_nano",
        "image_size": 32,
        "init.run": str(student.path),
        "optimizer.lr": 0.0,
    }
    sizes = {
        k: v for k, v in (toys.SMALL | toys.TEXT).items() if k not in ("patch", "width", "layers", "heads")
    }
    pairs = runs.train(
        "clip", data=[str(data)], out=tmp_path / "clip", budget="1steps", changes=sizes | tower, quiet=True
    )
    begun = dict(runs.load(pairs.path).image.named_parameters())
    assert begun.keys() == dict(system.image.named_parameters()).keys()
    for name, value in system.image.named_parameters():
        assert torch.equal(begun[name], value), name
    evidence("tinyvit", "usable", evaluated_again="the same numbers", top1=top1, chance_top1=0.125,
             timm=f"{named} of {len(source)} pictures named right by the model that timm opens",
             export_max_abs_error={"timm": error}, image_tower="of CLIP, begun from the student's weights")  # fmt: skip


def test_stored_answers_teach_real_pictures(real_data, tmp_path, cache, evidence):
    """CIFAR-10 from its tar: labels train the teacher, its stored answers the student; for the record until the student
    names held-out pictures beyond chance."""
    data = real_data / "cifar10" / "train.tar"
    long = {"batch": 64, "data.holdout": 0.25, "logging.every": 20} if evidence.recording else {}
    steps = 400 if evidence.recording else 3
    teacher, student = taught(data, tmp_path, steps, **long)
    assert json.loads((student.path / "assets" / "classes.json").read_text()) == list(
        open_source(str(data)).classes
    )
    assert all("loss/distillation" in line for line in read_lines(student.metrics))
    teaching, top1, chance = (
        last(run)[f"train.tar/classify/{name}"]
        for run, name in ((teacher, "top1"), (student, "top1"), (student, "chance_top1"))
    )
    others = runs.evaluate(student.path, on=["world:scenes=20,split=test"])["metrics"]
    assert not any("/classify/" in name for name in others)  # the world has other classes
    if evidence.recording:
        assert top1["n"] == 500
        assert top1["low"] > 2 * chance["value"]
        evidence("tinyvit", "real_data", data="CIFAR-10: 1,500 pictures, 500 more held out; no label reaches the student",
                 budget=f"teacher and student each {steps} steps of 64", top1=top1, teacher_top1=teaching,
                 chance_top1=chance["value"])  # fmt: skip
