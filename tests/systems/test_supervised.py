"""Supervised training: the mix of pictures and labels, the published sizes, and the start from another run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oculex import runs
from oculex.contracts import Features, UserError
from oculex.data.assets import RunAssets
from oculex.data.mixing import draw_mix, mixed, soft_labels
from oculex.data.sources import open_source
from oculex.nn.image.classifier import ClassifierConfig
from oculex.systems.baselines.supervised import Supervised
from oculex.training.folder import read_lines
from tests import toys
from tests.systems import ssl

SMALL = ClassifierConfig(image_size=32, patch=8, width=32, layers=(2,), heads=2, classes=3, drop_path=0.0)
PUBLISHED = {"deit_ti_16": 5_717_416, "deit_s_16": 22_050_664, "deit_b_16": 86_567_656}
TINY = ["model.width=32", "model.layers=[2]", "model.heads=2", "batch=16", "data.sources=[\"world:scenes=64\"]",
        "precision=32-true", "data.workers=0"]  # fmt: skip


def model(config=SMALL):
    torch.manual_seed(0)
    return Supervised(config, RunAssets(None, None))


@pytest.mark.parametrize("preset", PUBLISHED)
def test_parameter_counts_are_the_published_ones(preset):
    assert runs.describe("supervised")["presets"][preset]["parameters"] == PUBLISHED[preset]


def test_a_box_of_the_partner_takes_its_share_of_the_label():
    pixels = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    drawn = torch.tensor([[1.0, 0, 4, 0, 8], [0.75, 0, 0, 0, 0]])
    both, share = mixed(pixels, drawn)
    assert share.tolist() == [0.5, 0.75]
    assert both[0, 0].mean() == 0.5
    assert torch.equal(both[0, :, :4], torch.ones(3, 4, 8))
    torch.testing.assert_close(both[1], torch.full((3, 8, 8), 0.75))
    target = soft_labels(torch.tensor([0, 2]), share, 4, 0.1)
    torch.testing.assert_close(target[0], torch.tensor([0.475, 0.025, 0.475, 0.025]))
    torch.testing.assert_close(target.sum(dim=1), torch.ones(2))


def test_boxes_have_the_area_that_was_drawn():
    rng, areas = np.random.default_rng(0), []
    for _ in range(2000):
        _, top, bottom, left, right = draw_mix(0.0, 1.0, 64, rng)
        assert 0 <= top <= bottom <= 64
        areas.append((bottom - top) * (right - left) / 64**2)
    assert np.mean(areas) == pytest.approx(0.34, abs=0.03)  # 0.5 without what is cut off at the border
    shares = [draw_mix(1.0, 0.0, 64, rng)[0] for _ in range(2000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)


def test_without_mixing_and_smoothing_the_loss_is_cross_entropy():
    ours = model(replace(SMALL, mixup=0.0, cutmix=0.0, smoothing=0.0))
    batch = ssl.training_batch(ours)
    loss = ours.losses(Features(ours.encode(batch)), batch)["classification"]
    wanted = torch.nn.functional.cross_entropy(ours.classify(batch), batch["label"], reduction="none")
    torch.testing.assert_close(loss, wanted)


def test_a_sample_without_a_label_is_named():
    sample = ssl.samples(1)[0]
    del sample["label"]
    with pytest.raises(UserError, match="0: label None is not one of 3 classes"):
        model().view(sample, np.random.default_rng(0))


def test_it_learns_to_name_colours(tmp_path, evidence):
    """With smoothed and mixed labels, as the paper's."""
    small = ["image_size=16", "model.width=32", "model.layers=[1]", "model.heads=2", "mixup=0.8", "cutmix=1.0",
             "batch=32", "optimizer.lr=3e-3", "data.workers=0", "data.holdout=0.25",
             'evaluation.tasks=["classify"]']  # fmt: skip
    run = runs.train("supervised", data=[str(toys.squares(tmp_path))], out=tmp_path / "run", budget="150steps",
                     changes=small, quiet=True)  # fmt: skip
    top1 = list(read_lines(run.evaluations))[-1]["metrics"]["squares.parquet/classify/top1"]
    assert top1["n"] == 60
    assert top1["value"] >= 0.95
    evidence("supervised", "learning", task="naming 8 colours, 150 steps of 32", top1=top1)


def test_micro_batches_of_pairs_change_nothing():
    """Partners are mirrored within a micro-batch, so here the batch is made of mirrored pairs."""
    config = replace(SMALL, mixup=0.0, cutmix=0.0)
    batch = ssl.training_batch(model(config))
    ssl.same(ssl.update(model(config), batch, accumulate=4), ssl.update(model(config), batch))


def test_it_begins_from_another_runs_encoder(tmp_path):
    small = [*TINY, "decoder_width=16", "decoder_layers=1", "decoder_heads=2", "evaluation.tasks=[]"]
    runs.train("mae", out=tmp_path / "mae", budget="2steps", quiet=True, changes=small)
    source = runs.load(tmp_path / "mae")
    start = [*TINY, f"init.run={tmp_path / 'mae'}", "optimizer.lr=0", 'evaluation.tasks=["classify"]']
    folder = runs.train("supervised", out=tmp_path / "tuned", budget="2steps", changes=start, quiet=True)
    tuned = runs.load(folder.path)
    for name, weight in source.image.state_dict().items():
        assert torch.equal(tuned.image.state_dict()[name], weight), name
    assert tuned.classes == len(open_source("world").classes)
    with pytest.raises(UserError, match="is needed for"):
        runs.train(
            "supervised",
            out=tmp_path / "wider",
            budget="2steps",
            changes=[*start, "model.width=64"],
            quiet=True,
        )
    with pytest.raises(UserError, match="no weight here begins with 'nothing'"):
        runs.train("supervised", out=tmp_path / "none", budget="2steps", quiet=True,
                   changes=[*start, 'init.take=[["image.","nothing"]]'])  # fmt: skip
