"""DINO against its authors' code; its teacher, centre and schedules; exactness under ranks and micro-batches."""

from colorsys import hsv_to_rgb
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from oculex.contracts import Features
from oculex.data.collate import collate
from oculex.data.multiview import Colours
from oculex.data.order import generator
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


def test_student_teacher_loss_and_centre_are_the_authors(evidence):
    golden = np.load(Path(__file__).parents[1] / "golden" / "dino.npz")
    ours = model(replace(SMALL, unit_prototypes=False))
    ours.load_state_dict(ssl.fixed_weights(ours))
    pixels = (torch.from_numpy(golden["image"]).float() - ours.mean) / ours.std
    student = ours.head(torch.stack([ours.image(view) for view in pixels.unbind(1)], dim=1))
    teacher = ours.teacher.head(
        torch.stack([ours.teacher.image(view) for view in pixels[:, :2].unbind(1)], dim=1)
    )
    ours._temperature = float(golden["temperature"])
    loss = ours.losses(Features({"student": student, "teacher": teacher}), {})["self_distillation"]
    ours.after_step(0, 10)
    got = {"student": student, "teacher": teacher, "loss": loss.mean(), "centre": ours.centre.mean}
    fresh = model(replace(SMALL, unit_prototypes=False))
    fresh.load_state_dict(ssl.fixed_weights(fresh))
    attention, grid = fresh.patch_attention({"image": torch.from_numpy(golden["image"][:, 0])})
    assert grid == (4, 4)
    error = ssl.errors(golden, got | {"attention": attention})
    evidence("dino", "golden", peer=str(golden["provenance"]), max_abs_error=error)


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
def test_parameter_counts_are_the_published_ones(preset, evidence):
    """The backbone's, plus the head's: three layers and 65,536 prototypes, with lengths where they are learnt."""
    width = 384 if "_s_" in preset else 768
    head = width * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 256 + 256 + 65_536 * (256 + ("_s_" in preset))
    count = describe("dino")["presets"][preset]["parameters"]
    assert count == BACKBONES[preset] + head
    evidence("dino", "preset", parameters=count, equals=f"the authors' {preset} and its head")


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


# -------------------------------------------------------------------------------------------------- learning

HUES = 6
JITTER = Colours(jitter=1.0, brightness=0.6, saturation=0.6, hue=0.0, grey=0.0, blur=0.0)
"""All that the pictures of one hue differ by."""
LEARNER = replace(SMALL, width=64, prototypes=64, hidden=64, bottleneck=32, small_crops=2, large_crop=(0.6, 1.0),
                  small_crop=(0.3, 0.6), large_colours=(JITTER, JITTER), small_colours=JITTER,
                  momentum=0.98, still=0.1)  # fmt: skip


def hues(count, seed):
    """Squares of one of six hues, as light, colourful and noisy as it comes."""
    rng, made = np.random.default_rng(seed), []
    for index in range(count):
        rgb = np.array(hsv_to_rgb(index % HUES / HUES, rng.uniform(0.3, 0.8), 1.0))
        light = np.kron(rng.uniform(0.2, 1.0, (4, 4, 1)) * rng.uniform(0.3, 1.0), np.ones((10, 10, 1)))
        pixels = 255 * light * rgb + rng.normal(0, 10, (40, 40, 3))
        made.append({"id": str(index), "image": np.clip(pixels, 0, 255).astype(np.uint8)})
    return made


@torch.no_grad()
def told(ours, pictures):
    """What the teacher's prototypes tell of the hue, as a share of what there is to tell (0 to 1)."""
    outputs = ours.teacher.head(ours.represent_image(collate([ours.view(each, None) for each in pictures])))
    table = np.zeros((HUES, outputs.shape[1]))
    np.add.at(table, (np.arange(len(pictures)) % HUES, (outputs - ours.centre.mean).argmax(dim=1)), 1)
    both = table / table.sum()
    apart = both.sum(axis=1, keepdims=True) * both.sum(axis=0, keepdims=True)
    seen = both > 0
    return float((both[seen] * np.log(both[seen] / apart[seen])).sum() / np.log(HUES))


def trained(config, steps=120):
    torch.set_num_threads(1)
    ours, pictures = model(config), hues(258, 1)
    optimizer = torch.optim.AdamW(ours.parameters(), weight_decay=0.04)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / (0.2 * steps))
        drawn = np.random.default_rng(step).integers(len(pictures), size=32)
        batch = collate([ours.view(pictures[i], generator(step, int(i))) for i in drawn])
        ours.before_step(step, steps)
        optimizer.zero_grad()
        ours.losses(Features(ours.encode(batch)), batch)["self_distillation"].mean().backward()
        torch.nn.utils.clip_grad_norm_(ours.parameters(), 3.0)
        ours.after_backward(step, steps)
        optimizer.step()
        ours.after_step(step, steps)
    return ours.eval()


def test_it_learns_to_tell_what_the_views_share(evidence):
    """Nobody names the hues. Collapse tells nothing; untrained, or trained without a centre, it tells less than half."""
    pictures = hues(240, 2)
    before, after = told(model(LEARNER).eval(), pictures), told(trained(LEARNER), pictures)
    assert after > 0.7
    assert after > before + 0.2
    evidence("dino", "learning", task="6 hues without labels, 120 steps of 32: mutual information of hue and prototype",
             share=after, untrained=before, n=len(pictures))  # fmt: skip
