"""Segmentation, detection by own classes, image retrieval and shifts: metrics from records, against other libraries and
by hand."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from oculex.data.masks import OUTSIDE
from oculex.evaluation import EvalSet, evaluate, segmentation
from oculex.evaluation.image_retrieval import scored
from oculex.evaluation.shifts import CORRUPTIONS, Corrupted, shifts

CLASSES = ("red", "green", "blue")
COLOURS = np.array([[220, 30, 30], [30, 200, 40], [40, 60, 230]], np.uint8)


class Blocks:
    """A block of one of three colours somewhere in a dark picture of 24 x 16 pixels."""

    name, classes = "blocks", CLASSES

    def __init__(self, count=24):
        self.count = count

    def fingerprint(self):
        return f"blocks {self.count}"

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = index % 3
        x, y = int(rng.integers(14)), int(rng.integers(8))
        image, mask = np.zeros((16, 24, 3), np.uint8), np.zeros((16, 24), np.uint8)
        image[y : y + 8, x : x + 10], mask[y : y + 8, x : x + 10] = COLOURS[label], label + 1
        return {"id": f"b{index}", "image": image, "label": label, "semantic": mask,
                "boxes": np.array([[x, y, x + 10, y + 8]], np.float32), "box_labels": np.array([label])}  # fmt: skip


class Sees(nn.Module):
    """Knows colours; ``blind`` sees nothing and answers all the same."""

    classes = 3

    def __init__(self, blind=False):
        super().__init__()
        self.blind, self.unused = blind, nn.Parameter(torch.zeros(1))

    def view(self, sample, rng):
        image = np.zeros((3, 24, 24), np.uint8)
        image[:, :16] = np.asarray(sample["image"]).transpose(2, 0, 1)
        return {"image": image, "extent": np.array([24, 16], np.float32)}

    def _near(self, batch):
        pixels = batch["image"].float().permute(0, 2, 3, 1)
        centres = torch.tensor(np.concatenate([np.zeros((1, 3)), COLOURS]), dtype=torch.float32)
        return (pixels[..., None, :] - centres).square().sum(-1).argmin(-1)

    def represent_image(self, batch):
        return torch.eye(4)[self.classify(batch).argmax(1)]

    def classify(self, batch):
        if self.blind:
            return torch.zeros(len(batch["image"]), 3) + torch.tensor([1.0, 0, 0])
        return torch.stack([(self._near(batch) == n + 1).sum((1, 2)).float() for n in range(3)], dim=1)

    def segment(self, batch, size):
        found = torch.zeros_like(self._near(batch)) if self.blind else self._near(batch)
        return nn.functional.interpolate(found[:, None].float(), (size, size))[:, 0].long()

    def detect(self, batch, most):
        out = torch.full((len(batch["image"]), most, 6), torch.nan)
        for row, mask in zip(out, self._near(batch), strict=True):
            y, x = mask.nonzero(as_tuple=True)
            box = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1]) / torch.tensor([24, 16, 24, 16])
            row[0] = torch.cat([mask[y[0], x[0]][None] - 1, torch.tensor([0.9]), box])
        return out


ASKED = ("segmentation", "detection", "shifts", "image_retrieval", "classify")


@pytest.fixture(scope="module")
def found():
    return {
        blind: evaluate(Sees(blind), {"blocks": EvalSet("blocks", Blocks())}, tasks=ASKED)
        for blind in (False, True)
    }


def value(evaluation, name):
    return evaluation.metrics[f"blocks/{name}"].value


def test_who_sees_is_right_and_who_does_not_gets_what_chance_gives(found):
    assert value(found[False], "segmentation/miou") == 1.0
    assert value(found[False], "detection/ap") == pytest.approx(1.0)
    assert value(found[False], "image_retrieval/map_at_r") == 1.0
    assert value(found[True], "segmentation/miou") == pytest.approx(
        value(found[True], "segmentation/blind_miou")
    )
    assert value(found[True], "segmentation/miou_objects") == 0.0
    assert value(found[True], "classify/top1") == pytest.approx(1 / 3)
    assert value(found[False], "image_retrieval/wrong_image_map_at_r") < 0.8


def test_a_blind_answer_is_the_background_s_share_over_all_classes(found):
    background = np.mean([(Blocks()[n]["semantic"] == 0).mean() for n in range(24)])
    assert value(found[True], "segmentation/blind_miou") == pytest.approx(background / 4)


def test_the_mean_iou_is_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.segmentation", reason="parity needs torchmetrics")
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 4, (6, 8, 8), generator=generator)
    answer = torch.where(
        torch.rand(truth.shape, generator=generator) < 0.6,
        truth,
        torch.randint(0, 4, truth.shape, generator=generator),
    )
    counted = segmentation.counts(answer, truth, 4)
    both, answered, true = (counted[:, :, n].sum(0) for n in range(3))
    theirs = metrics.MeanIoU(num_classes=4, per_class=True, input_format="index")
    ours = both / (answered + true - both)
    whole = theirs(answer.reshape(1, -1, 8), truth.reshape(1, -1, 8))
    torch.testing.assert_close(ours, whole.float(), atol=1e-6, rtol=1e-6)


def test_what_is_outside_of_a_picture_does_not_count():
    truth = torch.tensor([[[1, OUTSIDE], [0, OUTSIDE]]])
    assert segmentation.counts(torch.ones(1, 2, 2, dtype=torch.long), truth, 2)[0].tolist() == [
        [0, 0, 1],
        [1, 2, 1],
    ]


def test_average_precisions_by_hand():
    at_r, ap, rr = scored(np.array([0, 2, 5]))
    assert at_r == pytest.approx((1 + 2 / 3) / 3)
    assert ap == pytest.approx(np.mean([(1 + 1) / 2, (2 / 3 + 1 / 2) / 2, (3 / 6 + 2 / 5) / 2]))
    assert rr == 1.0
    assert scored(np.array([1]))[::2] == (0.0, 0.5)


def test_equal_similarities_are_ordered_against_the_model():
    class Flat(Sees):
        def represent_image(self, batch):
            return torch.ones(len(batch["image"]), 2)

    flat = evaluate(Flat(), {"blocks": EvalSet("blocks", Blocks())}, tasks=("image_retrieval",))
    assert value(flat, "image_retrieval/map_at_r") == 0.0


def test_every_shift_is_asked_and_counts_alike(found):
    each = [value(found[False], f"shifts/{how}_top1") for how in CORRUPTIONS]
    assert value(found[False], "shifts/top1") == pytest.approx(np.mean(each))
    assert value(found[False], "shifts/blur_top1") == 1.0
    assert value(found[False], "shifts/grey_top1") < 0.6
    assert value(found[False], "shifts/chance_top1") == pytest.approx(1 / 3)


def test_a_corruption_is_the_same_each_time_and_changes_pixels():
    source = Blocks()
    for how in CORRUPTIONS:
        first, again = (Corrupted(source, how)[3]["image"] for _ in range(2))
        assert (first == again).all()
        assert first.shape == source[3]["image"].shape
        assert (first != source[3]["image"]).any()
    assert len({Corrupted(source, how).fingerprint() for how in CORRUPTIONS}) == len(CORRUPTIONS)


def test_the_world_knows_its_domains():
    from oculex.data.sources import open_source

    world = open_source("world:most=1,size=16,scenes=4,keys=semantic+boxes+box_labels,part=1/9")
    found = shifts(world)
    assert set(found) == {"dusk", "overcast", "night", "film", "sketch", *CORRUPTIONS}
    assert found["night"][0]["label"] == world[0]["label"]
    assert (found["night"][0]["image"] != world[0]["image"]).any()
    sample = world[1]
    assert set(np.unique(sample["semantic"])) <= {0, int(sample["label"]) + 1}
    assert sample["box_labels"].tolist() == [sample["label"]]


def test_records_say_what_was_counted(found):
    part = found[False].table.select(task="segmentation")
    assert json.loads(part["truth"][0]) == {"0": 16 * 24 - 80, "1": 80}
    assert json.loads(part["output"][0]) == {"0": [16 * 24 - 80] * 2, "1": [80, 80]}
