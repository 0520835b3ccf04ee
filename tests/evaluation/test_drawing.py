"""Drawings and their judges: what is asked, who is believed, what each control shows, and the distance's formula."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from oculex.contracts import UserError
from oculex.evaluation import EvalSet, evaluate, records
from oculex.evaluation.drawing import TASK, _asked, stands
from oculex.evaluation.frechet import Frechet
from oculex.evaluation.measures import LESS_IS_BETTER

CLASSES = ("red cube", "blue cube", "red sphere", "blue sphere")
RGB = {"red": (200, 0, 0), "blue": (0, 0, 200)}
SIDE = 8


def picture(*names):
    """Cubes fill their quarter, spheres its upper half; from left to right."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for place, name in enumerate(names):
        colour, shape = name.split()
        pixels[: SIDE // 2 if shape == "cube" else SIDE // 4, place * 4 : place * 4 + 4] = RGB[colour]
    return pixels


class Scenes:
    """Pictures of one object; ``related``: of two, told by a statement."""

    classes = CLASSES

    def __init__(self, count=24, related=False):
        self.name, self.count, self.related = "scenes", count, related

    def fingerprint(self):
        return f"{self.count}{self.related}"

    def __len__(self):
        return self.count

    def __getitem__(self, index, /):
        first = CLASSES[index % 4]
        sample = {"id": f"s{index}", "captions": [f"a {first}"], "label": index % 4}
        if not self.related:
            return sample | {"image": picture(first)}
        second = CLASSES[(index + 1) % 4]
        true = f"a {first} to the left of a {second}"
        told = {"kind": "relation", "group": "left of", "true": true, "false": [""]}
        return sample | {"image": picture(first, second), "alternatives": [told]}


class Painter(nn.Module):
    """Paints what a text names, in the order ``order``; a text is its tokens' letters."""

    config = None

    def __init__(self, order=1):
        super().__init__()
        self.weight, self.order = nn.Parameter(torch.zeros(1)), order

    def view(self, sample, rng):
        if "image" in sample:
            return {"image": np.asarray(sample["image"]).transpose(2, 0, 1)}
        return {"tokens": [ord(letter) for letter in sample["caption"]]}

    def draw(self, batch, generator=None):
        texts = ["".join(map(chr, row)) for row in batch["tokens"].rows()]
        named = [_asked({"id": "", "alternatives": [{"kind": "relation", "true": text, "group": ""}]}, CLASSES).objects
                 for text in texts]  # fmt: skip
        self.noise = torch.rand(1, generator=generator)
        return torch.stack(
            [torch.from_numpy(picture(*names[:: self.order])).permute(2, 0, 1) for names in named]
        )


class Repainter(Painter):
    def repaint(self, batch, generator=None):
        return 255 - batch["image"]


class Detector(nn.Module):
    """Sees what ``picture`` paints."""

    names, classes, config = CLASSES, len(CLASSES), None

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def view(self, sample, rng):
        return {"image": np.asarray(sample["image"]).transpose(2, 0, 1)}

    def detect(self, batch, most):
        out = torch.full((len(batch["image"]), most, 6), torch.nan)
        for row, pixels in zip(out, batch["image"], strict=True):
            found = []
            for place in range(2):
                part = pixels[:, :, place * 4 : place * 4 + 4]
                for colour, rgb in enumerate(RGB.values()):
                    lit = (part == torch.tensor(rgb, dtype=torch.uint8)[:, None, None]).all(0)
                    if lit.any():
                        tall = bool(lit[SIDE // 4].any())
                        shape = 0 if tall else 2
                        found.append(
                            [shape + colour, 0.9, place / 2, 0.0, place / 2 + 0.5, 0.5 if tall else 0.25]
                        )
            found.append([0, 0.05, 0, 0, 1, 1])  # too unlikely to count
            row[: len(found)] = torch.tensor(found)
        return out


class Clip(nn.Module):
    """Embeddings of what a text's first class is, and of what fills the left half of a picture, with noise."""

    config = None

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def view(self, sample, rng):
        if "image" in sample:
            return {"image": np.asarray(sample["image"]).transpose(2, 0, 1)}
        return {"tokens": [next(n for n, name in enumerate(CLASSES) if name in sample["caption"])]}

    def encode_image(self, batch):
        found = Detector().detect({"image": batch["image"][:, :, :, :4].repeat(1, 1, 1, 2)}, 6)
        known = found[:, 0, 0].nan_to_num(0).long()
        return torch.eye(4)[known] + 0.1 * torch.randn(
            len(known), 4, generator=torch.Generator().manual_seed(1)
        )

    def encode_text(self, batch):
        return torch.eye(4)[batch["tokens"].values[:, 0]]


JUDGES = {"detector": Detector, "clip": Clip}


def judged(system, source, judges=JUDGES):
    return evaluate(system, {"s": EvalSet("s", source, judges=judges)}, tasks=["drawing"])


def values(result):
    return {name.removeprefix("s/drawing/"): each.value for name, each in result.metrics.items()}


def test_a_model_that_paints_what_it_is_told_is_told_from_its_controls(tmp_path):
    result = judged(Repainter(), Scenes())
    found = values(result)
    assert found["objects"] == found["colour"] == found["shape"] == found["real_objects"] == 1
    assert found["wrong_image_objects"] < 0.5
    assert found["repainted_objects"] == found["repainted_colour"] == 0  # all colours are inverted
    assert found["gain_over_wrong_image"] == pytest.approx(
        found["clip_score"] - found["wrong_image_clip_score"]
    )
    assert found["gain_over_wrong_image"] > 20
    assert found["distance"] == pytest.approx(found["real_distance"])  # these are the same pictures
    assert found["repainted_distance"] > 2 * found["real_distance"]
    assert "relation" not in found
    assert found["unparsed"] == 0
    result.table.write(tmp_path / "records.parquet")
    again = TASK.metrics(records.read(tmp_path / "records.parquet"))
    assert {name: each.value for name, each in again.items()} == found
    output = json.loads(result.table["output"][0])
    assert set(output["judges"]) == set(JUDGES)
    assert output["picture"].startswith("data:image/")


@pytest.mark.parametrize(("order", "right"), [(1, 1.0), (-1, 0.0)])
def test_a_relation_is_right_where_the_objects_stand_so(order, right):
    found = values(judged(Painter(order), Scenes(related=True)))
    assert found["objects"] == 1.0
    assert found["relation"] == right
    assert found["real_relation"] == 1.0


def test_what_stands_left_or_nearer():
    near, far = ["red cube", 0.9, 0.1, 0.2, 0.4, 0.9], ["blue cube", 0.8, 0.5, 0.1, 0.9, 0.5]
    pair = ("red cube", "blue cube")
    assert stands("left of", pair, [near, far])
    assert not stands("right of", pair, [near, far])
    assert stands("in front of", pair, [near, far])
    assert not stands("behind", pair, [near, far])
    assert not stands("left of", pair, [near])


def test_each_judge_is_asked_for_its_own_alone():
    alone = values(judged(Painter(), Scenes(), {"detector": Detector}))
    assert "objects" in alone
    assert not any("clip" in name or "distance" in name for name in alone)
    alone = values(judged(Painter(), Scenes(), {"clip": Clip}))
    assert "clip_score" in alone
    assert "objects" not in alone
    assert (
        "name someone by --set evaluation.judges.detector=NAME"
        in judged(Painter(), Scenes(), {}).refused["s/drawing"]
    )
    with pytest.raises(UserError, match="finds no objects by name"):
        judged(Painter(), Scenes(), {"detector": Clip})
    with pytest.raises(UserError, match="encodes no images and texts"):
        judged(Painter(), Scenes(), {"clip": Detector})


def test_equal_seeds_draw_alike():
    from oculex.evaluation.embed import Embedder

    system, noises = Painter(), []
    for seed in (0, 0, 1):
        Embedder(system).drawn(["a red cube"], seed)
        noises.append(float(system.noise))
    assert noises[0] == noises[1] != noises[2]


def test_the_distance_is_torchmetrics():
    image = pytest.importorskip("torchmetrics.image.fid", reason="parity needs torchmetrics")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6)), rng.normal(0.5, 2, (30, 6))

    class Same(nn.Module):
        num_features = 6

        def forward(self, x):
            return x

    peer = image.FrechetInceptionDistance(feature=Same())
    for side, real in ((a, True), (b, False)):
        peer.update(torch.from_numpy(side), real=real)
    rows, others = np.arange(40), np.arange(40, 70)
    bound = Frechet(rows, a, others, b).bind(np.arange(70), 70)
    assert bound(np.ones((1, 70)))[0] == pytest.approx(float(peer.compute()), rel=1e-6)
    twice = np.ones((1, 70))
    twice[0, :40:2] = 2
    repeated = np.concatenate([a, a[::2]])
    bound_again = Frechet(np.arange(60), repeated, np.arange(60, 90), b).bind(np.arange(90), 90)
    assert bound(twice)[0] == pytest.approx(bound_again(np.ones((1, 90)))[0])
    one = np.zeros((1, 70))
    one[0, 0] = 1
    assert np.isnan(bound(one)[0])
    assert "s/drawing/distance".endswith(LESS_IS_BETTER)
