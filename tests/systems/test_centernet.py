"""CenterNet: heat where objects are, boxes read at its peaks, and it learns to find coloured squares."""

import math

import numpy as np
import pytest
import torch

from oculex.contracts import Features, NamesObjects, UserError
from oculex.data.assets import RunAssets
from oculex.data.boxes import solid
from oculex.data.collate import collate
from oculex.evaluation import EvalSet, evaluate
from oculex.evaluation.grounding import overlaps
from oculex.objectives.centres import OVERLAP, heat, heat_loss, radius
from oculex.systems.baselines.centernet import CenterNet, CenterNetConfig

SMALL = CenterNetConfig(image_tower="resnet", image_size=32, width=8, layers=(1, 1), heads=4, head_width=16,
                        regions=3, flip=0.0)  # fmt: skip
NAMES = ("red", "blue")
RGB = np.array([[220, 30, 30], [40, 60, 230]])


class Named(RunAssets):
    """Of two classes."""

    def __init__(self):
        super().__init__(None, None)

    def classes(self):
        return NAMES


def scene(rng, objects=2, size=32):
    """One or two squares of the two colours on noise, side by side, with their boxes."""
    pixels = rng.normal(120, 10, (size, size, 3))
    boxes, labels = [], []
    for place in range(1 + int(rng.integers(objects))):
        side = int(rng.integers(6, 13))
        x, y = place * 16 + int(rng.integers(16 - side)), int(rng.integers(size - side))
        label = int(rng.integers(2))
        pixels[y : y + side, x : x + side] = RGB[label]
        boxes.append([x, y, x + side, y + side])
        labels.append(label)
    return {"image": pixels.clip(0, 255).astype(np.uint8), "boxes": np.array(boxes, np.float32),
            "box_labels": np.array(labels)}  # fmt: skip


class Squares:
    classes, name = NAMES, "squares"

    def __init__(self, count, seed):
        rng = np.random.default_rng(seed)
        self.samples = [{"id": str(n), **scene(rng)} for n in range(count)]

    def fingerprint(self):
        return f"squares {len(self.samples)}"

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index, /):
        return self.samples[index]


def model():
    torch.manual_seed(0)
    return CenterNet(SMALL, Named())


def test_corners_may_miss_by_the_radius_and_not_by_more():
    for height, width in ((10.0, 10.0), (4.0, 20.0), (30.0, 7.0)):
        r = radius(height, width)

        def least(r, h=height, w=width):
            moved = [(-r, -r, w - r, h - r), (r, r, w - r, h - r), (-r, -r, w + r, h + r)]
            return overlaps(np.array([[0, 0, w, h]]), np.array(moved)).min()

        assert least(r) == pytest.approx(OVERLAP, abs=1e-6)
        assert least(1.1 * r) < OVERLAP < least(0.9 * r)


def test_heat_is_one_at_middles_and_falls_around_them():
    rows, columns, radii = np.array([1.0, 3.0]), np.array([2.0, 2.0]), np.array([1.0, 1.0])
    made = heat((5, 6), rows, columns, radii)
    assert made.shape == (5, 6)
    assert made[1, 2] == made[3, 2] == 1
    assert made[2, 2] == pytest.approx(math.exp(-1 / (2 * 0.25)))  # the larger of two, not their sum
    assert heat((2, 2), rows[:0], columns[:0], radii[:0]).max() == 0


def test_the_heats_loss_is_the_papers():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 2, 3, 3), torch.rand(2, 2, 3, 3) * 0.9
    target[0, 0, 1, 1] = target[0, 1, 2, 2] = 1
    wanted = []
    for own, true in zip(logits, target, strict=True):
        total = 0.0
        for z, y in zip(own.flatten().tolist(), true.flatten().tolist(), strict=True):
            p = 1 / (1 + math.exp(-z))
            total -= (1 - p) ** 2 * math.log(p) if y == 1 else (1 - y) ** 4 * p**2 * math.log(1 - p)
        wanted.append(total / max(1, int((true == 1).sum())))
    torch.testing.assert_close(heat_loss(logits, target), torch.tensor(wanted))


def test_what_is_learned_is_what_is_read():
    """A network that says exactly the targets of a view finds its boxes."""
    system, rng = model().eval(), np.random.default_rng(5)
    sample = {"id": "0", **scene(rng)}
    batch = collate([system.view(sample, rng)])
    said = {"heat": torch.logit(batch["heat"].clamp(1e-4, 1 - 1e-4))}
    for name, part in (("offset", slice(0, 2)), ("sides", slice(2, 4))):
        said[name] = torch.zeros(1, 2, system.side, system.side)
        for at, place in zip(batch["at"][0], batch["place"][0], strict=True):
            if at >= 0:
                said[name][0, :, at // system.side, at % system.side] = place[part]
    system.encode = lambda batch: said
    found = system.detect(batch, 4)[0]
    wanted = sample["boxes"] / 32
    assert len(sample["boxes"]) == 2
    for label, box in zip(sample["box_labels"], wanted, strict=True):
        near = (found[:2, 2:] - torch.from_numpy(box)).abs().max(1).values
        assert near.min() < 1e-5
        assert found[near.argmin(), 0] == label
    assert (found[2:, 1].nan_to_num(0) < 0.5).all()
    losses = system.losses(Features(said), batch)
    assert losses["offset"].item() == pytest.approx(0, abs=1e-6)
    assert losses["sides"].item() == pytest.approx(0, abs=1e-6)
    assert system.detect(batch, 1000).shape == (1, 1000, 6)


def test_a_mirrored_picture_has_mirrored_boxes():
    system = CenterNet(CenterNetConfig(**{**vars(SMALL), "flip": 1.0}), Named())
    sample = {"id": "0", "image": np.zeros((32, 32, 3), np.uint8), "boxes": np.array([[2, 4, 10, 12]], np.float32),
              "box_labels": np.array([1])}  # fmt: skip
    assert solid(sample["boxes"]).all()
    view = system.view(sample, np.random.default_rng(0))
    x, y = (
        (view["at"][0] % system.side + view["place"][0, 0]),
        (view["at"][0] // system.side + view["place"][0, 1]),
    )
    assert (x * system.stride, y * system.stride) == (pytest.approx(26), pytest.approx(8))


def test_it_learns_to_find_squares():
    system, data = model(), Squares(256, 0)
    optimizer = torch.optim.AdamW(system.parameters(), 4e-3)
    rng = np.random.default_rng(2)
    untrained = evaluate(system, {"s": EvalSet("s", Squares(40, 7))}, tasks=["detection"]).metrics
    system.train()
    for step in range(120):
        views = [system.view(data[int(n)], rng) for n in rng.integers(len(data), size=16)]
        batch = collate(views)
        losses = system.losses(Features(system.encode(batch)), batch)
        total = sum(system.loss_weights().get(name, 1.0) * loss.mean() for name, loss in losses.items())
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / 120)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert isinstance(system, NamesObjects)
    assert system.names == NAMES
    found = evaluate(system, {"s": EvalSet("s", Squares(40, 7))}, tasks=["detection"]).metrics
    assert untrained["s/detection/ap50"].value < 0.2
    assert found["s/detection/ap50"].low > 0.6


def test_a_tower_of_one_resolution_is_refused():
    with pytest.raises(UserError, match="has one resolution"):
        CenterNet(
            CenterNetConfig(image_tower="vit", image_size=32, patch=8, width=32, layers=(1,), heads=2),
            Named(),
        )
    with pytest.raises(UserError, match="no multiple of 8"):
        CenterNet(CenterNetConfig(**{**vars(SMALL), "image_size": 36}), Named())
