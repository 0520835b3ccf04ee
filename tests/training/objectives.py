"""A small system for every objective, and for every way in which a system can use the step: all are trained on ``batch``.

A new objective is one class and one line in ``KINDS``.
"""

import torch
from torch import nn
from torch.nn import functional as F

from oculex.contracts import System
from oculex.data.assets import RunAssets
from oculex.data.collate import Ragged
from oculex.objectives.captioning import bag_of_words, next_token, predicted, word_bags
from oculex.objectives.centres import heat_loss
from oculex.objectives.classification import soft_cross_entropy
from oculex.objectives.continual import momentum_contrast, response, soft_words, topology
from oculex.objectives.contrastive import contrastive
from oculex.objectives.distillation import sparse_distillation
from oculex.objectives.grounding import box_loss, centred_loss, word_loss
from oculex.objectives.matching import hard_negatives, matching
from oculex.objectives.reconstruction import hidden_error, squared_error
from oculex.objectives.self_distillation import centred_targets, self_distillation
from oculex.objectives.tokenization import cosine_error, length_error
from oculex.systems.contrastive.clip import CLIP, CLIPConfig

ROWS, WORDS = 16, 11


def batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(ROWS, 6, generator=generator),
        "y": torch.randn(ROWS, 6, generator=generator),
        "hidden": (torch.rand(ROWS, 2, 3, generator=generator) < 0.5).float(),
        "words": Ragged.of([[1 + (i + j) % (WORDS - 1) for j in range(2 + i * i % 7)] for i in range(ROWS)]),
        "image": torch.randint(256, (ROWS, 3, 16, 16), generator=generator, dtype=torch.uint8),
        "tokens": Ragged.of([[1 + (i + j) % 29 for j in range(2 + i * i % 5)] for i in range(ROWS)]),
    }


class Towers(System, nn.Module):
    """Two towers with dropout, and a temperature."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 6))
        self.b = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 6))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.head = nn.Linear(6, WORDS)

    def encode(self, batch):
        return {"a": F.normalize(self.a(batch["x"]), dim=-1), "b": F.normalize(self.b(batch["y"]), dim=-1)}

    def losses(self, features, batch):
        """Uses all parameters."""
        loss = self.loss(features["a"] * self.scale.exp(), features["b"], self.head(features["a"]), batch)
        return {"loss": loss, "rest": self.head(features["b"]).square().mean(-1)}


class Pair(Towers):
    """A loss over the global batch with a head of its own, a whole-batch statistic, features that no loss uses."""

    gathers = ("a", "b")

    def __init__(self, dropout: float) -> None:
        super().__init__(dropout)
        self.head = nn.Linear(6, 6)

    def encode(self, batch):
        encoded = super().encode(batch)
        return encoded | {"unused": encoded["a"] * 2, "number": batch["words"].lengths}

    def losses(self, features, batch):
        truth = torch.arange(features.start, features.start + len(features["a"]))
        rows = F.cross_entropy(
            self.scale.exp() * self.head(features["a"]) @ features.all("b").T, truth, reduction="none"
        ) + F.cross_entropy(
            self.scale.exp() * features["b"] @ self.head(features.all("a")).T, truth, reduction="none"
        )
        return {"contrastive": rows, "spread": features.all("a").var(dim=0).mean()}

    def loss_weights(self):
        return {"spread": 0.5}


class Probe(Pair):
    """The towers stand still; only what the losses use is trained."""

    def __init__(self, dropout: float) -> None:
        super().__init__(dropout)
        self.a.requires_grad_(False)
        self.b.requires_grad_(False)


class Contrastive(Towers):
    gathers = ("a", "b")

    def losses(self, features, batch):
        rest = self.head(features["a"]).square().mean(-1)
        args = (
            features["a"],
            features["b"],
            self.scale.exp(),
            features.all("a"),
            features.all("b"),
            features.start,
        )
        return {"contrastive": contrastive(*args), "rest": rest}


class Negatives(Towers):
    """Pairs of rows, as NegCLIP has them, and texts that fit no image: some rows have none."""

    gathers = ("a", "b", "wrong", "known")

    def encode(self, batch):
        encoded = super().encode(batch)
        known = batch["words"].lengths % 3 > 0
        return encoded | {"wrong": F.normalize(self.b(batch["x"]), dim=-1), "known": known.long()}

    def losses(self, features, batch):
        wrong = features.all("wrong")[features.all("known").bool()]
        args = (
            features["a"],
            features["b"],
            self.scale.exp(),
            features.all("a"),
            features.all("b"),
            features.start,
        )
        rest = self.head(features["a"]).square().mean(-1)
        return {"contrastive": contrastive(*args, wrong=wrong), "rest": rest}


class Continual(Towers):
    """Rows against those that another model sees: its own vectors as momentum's, and as the previous model's."""

    gathers = ("a", "b", "old_a", "old_b")

    def encode(self, batch):
        old = {"old_a": F.normalize(batch["x"], dim=-1), "old_b": F.normalize(batch["y"], dim=-1)}
        return super().encode(batch) | old

    def losses(self, features, batch):
        a, b, old_a, old_b = (features[name] for name in self.gathers)
        all_a, all_b, all_old_a, all_old_b = (features.all(name) for name in self.gathers)
        scale, queue = self.scale.exp(), F.normalize(torch.arange(24.0).view(4, 6) - 11, dim=-1)
        logits = self.head(a)
        return {
            "momentum": momentum_contrast(a, b, scale, all_old_a, all_old_b, queue, -queue, features.start),
            "across": topology(a, all_b, old_a, all_old_b, scale),
            "within": topology(a, all_a, old_a, all_old_a, scale, features.start),
            "response": response(b, old_b, scale),
            "words": soft_words(logits, torch.zeros_like(logits)),
        }


class Matching(Towers):
    """Hard negatives of the global batch, drawn by numbers that belong to the rows."""

    gathers = ("a", "b")

    def encode(self, batch):
        return super().encode(batch) | {"draw": (batch["x"][:, 0] * 7.3) % 1}

    def losses(self, features, batch):
        a, b, every = features["a"], features["b"], features.all("b")
        truth = torch.arange(features.start, features.start + len(a))
        others = every[hard_negatives(a, every.detach(), self.scale.exp(), truth, features["draw"])]

        def pairs(one, two):
            return self.head(one * two)[:, :2] * self.scale

        return {"matching": matching(pairs(a, b), pairs(a, others), pairs(others, b))}


class Boxes(Towers):
    """Means over positions of which rows have different numbers."""

    gathers = ("count",)

    def encode(self, batch):
        return super().encode(batch) | {"count": (batch["hidden"].sum((1, 2))).float()}

    def losses(self, features, batch):
        a, hidden = features["a"], batch["hidden"]
        counted = len(features.all("count")) / features.all("count").sum()
        corner = a[:, :2].sigmoid()
        found = torch.cat([corner, corner + 1 + a[:, 2:4].sigmoid()], dim=1) * 9
        true = torch.tensor([2.0, 3.0, 11.0, 12.0]).expand_as(found)
        seen = torch.ones(len(a), 3, dtype=torch.bool)
        words = word_loss(features["b"].view(-1, 2, 3), hidden.bool(), seen)
        return {
            "words": words * counted,
            "boxes": box_loss(found, true, hidden.sum((1, 2))) * counted,
            "centred": centred_loss(self.head(a)[:, 0] * self.scale, corner[:, 0].detach()),
        }


class Centres(Towers):
    """Means over objects of which rows have different numbers, and of which each row's own count."""

    def loss(self, a, b, logits, batch):
        return heat_loss(a.view(-1, 2, 1, 3), batch["hidden"][:, :, None]) + (b * logits[:, :6]).sum(-1)


class BagOfWords(Towers):
    def loss(self, a, b, logits, batch):
        return bag_of_words(logits, word_bags(batch["words"], WORDS)) + (a * b).sum(-1)


class NextToken(System, nn.Module):
    """A loss over a varying number of items per row."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 6)
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(6, WORDS))

    def losses(self, features, batch):
        words = batch["words"]
        kept = predicted(words)
        return {
            "words": next_token(self.out(self.table(words.values[:, :-1]))[kept], words.values[:, 1:][kept])
        }

    def items(self, batch):
        return {"words": int((batch["words"].lengths - 1).sum())}


class SoftCrossEntropy(Towers):
    def loss(self, a, b, logits, batch):
        return soft_cross_entropy(logits, F.one_hot(batch["words"].lengths, WORDS).float()) + (a * b).sum(-1)


class SparseDistillation(Towers):
    def loss(self, a, b, logits, batch):
        first = batch["words"].lengths % WORDS
        classes = torch.stack([first, (first + 1) % WORDS], dim=1)
        known = torch.tensor([[0.6, 0.3]]).expand(len(first), 2)
        return sparse_distillation(logits, classes, known) + (a * b).sum(-1)


class SquaredError(Towers):
    def loss(self, a, b, logits, batch):
        return squared_error(a.view(-1, 2, 3), b.view(-1, 2, 3)).mean(-1)


class HiddenError(Towers):
    def loss(self, a, b, logits, batch):
        return hidden_error(a.view(-1, 2, 3), b.view(-1, 2, 3), batch["hidden"])

    def items(self, batch):
        return {"loss": int(batch["hidden"].sum())}


class SelfDistillation(Towers):
    def loss(self, a, b, logits, batch):
        targets = centred_targets(a.view(-1, 2, 3).detach(), torch.zeros(3), 0.1)
        student = torch.stack([a, b], dim=1).view(-1, 4, 3)
        return self_distillation(student, targets, 0.2)


class Tokenization(Towers):
    """Features given back by cosine, and a share of kept ones."""

    def losses(self, features, batch):
        back = (features["b"] + self.scale).view(-1, 2, 3)
        kept = self.head(features["a"]).sigmoid()
        return {"back": cosine_error(back, batch["x"].view(-1, 2, 3)), "length": length_error(kept, 1 / 3)}


class Normed(Pair):
    """BatchNorm in a tower, in the head, and in a part that is frozen in evaluation mode."""

    def __init__(self, dropout: float) -> None:
        super().__init__(dropout)
        self.a = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 6))
        self.b = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 6))


class Blocks(CLIP):
    """CLIP itself, small: transformer blocks, which FSDP shards one by one."""

    def __init__(self, dropout: float) -> None:
        config = CLIPConfig(
            image_size=16, patch=8, width=16, layers=(2,), heads=2, embedding=8, vocabulary=30, tokenizer="none",
            text_width=16, text_layers=1, text_heads=2, context=8, patch_dropout=0.5 if dropout else 0.0,
        )  # fmt: skip
        super().__init__(config, RunAssets(None, None))


KINDS = [
    Pair, Probe, Blocks, Contrastive, Negatives, Continual, BagOfWords, NextToken, SoftCrossEntropy, SquaredError,
    HiddenError, SelfDistillation, SparseDistillation, Tokenization, Matching, Boxes, Centres,
]  # fmt: skip
"""Those whose losses and gradients do not depend on how a batch is cut."""


def make(kind, dropout=0.0):
    torch.manual_seed(5)
    return kind(dropout), batch()
