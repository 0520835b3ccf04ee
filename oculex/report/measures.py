"""How numbers are written for people: what a metric is called, whether it is a share, what chance gives."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TASKS = {
    "zeroshot": "Zero-shot classification",
    "classify": "Classification",
    "retrieval": "Retrieval",
    "knn": "Nearest neighbours",
    "probe": "Linear probe",
    "finetune": "Fine-tuning on few labels",
    "control": "Control, closed loop",
    "imitation": "Imitation of a demonstrator",
    "emergent": "Between modalities",
    "compositional": "Composition",
    "order": "Order of words",
    "matching": "Matching by the fusion encoder",
    "drawing": "Drawing",
    "tokenization": "Image tokenizer",
    "captioning": "Captions",
    "vqa": "Questions about images",
    "pope": "Is it there? (POPE)",
    "segmentation": "Segmentation",
    "detection": "Detection",
    "image_retrieval": "Image retrieval",
    "shifts": "Classification under shifts",
}
DIRECTION = re.compile(r"([a-z]+_to_[a-z]+)_(.+)")
"""How retrieval names its metrics: what asks, what is searched, and the measure."""
SHARES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mean_per_class": "accuracy, mean over classes",
    "unparsed": "without an answer",
    "single_prompt_top1": "top-1, first prompt alone",
    "ensemble_gain": "gained by the prompt ensemble",
    "worst_prompt_top1": "top-1, worst prompt",
    "best_prompt_top1": "top-1, best prompt",
    "prompt_spread": "best minus worst prompt",
    "untrained_top1": "top-1, the same network from fresh weights",
    "gain_over_untrained": "top-1 gained by pretraining",
    "wrong_image_top1": "top-1 shown another image",
    "accuracy": "answers that are right",
    "wrong_image_accuracy": "right, shown another image",
    "no_image_accuracy": "right, shown none",
    "named": "what is shown is named",
    "wrong_image_named": "named, shown another image",
    "whole": "neither broken off nor repetitive",
    "whole_and_named": "neither, and what is shown is named",
    "broken_off": "broken off",
    "repetitive": "repetitive",
    "success": "episodes that succeed",
    "no_image_success": "succeed without seeing",
    "wrong_instruction_success": "succeed told another thing",
    "untrained_success": "succeed untrained",
    "expert_success": "succeed by the expert",
    "random_success": "succeed by random actions",
    "any_thing_success": "succeed by an expert who goes for any thing",
    "objects": "all that the text names is drawn",
    "colour": "in its colour",
    "shape": "in its shape",
    "relation": "as the objects stand",
    "wrong_image_objects": "all that it names, in another text's drawing",
    "real_objects": "all that it names, in the scene itself",
    "repainted_objects": "all that it names, in the scene through the tokenizer",
    "r1": "recall at 1",
    "r5": "recall at 5",
    "r10": "recall at 10",
    "wrong_image_r1": "recall at 1 shown another image",
    "mean_recall": "mean recall",
    "never_paired_r1": "recall at 1, modalities never paired",
    "paired_r1": "recall at 1, modalities with text",
    "never_paired_r10": "recall at 10, modalities never paired",
    "paired_r10": "recall at 10, modalities with text",
}
BY_KIND = ("compositional", "order", "matching")
"""Tasks that name their metrics by the kind of what is asked; each is a share of the answers."""
KINDS = {
    "relation": "relation told from its reverse",
    "attribution": "attributes told from exchanged ones",
    "order": "caption told from other orders of its words",
    "caption": "caption told from another image's",
}
"""Of our own tasks; benchmarks name others."""
ENDINGS = {"_macro": ", mean over groups", "_wrong_image": ", shown another image", "_chance": ", by chance"}
NUMBERS = {
    "median_rank": "median rank",
    "cider": "CIDEr-D",
    "bleu1": "BLEU-1",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "miou": "mean IoU",
    "ap": "average precision",
    "map_at_r": "mean average precision at R",
}
"""What is not in these tables is shown under its own name, as a plain number."""

Estimate = Mapping[str, Any]
"""{value, low, high, n}; a bound that is not known is null or infinite."""


@dataclass(frozen=True)
class Measure:
    """A metric's name, taken apart for a reader."""

    name: str
    set: str
    task: str
    direction: str
    label: str
    share: bool

    @classmethod
    def of(cls, name: str) -> Measure:
        """From "set/task/metric"."""
        *where, metric = name.split("/")
        group, task = "/".join(where[:-1]), where[-1] if where else ""
        parted = DIRECTION.fullmatch(metric)
        direction, rest = parted.groups() if parted else ("", metric)
        known_as = {} if task in BY_KIND else SHARES | NUMBERS
        label = known_as.get(rest) or _of_kind(rest)
        if direction:
            label = f"{direction.replace('_', ' ')}, {label}"
        return cls(name, group, task, direction, label, rest in SHARES or task in BY_KIND)

    @property
    def heading(self) -> str:
        """Of its table: set and task."""
        return " · ".join(filter(None, (self.set, TASKS.get(self.task, self.task))))

    @property
    def title(self) -> str:
        """Where it stands alone."""
        task = TASKS.get(self.task, self.task)
        return f"{task}, {self.label}" if task else self.label

    def text(self, value: float | None) -> str:
        return share(value) if self.share else number(value)

    def span(self, estimate: Estimate) -> str:
        """The interval, its unit once: 58.9 to 63.4 %."""
        return span(estimate.get("low"), estimate.get("high"), self.share)


def _of_kind(metric: str) -> str:
    kind, ending = _parted(metric)
    return KINDS.get(kind, kind.replace("_", " ")) + ENDINGS.get(ending, "")


def _parted(metric: str) -> tuple[str, str]:
    """The kind of what is asked, and what is said of it."""
    ending = next((each for each in ENDINGS if metric.endswith(each)), "")
    return metric.removesuffix(ending), ending


def number(value: float | None) -> str:
    """Three significant digits, thousands apart, a true minus sign."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if abs(value) >= 1e7 or abs(value) < 1e-3:
        return f"{value:.2e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e").replace("-", "−")
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}").replace("-", "−")


def share(value: float | None) -> str:
    return f"{_hundred(value)}\u202f%" if known(value) else "–"


def shade(value: float) -> int:
    """0 to 4, for a cell of a matrix of shares; small ones are told apart best."""
    return min(4, round(4 * max(0.0, value) ** 0.5))


def span(low: float | None, high: float | None, is_share: bool = False) -> str:
    """An interval in words; says so where there is none."""
    if not (known(low) and known(high)):
        return "no interval"
    text = _hundred if is_share else number
    return f"{text(low)} to {text(high)}" + ("\u202f%" if is_share else "")


def known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _hundred(value: float | None) -> str:
    per_cent = 100 * (value or 0.0)
    return f"{per_cent:.{2 if 0 < abs(per_cent) < 1 else 1}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """2 min 30 s; 1 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600:,} h" + (f" {whole % 3600 // 60:02d} min" if whole % 3600 // 60 else "")


def chance(
    measure: Measure, metrics: Mapping[str, Estimate], classes: Mapping[tuple[str, str], int]
) -> float | None:
    """What an answer by chance gives: from the evaluation where it says so, or 1 of the set's classes."""
    where, metric = measure.name.rpartition("/")[::2]
    rest = metric.removeprefix(f"{measure.direction}_")
    for sibling in (
        f"{measure.direction}_chance_{rest}",
        f"chance_{rest}",
        f"{_parted(rest)[0]}_chance",
        "chance",
    ):
        found = metrics.get(f"{where}/{sibling}")
        if found is not None and (sibling != "chance" or rest in ("top1", "accuracy")):
            return found["value"]
    count = classes.get((measure.set, measure.task))
    among = {"top1": 1, "mean_per_class": 1, "top5": 5}.get(rest)
    return min(1.0, among / count) if count and among else None


def untrained(measure: Measure, metrics: Mapping[str, Estimate]) -> float | None:
    """What the same network reaches from fresh weights, where it was asked."""
    where, metric = measure.name.rpartition("/")[::2]
    found = metrics.get(f"{where}/untrained_{metric}")
    return found["value"] if found is not None else None


def is_chance(name: str) -> bool:
    """Whether a metric is what chance gives, and so is shown beside another one."""
    metric = name.rpartition("/")[2]
    return "chance" in metric.split("_")


def headlines(metrics: Mapping[str, Estimate], most: int = 4) -> list[str]:
    """The first metric of each set and task: evaluations name their headline first. Of one that begins with a direction
    the first of each direction."""
    first: dict[tuple[str, str, str], str] = {}
    directed: dict[tuple[str, str], bool] = {}
    for name in metrics:
        m = Measure.of(name)
        if is_chance(name):
            continue
        if directed.setdefault((m.set, m.task), bool(m.direction)) == bool(m.direction):
            first.setdefault((m.set, m.task, m.direction), name)
    return list(first.values())[:most]


def titles(names: Sequence[str]) -> dict[str, str]:
    """What each metric is called where it stands among these: with its set where they are of several."""
    found = {name: Measure.of(name) for name in names}
    several = len({m.set for m in found.values()}) > 1
    return {name: f"{m.set}: {m.title}" if several else m.title for name, m in found.items()}
