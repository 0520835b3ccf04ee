"""Accumulation beside open_clip's own: the same model, batch and number of micro-batches."""

from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from oculex.contracts import System
from oculex.objectives.contrastive import contrastive
from oculex.training.step import Trainee, backward

open_clip = pytest.importorskip("open_clip")
peer = pytest.importorskip("open_clip_train.train")

ROWS = 16


def model():
    torch.manual_seed(0)
    vision = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    return open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text, output_dict=True)


def data():
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(ROWS, 3, 16, 16, generator=generator),
        torch.randint(1, 50, (ROWS, 8), generator=generator),
    )


class Loader(list):
    num_samples = ROWS
    num_batches = property(len)


def theirs(accumulate):
    """Gradients after open_clip's train_one_epoch over one update."""
    system, (images, texts) = model(), data()
    args = SimpleNamespace(
        device="cpu", precision="fp32", distill=False, accum_freq=accumulate, skip_scheduler=True, horovod=False,
        grad_clip_norm=None, log_every_n_steps=1, batch_size=ROWS // accumulate, world_size=1, rank=0, wandb=False,
    )  # fmt: skip
    loader = Loader(zip(images.chunk(accumulate), texts.chunk(accumulate), strict=True))
    train = SimpleNamespace(set_epoch=lambda epoch: None, dataloader=loader)
    optimizer = torch.optim.SGD(system.parameters(), lr=0.0)
    peer.train_one_epoch(system, {"train": train}, open_clip.ClipLoss(), 0, optimizer, None, None, None, args)
    return {name: p.grad for name, p in system.named_parameters()}


class Ours(System, nn.Module):
    """open_clip's model in our step."""

    gathers = ("image", "text")

    def __init__(self):
        super().__init__()
        self.model = model()

    def encode(self, batch):
        out = self.model(batch["image"], batch["text"])
        return {"image": out["image_features"], "text": out["text_features"]}

    def losses(self, features, batch):
        return {"contrastive": contrastive(features["image"], features["text"], self.model.logit_scale.exp())}


def ours(accumulate):
    fabric = Fabric(accelerator="cpu", devices=1)
    system, (images, texts) = Ours(), data()
    wrapped = fabric.setup_module(Trainee(system))
    backward(fabric, wrapped, {"image": images, "text": texts}, accumulate=accumulate, seed=0, step=0)
    return {name: p.grad for name, p in system.model.named_parameters()}


def test_open_clips_accumulation_multiplies_the_temperatures_gradient_and_ours_does_not():
    whole, accumulated = theirs(1), theirs(4)
    ratio = float(accumulated["logit_scale"] / whole["logit_scale"])
    assert ratio == pytest.approx(4, rel=1e-4), "open_clip has mended its accumulation; say so in the docs"
    for accumulate in (1, 4):
        got = ours(accumulate)
        assert got.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(
                got[name], gradient, atol=2e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
