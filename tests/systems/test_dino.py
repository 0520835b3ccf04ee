"""DINO against its authors' code; its teacher, centre and schedules; exactness under ranks and micro-batches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from oculex.contracts import Features
from oculex.objectives.self_distillation import self_distillation
from oculex.runs import describe
from oculex.systems.baselines.dino import DINO, DINOConfig
from tests.systems import ssl

SMALL = DINOConfig(image_size=32, patch=8, width=32, layers=(2,), heads=2, drop_path=0.0, prototypes=20, hidden=24,
                   bottleneck=8, small_crops=3, small_size=16)  # fmt: skip
BACKBONES = {"vit_s_16": 21_665_664, "vit_s_8": 21_670_272, "vit_b_16": 85_798_656, "vit_b_8": 85_807_872}


def model(config=SMALL):
    torch.manual_seed(0)
    return DINO(config)


def test_student_teacher_loss_and_centre_are_the_authors():
    golden = np.load(Path(__file__).parents[1] / "golden" / "dino.npz")
    ours = model(replace(SMALL, unit_prototypes=False))
    ours.load_state_dict(ssl.fixed_weights(ours))
    pixels = (torch.from_numpy(golden["image"]).float() - ours.mean) / ours.std
    student = ours.head(torch.stack([ours.image(view) for view in pixels.unbind(1)], dim=1))
    teacher = ours.teacher.head(
        torch.stack([ours.teacher.image(view) for view in pixels[:, :2].unbind(1)], dim=1)
    )
    torch.testing.assert_close(student, torch.from_numpy(golden["student"]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(teacher, torch.from_numpy(golden["teacher"]), atol=1e-5, rtol=1e-4)
    ours._temperature = float(golden["temperature"])
    loss = ours.losses(Features({"student": student, "teacher": teacher}), {})["self_distillation"]
    assert loss.mean().item() == pytest.approx(float(golden["loss"]), abs=1e-4)
    ours.after_step(0, 10)
    torch.testing.assert_close(ours.centre.mean, torch.from_numpy(golden["centre"]), atol=1e-5, rtol=1e-4)
    fresh = model(replace(SMALL, unit_prototypes=False))
    fresh.load_state_dict(ssl.fixed_weights(fresh))
    attention, grid = fresh.patch_attention({"image": torch.from_numpy(golden["image"][:, 0])})
    assert grid == (4, 4)
    torch.testing.assert_close(attention, torch.from_numpy(golden["attention"]), atol=1e-5, rtol=1e-4)


def test_the_loss_is_the_mean_over_pairs_of_different_views():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 5, 7, generator=generator)
    targets = torch.randn(3, 2, 7, generator=generator).softmax(dim=-1)
    pairs = [
        F.cross_entropy(student[:, v] / 0.1, targets[:, t], reduction="none")
        for t in range(2)
        for v in range(5)
        if v != t
    ]
    torch.testing.assert_close(self_distillation(student, targets, 0.1), torch.stack(pairs).mean(dim=0))


@pytest.mark.parametrize("preset", BACKBONES)
def test_parameter_counts_are_the_published_ones(preset):
    """The backbone's, plus the head's: three layers and 65,536 prototypes, with lengths where they are learnt."""
    width = 384 if "_s_" in preset else 768
    head = width * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 256 + 256 + 65_536 * (256 + ("_s_" in preset))
    assert describe("dino")["presets"][preset]["parameters"] == BACKBONES[preset] + head


def test_the_teacher_is_a_moving_average_and_is_not_trained():
    ours = model()
    assert not [name for name, _ in ours.named_parameters() if name.startswith("teacher")]
    before = ours.teacher.image.patches.weight.clone()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(1.0)
    ours.centre.collect(torch.zeros(1, 20))
    ours.after_step(0, 100)
    torch.testing.assert_close(ours.teacher.image.patches.weight, before + 0.004)
    ours.centre.collect(torch.zeros(1, 20))
    ours.after_step(100, 100)
    torch.testing.assert_close(ours.teacher.image.patches.weight, before + 0.004)
    assert not ours.train().teacher.training


def test_the_prototypes_stand_still_at_first():
    batch = ssl.training_batch(model())
    for step, moving in ((0, False), (1, True)):
        ours = model(replace(SMALL, still=0.1))
        ssl.update(ours, batch, step=step)
        assert (ours.head.prototypes.grad is not None) == moving
        assert ours.image.patches.weight.grad is not None


def test_the_teachers_temperature_rises():
    ours = model(replace(SMALL, teacher_temperature=0.07, temperature_warmup=0.5))
    seen = []
    for step in (0, 25, 50, 99):
        ours.before_step(step, 100)
        seen.append(ours._temperature)
    assert seen == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_an_update_that_was_skipped_leaves_nothing_in_the_centre():
    ours = model()
    ours.before_step(0, 10)
    ours.centre.collect(torch.full((2, 20), float("nan")))
    ours.before_step(1, 10)
    ours.centre.collect(torch.ones(2, 20))
    ours.after_step(1, 10)
    torch.testing.assert_close(ours.centre.mean, torch.full((20,), 0.1))


def test_views_do_not_depend_on_the_batch():
    """What is drawn for a sample is its own: alone or among others, its features are the same."""
    ours = model().eval()
    batch = ssl.training_batch(ours)
    alone = ours.encode({key: value[3:4] for key, value in batch.items()})
    torch.testing.assert_close(alone["student"][0], ours.encode(batch)["student"][3], atol=1e-5, rtol=1e-4)


def test_micro_batches_change_nothing():
    batch = ssl.training_batch(model())
    ssl.same(ssl.update(model(), batch, accumulate=4), ssl.update(model(), batch))


def test_ranks_change_nothing(pool):
    wanted = ssl.update(model(), ssl.training_batch(model()))
    for got in pool.run(ssl.update_on_rank, model, pool.ranks, 8):
        ssl.same(got, wanted)
