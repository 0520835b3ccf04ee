"""Retrieval between modalities: who takes part, what is counted, and how a perfect and a blind model score."""

import numpy as np
import pytest
import torch
from torch import nn

from oculex.contracts import UserError
from oculex.evaluation.cache import Item
from oculex.evaluation.emergent import TASK, distinct, paired
from oculex.evaluation.protocol import evaluate
from oculex.evaluation.task import EvalSet
from oculex.report import modalities

N = 24


class Scenes:
    """Scene n is the number n as sound and as depth; the last two have an earlier one's caption, or none of the sound."""

    name, classes = "scenes", ()

    def fingerprint(self):
        return "scenes"

    def __len__(self):
        return N + 2

    def __getitem__(self, n):
        told = {"id": f"s{n}", "depth": float(n), "captions": [f"scene {n % N}"]}
        return told if n == N + 1 else told | {"audio": float(n)}


class Knows(nn.Module):
    """Embeds a number as its row of the identity; ``blind`` embeds all sounds alike, ``near`` takes the next sound for
    likelier."""

    modalities = ("audio", "depth", "video")

    def __init__(self, blind=False, near=False):
        super().__init__()
        self.rows, self.blind, self.near = nn.Parameter(torch.eye(N + 2)), blind, near

    def view(self, sample, rng):
        view = {k: sample[k] for k in ("audio", "depth") if k in sample}
        return view | ({"text": float(sample["caption"].split()[1])} if "caption" in sample else {})

    def encode_modality(self, name, batch):
        number = batch[name].long()
        if self.near and name == "audio":
            return 0.6 * self.rows[number] + 0.8 * self.rows[(number + 1) % N]
        return self.rows[number * 0 if self.blind and name == "audio" else number]

    def encode_text(self, batch):
        return self.rows[batch["text"].long()]


def judged(system):
    return evaluate(system, {"scenes": EvalSet("scenes", Scenes())}, tasks=("emergent",))


def test_one_space_finds_everything_and_what_lacks_a_key_is_named():
    found = judged(Knows())
    metrics = {name.removeprefix("scenes/emergent/"): e for name, e in found.metrics.items()}
    kinds = ("audio", "depth", "text")
    pairs = {f"{a}_to_{b}_r{k}" for a in kinds for b in kinds if a != b for k in (1, 10)}
    groups = {f"{name}_r{k}" for name in ("never_paired", "paired") for k in (1, 10)}
    assert set(metrics) == pairs | groups | {f"chance_{name}" for name in (*groups, "r1", "r10")}
    assert all(metrics[name].value == 1.0 and metrics[name].n == N for name in pairs)
    for name in ("chance_never_paired", "chance"):
        assert metrics[f"{name}_r1"].value == pytest.approx(1 / N)
        assert metrics[f"{name}_r10"].value == pytest.approx(10 / N)
    assert next(iter(metrics)) == "never_paired_r1"
    assert [(key, "has no audio" in reason) for _, key, reason in found.skipped] == [(f"s{N + 1}", True)]


def test_a_blind_encoder_finds_nothing():
    metrics = judged(Knows(blind=True)).metrics
    assert metrics["scenes/emergent/audio_to_text_r1"].value == pytest.approx(1 / N)
    assert metrics["scenes/emergent/depth_to_audio_r1"].value == 0.0  # ties count against it
    assert metrics["scenes/emergent/depth_to_audio_r10"].value == 0.0
    assert metrics["scenes/emergent/depth_to_text_r1"].value == 1.0


def test_who_comes_second_counts_among_ten():
    metrics = judged(Knows(near=True)).metrics
    assert metrics["scenes/emergent/audio_to_depth_r1"].value == 0.0
    assert metrics["scenes/emergent/audio_to_depth_r10"].value == 1.0
    assert metrics["scenes/emergent/never_paired_r10"].value == 1.0


def test_only_the_first_of_each_caption_takes_part():
    items = [
        Item("a", None, ("x",)),
        Item("b", None, ("x", "y")),
        Item("c", None, ()),
        Item("d", None, ("y",)),
    ]
    assert distinct(items) == [0, 3]


def test_who_is_asked_and_which_pairs_are_trained():
    assert paired("depth_to_text")
    assert not paired("depth_to_audio")
    assert TASK.refusal(nn.Linear(1, 1), Scenes()[0], EvalSet("s", Scenes()))
    with pytest.raises(UserError, match="no evaluation task"):
        evaluate(Knows(), {}, tasks=("emergence",))


def test_the_report_draws_the_matrix():
    table = judged(Knows(blind=True)).table
    shown = modalities.section([table])
    assert shown["names"] == ["audio", "depth", "text"]
    cells = {
        (row, name): cell
        for row, cells in shown["rows"]
        for name, cell in zip(shown["names"], cells, strict=True)
    }
    assert cells["audio", "audio"] is None
    assert cells["depth", "text"]["value"] == "100.0\u202f%"
    assert cells["depth", "text"]["kind"] == "paired"
    assert cells["depth", "audio"]["kind"] == "unpaired"
    assert modalities.section([table.select(task="retrieval")]) is None
    assert np.isclose(shown["n"], N)
