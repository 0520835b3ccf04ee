"""One CLIP update, oculex against open_clip: same architecture, weights, batch, precision and optimizer."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from oculex import contracts
from oculex.bench.profile import milliseconds, operations
from oculex.bench.rounds import duel, matmul_peak
from oculex.contracts import Batch, UserError
from oculex.data import collate
from oculex.data.assets import RunAssets
from oculex.data.text import clip_tokenizer
from oculex.nn.published import names
from oculex.nn.published.open_clip import model_cfg, rules
from oculex.systems.contrastive.clip import CLIP, CLIPConfig
from oculex.training import optimizers
from oculex.training.step import Trainee, backward
from oculex.world import caption, make_scene

MODEL = CLIPConfig(
    image_size=64, patch=8, width=256, layers=(6,), heads=4, embedding=256, activation="gelu",
    text_width=256, text_layers=6, text_heads=4, context=77, vocabulary=49_408,
)  # fmt: skip
OPTIMIZER = contracts.Optimizer(lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2)
ROWS = 128
TOLERANCE = 1e-3


def run(rounds: int = 10) -> dict[str, Any]:
    """Pairs per second of whole updates, after the check that both sides have the same loss.

    ``of_peak`` counts the operations that our step makes, not those that padding or unread outputs would add.
    """
    load = os.getloadavg()[0]
    fabric = Fabric(accelerator="auto", devices=1, precision="bf16-mixed")
    batch = captioned_batch(ROWS)
    ours, theirs = contestants(fabric, batch)
    losses = ours.update(), theirs.update()
    difference = abs(losses[0] - losses[1])
    if not difference < TOLERANCE:
        raise RuntimeError(f"the losses differ: oculex {losses[0]}, open_clip {losses[1]}")
    result = duel(ours.update, theirs.update, rounds, ROWS, "pairs/s")
    flops, peak = operations(ours.update), matmul_peak(torch.bfloat16, fabric.device)
    lengths = batch["tokens"].lengths
    return result | {
        "of_peak": flops * result["ours"] / ROWS / peak,
        "peak": peak,
        "flops": {"ours": flops, "peer": operations(theirs.update)},
        "loss": {"ours": losses[0], "peer": losses[1], "difference": difference},
        "tokens": {
            "mean": float(lengths.float().mean()),
            **{f"p{q}": int(np.quantile(lengths, q / 100)) for q in (10, 50, 90)},
            "longest": int(lengths.max()),
        },
        "milliseconds": {
            "ours": milliseconds(ours.update, ours.towers),
            "peer": milliseconds(theirs.update, theirs.towers),
        },
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": load,
    }


@dataclass(frozen=True)
class Side:
    update: Callable[[], float]
    """One update of the weights; the loss before it."""
    towers: dict[str, nn.Module]


def contestants(fabric: Fabric, batch: Batch) -> tuple[Side, Side]:
    """oculex and open_clip with the same weights, each with its own way to train on ``batch``."""
    try:
        import open_clip
    except ImportError as error:
        raise UserError("this benchmark compares with open_clip; pip install 'oculex[openclip]'") from error
    mixed = fabric.strategy.precision.precision == "bf16-mixed"
    torch.manual_seed(0)
    system = CLIP(MODEL, RunAssets(None, None))
    peer = open_clip.CLIP(**model_cfg(MODEL), output_dict=True)
    missing, _ = peer.load_state_dict(names.theirs(system.state_dict(), rules(MODEL)), strict=False)
    assert set(missing) <= {"attn_mask"}, missing
    return (
        Side(_ours(fabric, system, batch), {"image tower": system.image, "text tower": system.text}),
        Side(
            _theirs(fabric.device, peer, open_clip.ClipLoss(), batch, mixed),
            {"image tower": peer.visual, "text tower": peer.transformer},
        ),
    )


def captioned_batch(rows: int) -> Batch:
    """uint8 pixels of noise, whose values cost nothing or anything alike, and captions of the world's scenes.

    Those captions are as long as people's: 14.0 tokens in the mean and 28.9 for the longest of 128, against 14.2 and
    29.0 for Flickr8k's (both with start and end, CLIP's vocabulary).
    """
    rng, tokenizer = np.random.default_rng(0), clip_tokenizer()
    texts = [caption(make_scene(0, index), rng) for index in range(rows)]
    pixels = rng.integers(0, 256, (rows, 3, MODEL.image_size, MODEL.image_size), dtype=np.uint8)
    return collate.collate(
        [
            {"image": image, "tokens": tokenizer.encode(text, MODEL.context)}
            for image, text in zip(pixels, texts, strict=True)
        ]
    )


def _ours(fabric: Fabric, system: CLIP, batch: Batch) -> Callable[[], float]:
    """An update as ``oculex train`` makes it."""
    model, optimizer = fabric.setup(
        Trainee(system.train()), optimizers.build(system, OPTIMIZER, contracts.Stage())
    )

    def update() -> float:
        on_device = collate.to(batch, fabric.device)
        optimizer.zero_grad()
        losses = backward(fabric, model, on_device, accumulate=1, seed=0, step=0)
        optimizer.step()
        system.after_step(0, 1)
        return float(losses["loss"])

    return update


def _theirs(
    device: torch.device, model: Any, loss: nn.Module, batch: Batch, mixed: bool
) -> Callable[[], float]:
    """An update as open_clip_train.train_one_epoch makes it with --precision amp_bf16 (or, not ``mixed``, fp32), its
    optimizer as its main does."""
    tokens = batch["tokens"]
    texts = torch.zeros(len(tokens), MODEL.context, dtype=torch.long)
    texts[:, : tokens.values.shape[1]] = tokens.values
    mean, std = (255 * torch.tensor(each).view(3, 1, 1) for each in (MODEL.mean, MODEL.std))
    images = (batch["image"].float() - mean) / std  # its loader's work, which is not timed
    model.to(device).train()
    named = list(model.named_parameters())
    plain = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    decayed = [p for _, p in named if not any(p is q for q in plain)]
    groups = [
        {"params": plain, "weight_decay": 0.0},
        {"params": decayed, "weight_decay": OPTIMIZER.weight_decay},
    ]
    optimizer = torch.optim.AdamW(groups, lr=OPTIMIZER.lr, betas=OPTIMIZER.betas, eps=OPTIMIZER.eps)

    def update() -> float:
        pixels, ids = images.to(device, non_blocking=True), texts.to(device, non_blocking=True)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            total = sum(loss(**model(pixels, ids), output_dict=True).values())
        total.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return float(total.detach())

    return update
