"""A system whose embeddings are given, and sources to ask it about, for the other tests of this folder."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from oculex.contracts import (
    BadSample,
    EncodesImages,
    EncodesText,
    RepresentsImages,
    ScoresTexts,
    Source,
    System,
)


class Given(nn.Module, System):
    """Image n has the n-th image vector; a text has the vector of its place in ``texts``, any other text none of them."""

    def __init__(self, images: np.ndarray, texts: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.images = nn.Parameter(torch.as_tensor(images, dtype=torch.float32))
        self.vectors = nn.Parameter(torch.as_tensor(np.stack(list(texts.values())), dtype=torch.float32))
        self.number = {text: n for n, text in enumerate(texts)}
        self.asked = 0

    def view(self, sample, rng):
        assert rng is None
        out = {}
        if "image" in sample:
            out["image"] = sample["image"]
        if "caption" in sample:
            out["text"] = self.number.get(sample["caption"], len(self.number))
        return out

    def _text(self, batch) -> Tensor:
        return torch.cat([self.vectors, torch.zeros_like(self.vectors[:1])])[batch["text"]]

    def _image(self, batch) -> Tensor:
        self.asked += len(batch["image"])
        return self.images[batch["image"].reshape(-1).long()]


class Dual(Given):
    def encode_image(self, batch):
        assert not self.training
        return self._image(batch)

    def encode_text(self, batch):
        return self._text(batch)

    def represent_image(self, batch):
        return self._image(batch)


class Fusion(Given):
    def score_texts(self, images, texts):
        return self._image(images) @ self._text(texts).T


class Listed:
    """Samples by list; ``broken`` indices raise."""

    def __init__(self, samples, classes=(), name="listed", broken=()) -> None:
        self.samples, self.classes, self.name, self.broken = samples, tuple(classes), name, set(broken)

    def fingerprint(self) -> str:
        return f"{self.name}-{len(self.samples)}"

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index):
        if index in self.broken:
            raise BadSample(self.samples[index]["id"], "truncated")
        return self.samples[index]


def image(n: int) -> np.ndarray:
    """A picture that says which one it is."""
    return np.array([[[n]]], np.int32)


def sample(n: int, **more):
    return {"id": f"image-{n:04d}", "image": image(n), **more}


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_fakes_are_what_they_stand_for():
    texts = {"a": np.ones(2), "b": np.zeros(2)}
    dual, fusion = Dual(np.eye(2), texts), Fusion(np.eye(2), texts)
    assert isinstance(dual, EncodesImages)
    assert isinstance(dual, EncodesText)
    assert isinstance(dual, RepresentsImages)
    assert not isinstance(dual, ScoresTexts)
    assert isinstance(fusion, ScoresTexts)
    assert not isinstance(fusion, EncodesImages)
    assert isinstance(Listed([]), Source)
