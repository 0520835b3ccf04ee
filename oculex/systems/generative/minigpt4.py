"""MiniGPT-4: Enhancing Vision-Language Understanding with Advanced Large Language Models.

Deyao Zhu, Jun Chen, Xiaoqian Shen, Xiang Li, Mohamed Elhoseiny. 2023 (arXiv 2304.10592).

A frozen image tower, BLIP-2's frozen query transformer and a frozen language model are joined by one linear layer, the
only thing that is trained (section 3). Stage one aligns it on noisy pairs of image and text (3.1); what is then said
repeats itself and breaks off, which stage two cures on a few thousand curated descriptions in a conversation (3.2, 3.3).
The loss is on the description alone.

Departures. Both stages have the conversation's template, which the authors leave out of the first; an answer ends by the
tokenizer's end of text and not by "###". All stages have one batch size, so stage two takes as many samples, not steps.
The published preset's image tower is timm's EVA-CLIP without its last block and norm, which BLIP-2 leaves out, and its
Vicuna is 1.1, for v0 is out as a difference alone. The preset ``tiny`` is ours, and so is ``tiny_queries``, which stands
for BLIP-2: a query transformer that has learnt to tell a language model what it sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from oculex.contracts import (
    Arm,
    Assets,
    Claim,
    Data,
    Evaluation,
    Init,
    Optimizer,
    Plugin,
    Recipe,
    Schedule,
    Stage,
    System,
    Tuning,
)
from oculex.nn.joint.visual_language import VisualLanguageConfig, VisualLanguageModel
from oculex.systems import tiny

TEMPLATE = (
    "{{ bos_token }}###{% for message in messages %}"
    "{% if message.role == 'user' %}Human: {{ message.content }} "
    "{% else %}###Assistant: {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}###Assistant: {% endif %}"
)
"""Section 3.3."""
INSTRUCTIONS = (
    "Describe this image in detail.",
    "Take a look at this image and describe what you notice.",
    "Please provide a detailed description of the picture.",
    "Could you describe the contents of this image for me?",
)
"""The authors' prompts/alignment.txt."""


@dataclass(frozen=True)
class MiniGPT4Config(VisualLanguageConfig):
    template: str = TEMPLATE
    before_image: str = "<Img>"
    after_image: str = "</Img> "
    instructions: tuple[str, ...] = INSTRUCTIONS
    crop: tuple[float, float] = (0.5, 1.0)


class MiniGPT4(VisualLanguageModel, System):
    """A language model that sees through the few vectors of a query transformer."""

    @classmethod
    def build(cls, config: MiniGPT4Config, assets: Assets) -> MiniGPT4:
        return cls(config, assets)

    def train(self, mode: bool = True) -> MiniGPT4:
        """What is frozen is as in evaluation; the linear layer knows no difference."""
        return super().train(False)


# ------------------------------------------------------------------------------------------------- presets

PROJECTION = ("connector.projection.*",)
NOISY = f"{tiny.FEW_CONCEPTS},style=noisy,scenes=2000"
"""As found on the web: shouted, mistyped, cut off, with what belongs to other pages."""
CURATED = f"{tiny.FEW_CONCEPTS},style=detailed,scenes=300"
HELD_OUT = f"{tiny.FEW_CONCEPTS},style=detailed,keys=questions,split=test,scenes=200"
QUERIES: Mapping[str, Any] = {
    "queries": 8, "query_width": 64, "query_layers": 2, "query_heads": 4, "query_std": 1 / 8,
}  # fmt: skip


def _tiny() -> Recipe:
    """Scenes of the embedded world, minutes on two CPU cores: what the web says of them first, then whole descriptions of
    a few."""
    model = MiniGPT4Config(**tiny.READS, **tiny.SHOWN, **QUERIES, query_foundation="minigpt4:tiny_queries")
    return Recipe(
        system="minigpt4",
        model=model,
        budget="12e3samples",
        batch=32,
        precision="32-true",
        optimizer=Optimizer(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, clip_norm=1.0),
        stages=(
            Stage("pretrain", 0.6, PROJECTION, schedule=Schedule(warmup=0.05), sources=(NOISY,)),
            Stage("align", 0.4, PROJECTION, schedule=Schedule(warmup=0.05), sources=(CURATED,)),
        ),
        data=Data(sources=(CURATED,), workers=0),
        evaluation=Evaluation(on=(HELD_OUT,), tasks=("captioning", "vqa", "pope")),
    )


def _tiny_queries() -> Recipe:
    """BLIP-2's second stage (Li et al. 2023, section 3.3) on the embedded world: query transformer and linear layer learn
    to tell the frozen language model of short captions."""
    recipe = _tiny()
    return replace(
        recipe,
        model=replace(recipe.model, query_foundation=""),
        optimizer=replace(recipe.optimizer, lr=4e-3),
        stages=(Stage("queries", 1.0, ("connector.*",), schedule=Schedule(warmup=0.05)),),
        data=replace(recipe.data, sources=(tiny.FEW_CONCEPTS,)),
        evaluation=replace(recipe.evaluation, on=(HELD_OUT.replace("style=detailed,", ""),)),
    )


def _vicuna_7b() -> Recipe:
    """20,000 steps of 256 pairs, then 4,800 samples of curated descriptions (its train_configs and section 3.2). The data
    are yours to name: ``stages`` takes the sources of each."""
    model = MiniGPT4Config(
        image_tower="eva_giant_patch14_clip_224",
        image_size=224,
        blocks_left_out=1,
        query_foundation="blip2:Salesforce/blip2-flan-t5-xxl",
        language="lmsys/vicuna-7b-v1.1",
        vocabulary=32_000,
        context=2048,
        tokenizer="hub:lmsys/vicuna-7b-v1.1",
    )
    first, second = 20_000 * 256, 400 * 12
    return Recipe(
        system="minigpt4",
        model=model,
        budget=f"{first + second}samples",
        batch=256,
        precision="16-mixed",
        init=Init("timm:eva_giant_patch14_clip_224.laion400m", (("model.", "image.model."),)),
        optimizer=Optimizer(lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
        stages=(
            Stage(
                "pretrain", first / (first + second), PROJECTION, schedule=Schedule(warmup=5000, floor=0.8)
            ),
            Stage(
                "align",
                second / (first + second),
                PROJECTION,
                lr_scale=(("*", 0.3),),
                schedule=Schedule(warmup=0.5, floor=1 / 3),
            ),
        ),
        data=Data(sources=(), workers=4),
        evaluation=Evaluation(tasks=("captioning", "vqa", "pope")),
    )


# -------------------------------------------------------------------------------------------------- claims

_METRIC = "world/captioning/whole_and_named"
_JUDGED = {
    "evaluation.on": [f"{tiny.FEW_CONCEPTS},style=detailed,split=test,seed=2,scenes=500"],
    "evaluation.tasks": ["captioning"],
}
CLAIMS = (
    Claim(
        "second_stage",
        "A second stage on a few curated descriptions cures what a language model says after noisy pairs of breaking "
        "off, while it goes on naming what is shown, though one linear layer is all that is trained.",
        "after the first stage incomplete and repeated sentences are frequent (authors' MiniGPT4_Train.md; abstract)",
        arms=(
            Arm("two stages", _METRIC, set=_JUDGED),
            Arm("noisy pairs in both", _METRIC, set=_JUDGED | {"stages.1.sources": [NOISY]}),
        ),
        treatment="two stages",
        control="noisy pairs in both",
        at_least=0.1,
        tuning=Tuning(values=(5e-3, 1.5e-2), on=(f"{CURATED},split=test,seed=1",)),
    ),
)

SYSTEM = Plugin(
    system=MiniGPT4,
    config=MiniGPT4Config,
    presets={"tiny": _tiny, "tiny_queries": _tiny_queries, "vicuna_7b": _vicuna_7b},
    claims=CLAIMS,
)
