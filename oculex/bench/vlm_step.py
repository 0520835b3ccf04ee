"""One update of a LLaVA, oculex against transformers: same weights, conversations, precision and optimizer.

What differs is how sequences of different lengths share a batch. Transformers' side is what its users run,
``LlavaForConditionalGeneration`` on sequences padded to the longest; ours lays them one after the other, and
asks for words only where an answer is learnt (``oculex.nn.joint.multimodal``). Both train connector and language model
and leave the image tower as it is, as LLaVA's second stage does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from oculex import contracts
from oculex.bench.profile import operations
from oculex.bench.rounds import duel, matmul_peak
from oculex.contracts import Batch
from oculex.data import collate
from oculex.data.assets import RunAssets
from oculex.data.order import generator
from oculex.data.sources import open_source
from oculex.data.views import captions
from oculex.export.llava import counterpart
from oculex.systems.baselines.llava import FINETUNE, LLaVA, LLaVAConfig
from oculex.training import optimizers
from oculex.training.step import Trainee, backward

MODEL = LLaVAConfig(
    image_size=96, patch=8, width=256, layers=(4,), heads=4, activation="gelu", language="llama", language_width=256,
    language_layers=6, language_heads=4, context=768, vocabulary=2049, tokenizer="corpus:2048",
)  # fmt: skip
OPTIMIZER = contracts.Optimizer(lr=2e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
TRAINED = contracts.Stage(trainable=FINETUNE)
ROWS = 16
TURNS = 16
"""Most questions and answers of a conversation."""
SCENES = "world:style=detailed,keys=questions,size=8"
TOLERANCE = 5e-3
IGNORED = -100
"""What transformers takes for a token that is not learnt."""


def run(rounds: int = 8) -> dict[str, Any]:
    """Samples per second of whole updates, after the check that both sides have the same loss.

    ``of_peak`` counts the operations that our step makes, not those that padding would add.
    """
    load = os.getloadavg()[0]
    fabric = Fabric(accelerator="auto", devices=1, precision="bf16-mixed")
    ours, theirs, batch = contestants(fabric, MODEL, ROWS)
    losses = ours(), theirs()
    difference = abs(losses[0] - losses[1])
    if not difference < TOLERANCE:
        raise RuntimeError(f"the losses differ: oculex {losses[0]}, transformers {losses[1]}")
    result = duel(ours, theirs, rounds, ROWS, "samples/s")
    flops, peak = operations(ours), matmul_peak(torch.bfloat16, fabric.device)
    return result | {
        "of_peak": flops * result["ours"] / ROWS / peak,
        "peak": peak,
        "flops": {"ours": flops, "peer": operations(theirs)},
        "loss": {"ours": losses[0], "peer": losses[1], "difference": difference},
        "tokens": sizes(batch),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": load,
    }


def sizes(batch: Batch) -> dict[str, int]:
    """Tokens of a batch: its own, which we compute, visual ones among them, those that are learnt, and what transformers
    computes."""
    lengths = batch["tokens"].lengths
    return {
        "own": int(lengths.sum()),
        "visual": int(batch["visual"].values.sum()),
        "learnt": int(batch["trained"].values.sum()),
        "longest": int(lengths.max()),
        "padded": lengths.numel() * int(lengths.max()),
    }


def contestants(
    fabric: Fabric, config: LLaVAConfig, rows: int
) -> tuple[Callable[[], float], Callable[[], float], Batch]:
    """An update of each, which gives the loss before it, and the batch of conversations that both are made on."""
    scenes: Any = open_source(f"{SCENES},scenes={4 * rows}")
    samples = [scenes[index] for index in range(len(scenes))]
    assets = RunAssets(None, lambda: [text for sample in samples for text in _texts(sample)])
    torch.manual_seed(0)
    system = LLaVA(config, assets)
    tokenizer = assets.tokenizer(config.tokenizer)
    place = config.vocabulary - 1  # beyond the tokenizer's: in its place transformers puts a visual token
    peer = counterpart(system, tokenizer, place)
    views = [system.view(_asked(samples, config, n), generator(0, n)) for n in range(rows)]
    batch = collate.collate(views)
    return _ours(fabric, system, batch), _theirs(fabric, peer, system, batch, place), batch


def _texts(sample: Any) -> list[str]:
    asked = [each[key] for each in sample.get("questions") or () for key in ("question", "answer")]
    return [*captions(sample), *asked]


def _asked(samples: Sequence[Any], config: LLaVAConfig, index: int) -> Any:
    """A picture with 1 to ``TURNS`` questions, few more often than many (the logarithm is uniform): LLaVA's mixture asks
    one thing of some pictures, and of others all that was ever asked of them in one conversation. The questions are
    those of scenes one after the other; the picture is noise, whose values cost nothing or anything alike."""
    rng, side = generator(1, index), config.image_size
    following = (samples[n % len(samples)] for n in range(index, index + len(samples)))
    questions = (each for sample in following for each in sample.get("questions") or ())
    return samples[index] | {
        "image": rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
        "questions": list(islice(questions, round(TURNS ** rng.random()))),
    }


def _ours(fabric: Fabric, system: LLaVA, batch: Batch) -> Callable[[], float]:
    """An update as ``oculex train`` makes it."""
    model, optimizer = fabric.setup(Trainee(system.train()), optimizers.build(system, OPTIMIZER, TRAINED))

    def update() -> float:
        on_device = collate.to(batch, fabric.device)
        optimizer.zero_grad()
        losses = backward(fabric, model, on_device, accumulate=1, seed=0, step=0)
        optimizer.step()
        return float(losses["loss"])

    return update


def _theirs(fabric: Fabric, model: Any, system: LLaVA, batch: Batch, place: int) -> Callable[[], float]:
    """An update as transformers' trainer makes it of what its collator gives: padded on the right, with a mask."""
    text, visual, trained = batch["tokens"], batch["visual"].values.bool(), batch["trained"].values.bool()
    columns = torch.arange(text.values.shape[1])
    mask = (columns < text.lengths[:, None]).long()
    ids = text.values.masked_fill(visual, place)
    labels = text.values.masked_fill(~trained, IGNORED)
    pixels = (
        batch["image"].float() - system.mean.cpu()
    ) / system.std.cpu()  # its processor's work, not timed
    device = fabric.device
    model.to(device).train()
    model.model.vision_tower.requires_grad_(False)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=OPTIMIZER.lr, betas=OPTIMIZER.betas, eps=OPTIMIZER.eps, weight_decay=0.0, fused=True
    )
    mixed = fabric.strategy.precision.precision == "bf16-mixed"

    def update() -> float:
        given = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "labels": labels}
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            loss = model(**{name: value.to(device) for name, value in given.items()}, use_cache=False).loss
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return update


SMALL = replace(
    MODEL, image_size=16, width=32, layers=(1,), heads=2, language_width=32, language_layers=2, language_heads=2,
    vocabulary=513, tokenizer="corpus:512",
)  # fmt: skip
"""Sizes for tests."""
