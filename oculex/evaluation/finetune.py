"""Fine-tuning on few labels: what pretraining gave, told from what the same network learns without it.

The encoder and a linear classifier on its features are trained on ``shots`` labelled images of each class of the
training part, and asked about the held-out images. Methods that learn by reconstruction are judged in this way (He et
al., MAE, 2022, section 4; Atito et al., GMML, 2023), since their features are no clusters yet. The same images, in the
same order and under the same crops, tune the same network from fresh weights too: this is the control "untrained", and
``gain_over_untrained`` is the difference, item by item.

The recipe is that of MAE (table 9) with fewer updates: AdamW, warm-up and half a cosine, smoothed labels, random crops,
mirrored or not. It is the same for every system and both beginnings, whatever the size of the data. Learning rates that
fall towards the input are left out: they keep what was pretrained, and so would hold back the network that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR

from oculex.contracts import BadSample, Batch, RepresentsImages, Sample, Source, UserError
from oculex.data.collate import collate, to
from oculex.data.multiview import crops
from oculex.data.order import Order, Permutation, generator, mix
from oculex.evaluation import classification
from oculex.evaluation.compute import AUTOCAST
from oculex.evaluation.measures import Statistic, contrast, mean
from oculex.evaluation.records import Table, concat
from oculex.evaluation.task import Context, Task
from oculex.nn.memory.teacher import Teacher

NAME = "finetune"
UNTRAINED = "untrained"
_CHOSEN, _ORDER, _CROP, _HEAD, _DROPPED = range(0xF1, 0xF6)


@dataclass(frozen=True)
class Settings:
    """How it is tuned. The cost follows from ``updates`` and ``batch`` alone, however large the data is."""

    shots: int = 10
    """Labelled images of each class; of a class that has fewer, all."""
    updates: int = 600
    batch: int = 16
    lr: float = 1e-3
    """Of a network of ``WIDTH`` features; of a wider one less in proportion (Yang et al., Tensor Programs V, 2022)."""
    warmup: float = 0.1
    """Share of the updates."""
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    smoothing: float = 0.1
    crop: tuple[float, float] = (0.6, 1.0)
    """Area of a crop, as a share of the picture."""
    seed: int = 0
    """Of the images that are chosen, their order, their crops, and the classifier's first weights."""


SETTINGS = Settings()
WIDTH = 64


class Tuned(nn.Module):
    """A copy of a system, whose features a linear classifier reads."""

    def __init__(self, system: Any, classes: int, width: int, seed: int) -> None:
        super().__init__()
        self.system = deepcopy(system)
        for module in self.system.modules():
            if isinstance(module, Teacher):
                module.release()
        self.system.requires_grad_(True)
        self.head = nn.Linear(width, classes)
        drawn = torch.Generator().manual_seed(seed)
        nn.init.trunc_normal_(self.head.weight, std=0.02, generator=drawn)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, classes]."""
        return self.head(self.system.represent_image(batch))


@dataclass(frozen=True)
class Example:
    """A labelled image and its evaluation view."""

    sample: Sample
    view: dict[str, Any]

    @property
    def label(self) -> int:
        return int(self.sample["label"])

    def cropped(self, rng: np.random.Generator, scale: tuple[float, float]) -> dict[str, Any]:
        """The view with a random crop, mirrored or not, in place of the centre."""
        return {**self.view, "image": crops(self.sample, rng, self.view["image"].shape[-1], scale)[0]}


def few(train: Source, view: Any, settings: Settings) -> list[Example]:
    """``shots`` readable samples of each class, the first in a permutation of the source.

    Raises UserError for a sample whose label is none of the source's classes.
    """
    left = dict.fromkeys(range(len(train.classes)), settings.shots)
    permuted, found = Permutation(len(train), settings.seed, _CHOSEN), []
    for place in range(len(train)):
        if not any(left.values()):
            break
        try:
            sample = train[permuted(place)]
            label = sample.get("label")
            if label not in left:
                raise UserError(
                    f"{train.name}: sample {sample['id']} has label {label}, not 0..{len(left) - 1}"
                )
            if left[label]:
                found.append(Example(sample, view({"id": sample["id"], "image": sample["image"]}, None)))
                left[label] -= 1
        except BadSample:
            continue  # what cannot be read is no labelled image; another one of its class is taken
    return found


def batches(examples: Sequence[Example], settings: Settings) -> Iterator[tuple[Batch, Tensor]]:
    """Crops and labels of each update."""
    order = Order([len(examples)], None, mix(settings.seed, _ORDER))
    for update in range(settings.updates):
        positions = range(update * settings.batch, (update + 1) * settings.batch)
        drawn = [
            (examples[order.at(position)[1]], generator(settings.seed, _CROP, position))
            for position in positions
        ]
        views = [example.cropped(rng, settings.crop) for example, rng in drawn]
        yield collate(views), torch.tensor([example.label for example, _ in drawn])


@torch.inference_mode(False)
@torch.enable_grad()
def tune(
    system: Any,
    examples: Sequence[Example],
    classes: int,
    precision: str = "32-true",
    settings: Settings = SETTINGS,
) -> Tuned:
    """A tuned copy of a system, in evaluation mode, on the system's device.

    The system is left as it was, and so is torch's generator.
    """
    device, dtype = next(system.parameters()).device, AUTOCAST[precision]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(mix(settings.seed, _DROPPED))
        seen = to(collate([examples[0].view]), device)
        with torch.autocast(device.type, enabled=False):
            with torch.no_grad():
                width = system.represent_image(seen).shape[1]
            model = Tuned(system, classes, width, mix(settings.seed, _HEAD)).to(device).eval()
            model(seen).sum().backward()  # tells on which weights the features depend
        optimizer = _optimizer(model, settings)
        schedule = OneCycleLR(
            optimizer,
            settings.lr * min(1.0, WIDTH / width),
            settings.updates + 1,
            pct_start=settings.warmup,
            cycle_momentum=False,
        )
        model.train()
        for batch, labels in batches(examples, settings):
            # without the cache: inside an evaluation's own autocast it would keep the weights of the first update
            with torch.autocast(device.type, dtype, enabled=dtype is not None, cache_enabled=False):
                logits = model(to(batch, device)).float()
            loss = cross_entropy(logits, labels.to(device), label_smoothing=settings.smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def _optimizer(model: Tuned, settings: Settings) -> torch.optim.Optimizer:
    """Over the weights that have a gradient; gains and biases are not decayed."""
    reached = [parameter for parameter in model.parameters() if parameter.grad is not None]
    groups = [
        {"params": [p for p in reached if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in reached if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=settings.betas)


def run(system: Any, source: Source, context: Context) -> Table:
    train, embedder = context.train, context.embedder
    if train is None or train.classes != source.classes:
        raise UserError(f"{context.set}: the training part names other classes than the test part")
    examples = few(train, system.view, SETTINGS)
    if not examples:
        return Table.empty()

    def tuned(begin: Any) -> Tuned:
        return tune(begin, examples, len(source.classes), embedder.computing.precision, SETTINGS)

    begun: dict[str, Callable[[], Tuned]] = {"": lambda: tuned(system.to(embedder.device))}
    if (fresh := context.untrained) is not None:
        begun[UNTRAINED] = lambda: fresh.once(
            train.fingerprint(), system, lambda begun: tuned(begun.to(embedder.device))
        )
    tables = []
    for control, begin in begun.items():
        found = embedder.asked_of(begin, f"{NAME}:{control}", repr(SETTINGS) + train.fingerprint(), source)
        if not found.items:
            return Table.empty()
        truth = classification.labels(found.items, source)
        scores = torch.from_numpy(found.values)
        tables.append(
            classification.answers(
                scores, found.items, truth, source.classes, context, NAME, control=control,
                extra={"labelled": len(examples)},
            )
        )  # fmt: skip
    return concat(tables)


def statistics(table: Table) -> dict[str, Statistic]:
    """Those of a classification; where the control was asked, top1 from fresh weights and what was gained over it."""
    own, fresh = table.where(control=""), table.where(control=UNTRAINED)
    found = classification.statistics(table, own)
    if len(fresh):
        without = mean(classification.right(table, fresh), fresh)
        found |= {f"{UNTRAINED}_top1": without, f"gain_over_{UNTRAINED}": contrast(found["top1"], without)}
    return found


TASK = Task(
    name=NAME,
    needs=(("image",), ("label",)),
    capabilities=((RepresentsImages,),),
    run=run,
    statistics=statistics,
    trains=True,
    classifies=True,
    named_only=True,
)
