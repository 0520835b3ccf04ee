"""A headless Chromium shared by the page tests, and synthetic runs, claims and races for them to show."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oculex.evaluation.records import Table

HOSTILE = "<script>window.owned = 1</script><img src=x onerror='window.owned = 2'>"
COLOURS = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "black"]
SHAPES = [
    "sphere",
    "cube",
    "cylinder",
    "cone",
    "torus",
    "capsule",
    "pyramid",
    "prism",
    "ring",
    "arch",
    "star",
    "wedge",
]
CLASSES = [f"{colour} {shape}" for shape in SHAPES for colour in COLOURS]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def estimate(value: float, half: float, n: int) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - half), "high": value + half, "n": n}


def make_run(path: Path, picture: Callable[[int], np.ndarray] | None = None) -> Path:
    """A run as training and evaluation leave it: 150 s, 120 classes, a gallery with hostile texts."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    _write(path / "recipe.json", RECIPE)
    _write(path / "machine.json", {"oculex": "0.1.0", "torch": "2.11.0", "cores": 2, "gpu": None})
    steps = range(10, 421, 10)
    _write_lines(path / "metrics.jsonl", [_logged(step, rng) for step in steps])
    _write_lines(path / "evaluations.jsonl", [_evaluated(step) for step in range(52, 417, 52)])
    _write_lines(
        path / "skipped.jsonl",
        [{"step": i, "id": f"photo-{i}.jpg", "reason": "truncated JPEG"} for i in range(60)]
        + [{"step": 9, "id": HOSTILE, "reason": "caption is empty"}],
    )
    records(rng).write(path / "records" / "step-000000416.parquet")
    _write(path / "gallery.json", gallery(picture or _noise))
    return path


def records(rng: np.random.Generator, n: int = 2000) -> Table:
    """Zero-shot answers: mostly right, else another colour of the same shape, rarely anything."""
    truth = rng.integers(0, len(CLASSES), n)
    other_colour = truth // 10 * 10 + (truth + rng.choice([1, 1, 1, 9, 5], n)) % 10
    answer = np.where(
        rng.random(n) < 0.58, truth, np.where(rng.random(n) < 0.8, other_colour, rng.integers(0, 120, n))
    )
    silent = rng.random(n) < 0.004
    ids = [f"test-{i}" for i in range(n)]
    return Table.of(
        set="world",
        task="zeroshot",
        item=ids,
        cluster=ids,
        model="0" * 16,
        prompt="ensemble",
        control="",
        output="{}",
        parsed=["" if s else CLASSES[a] for a, s in zip(answer, silent, strict=True)],
        truth=[CLASSES[t] for t in truth],
        score=1.0,
        status=[
            "unparsed" if s else "right" if a == t else "wrong"
            for a, t, s in zip(answer, truth, silent, strict=True)
        ],
    )


def gallery(picture: Callable[[int], np.ndarray]) -> list[dict[str, Any]]:
    from oculex.evaluation.gallery import thumbnail

    def hit(i: int, right: bool = False) -> dict[str, Any]:
        return {"id": f"test-{i}", "image": thumbnail(picture(i)), "right": right}

    texts = ["a large red sphere in front of a small cube", "two cones on a wooden floor", HOSTILE]
    place = {"set": "world", "of": 2000}
    return [
        place
        | {
            "query": text,
            "kind": "text_to_image",
            "hits": [hit(6 * q + k, right=q + k == 1) for k in range(6)],
            "truth": {"id": "test-20", "image": thumbnail(picture(20))},
            "rank": 37,
        }
        for q, text in enumerate(texts)
    ] + [
        place
        | {
            "query": thumbnail(picture(21 + missed)),
            "kind": "image_to_text",
            "hits": [
                {"id": f"c{k}", "text": text, "right": k == missed}
                for k, text in enumerate((texts[0], "a blue torus", "a green capsule behind a pink star"))
            ],
            "truth": {"id": "c0", "text": texts[0]},
            "rank": 1 + missed,
        }
        for missed in (0, 1406)
    ]


def _noise(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 255, (48, 48, 3), np.uint8)


def _logged(step: int, rng: np.random.Generator) -> dict[str, Any]:
    loss = 2.3 + 3.2 * math.exp(-step / 90) + 0.06 * rng.standard_normal()
    return {
        "step": step,
        "samples": 256 * step,
        "loss": loss,
        "loss/contrastive": loss,
        "lr": 1.5e-3 * min(step / 20, 0.5 * (1 + math.cos(math.pi * step / 420))),
        "grad_norm": 2.5 + 12 * math.exp(-step / 30) + 0.4 * rng.random(),
        "scale": 14.3 + 12 * step / 420,
        "samples_per_s": 640 + 30 * rng.standard_normal(),
        "data_wait": 0.01 + 0.012 * rng.random(),
        "seconds": round(step * 150 / 420, 2),
    }


def _evaluated(step: int) -> dict[str, Any]:
    grown = 1 - math.exp(-step / 190)
    return {"step": step, "samples": 256 * step, "seconds": step / 2.8, "metrics": metrics(grown)}


def metrics(grown: float) -> dict[str, dict[str, float]]:
    n = 2000
    return {
        "world/zeroshot/top1": estimate(0.6534 * grown, 0.021, n),
        "world/zeroshot/top5": estimate(0.93 * grown, 0.014, n),
        "world/zeroshot/mean_per_class": estimate(0.648 * grown, 0.022, n),
        "world/zeroshot/unparsed": estimate(0.004, 0.003, n),
        "world/zeroshot/wrong_image_top1": estimate(0.0091, 0.004, n),
        "world/retrieval/image_to_text_r1": estimate(0.312 * grown, 0.02, n),
        "world/retrieval/image_to_text_r5": estimate(0.68 * grown, 0.02, n),
        "world/retrieval/image_to_text_median_rank": {"value": 3.0, "low": 3.0, "high": 4.0, "n": n},
        "world/retrieval/image_to_text_chance_r1": estimate(0.0005, 0.0, n),
        "world/retrieval/text_to_image_r1": estimate(0.287 * grown, 0.013, 3 * n),
        "world/retrieval/text_to_image_r5": estimate(0.651 * grown, 0.013, 3 * n),
        "world/retrieval/text_to_image_chance_r1": estimate(0.0005, 0.0, 3 * n),
        "world/retrieval/mean_recall": estimate(0.51 * grown, 0.015, 3 * n),
    }


RECIPE: dict[str, Any] = {
    "system": "clip",
    "model": {
        "image_tower": "vit",
        "image_size": 64,
        "layers": [4],
        "context": 32,
        "tokenizer": "corpus:2048",
    },
    "preset": "tiny",
    "budget": "150s",
    "batch": 256,
    "stages": [{"name": "pretrain", "share": 1.0, "trainable": ["*"]}],
    "optimizer": {"part": "adamw", "lr": 0.0015, "betas": [0.9, 0.98]},
    "data": {"sources": ["world"], "holdout": 0.1},
    "seed": 0,
}


def claims() -> list[dict[str, Any]]:
    """One of each verdict, in the ledger's form."""

    def curve(top: float, seed: int) -> list[list[float]]:
        return [[s, top * (1 - math.exp(-s / 30_000)) + 0.006 * seed] for s in range(8_000, 100_001, 8_000)]

    base = {"budget": "150s", "seeds": [0, 1, 2], "machine": {"cores": 2, "gpu": None}, "measure": "final"}
    metric = "world/zeroshot/top1"
    return [
        base
        | {
            "name": "augmented_captions",
            "system": "negclip",
            "statement": "Hard negative captions teach word order without costing zero-shot accuracy.",
            "paper": "62 % to 81 % on attribution (Table 2).",
            "arms": {"negclip": estimate(0.655, 0.02, 3), "clip": estimate(0.593, 0.018, 3)},
            "effect": {"value": 0.062, "low": 0.041, "high": 0.083, "n": 3},
            "compare": "difference",
            "treatment": "negclip",
            "control": "clip",
            "verdict": "holds",
            "metrics": {"negclip": metric, "clip": metric},
            "curves": {
                "negclip": [curve(0.66, s) for s in range(3)],
                "clip": [curve(0.6, s) for s in range(3)],
            },
        },
        base
        | {
            "name": "efficiency",
            "system": "clip",
            "statement": "A contrastive objective needs fewer samples than predicting captions.",
            "paper": "4 times fewer (Figure 2).",
            "arms": {
                "contrastive": estimate(31_000, 4_000, 3),
                "caption | words": estimate(48_000, 21_000, 3),
            },
            "effect": {"value": 1.55, "low": 0.82, "high": 2.9, "n": 3},
            "compare": "ratio",
            "treatment": "contrastive",
            "control": "caption | words",
            "at_least": 1.0,
            "measure": "samples_to",
            "threshold": 0.4,
            "unreached": {"caption | words": 1},
            "verdict": "inconclusive",
            "metrics": {"contrastive": metric, "caption | words": metric},
            "curves": {},
        },
        {
            "name": "bare",
            "system": "sit",
            "statement": HOSTILE,
            "paper": "2.1 points better.",
            "arms": {"a": {"value": 0.3, "low": -math.inf, "high": math.inf, "n": 1}},
            "effect": {"value": -0.01, "low": -math.inf, "high": math.inf},
            "verdict": "does not hold at this scale",
            "measure": "final",
            "budget": "",
            "seeds": [0],
            "machine": "2 cores",
            "date": "2026-02-01",
        },
    ]


def difference(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 2000}


def race() -> dict[str, Any]:
    def system(top: float, rate: float, parameters: int) -> dict[str, Any]:
        curve = []
        for k in range(1, 9):
            value = top * (1 - math.exp(-k / 2.5))
            curve.append([22.5 * k, int(22.5 * k * rate), value, value - 0.02, value + 0.02])
        final = estimate(curve[-1][2], 0.02, 2000)
        return {"curve": curve, "final": final, "parameters": parameters, "samples_per_s": rate}

    return {
        "metric": "world/zeroshot/top1",
        "budget": "3m",
        "data": ["world"],
        "seed": 3,
        "less_is_better": False,
        "leader": "clip",
        "ahead": {"negclip": difference(0.014), "tips": difference(0.134)},
        "systems": {
            "clip": system(0.66, 640, 2_130_000),
            "negclip": system(0.645, 410, 2_130_000),
            "tips": system(0.52, 300, 3_400_000),
        },
    }


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
