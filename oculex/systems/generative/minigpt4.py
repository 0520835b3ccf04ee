"""MiniGPT-4: Enhancing Vision-Language Understanding with Advanced Large Language Models.

Deyao Zhu, Jun Chen, Xiaoqian Shen, Xiang Li, Mohamed Elhoseiny. 2023 (arXiv 2304.10592).

A frozen image tower, BLIP-2's frozen query transformer and a frozen language model are joined by one linear layer, the
only thing that is trained (section 3). Stage one aligns it on noisy pairs of image and text (3.1); what is then said
repeats itself and breaks off, which stage two cures on a few thousand curated descriptions in a conversation (3.2, 3.3).
The loss is on the description alone.

Departures. Both stages have the conversation's template, which the authors leave out of the first; an answer ends by the
tokenizer's end of text and not by "###". All stages have one batch size, so stage two takes as many samples, not steps.
The published preset's image tower is timm's EVA-CLIP, whose last block BLIP-2 drops, and its Vicuna is 1.1, for v0 is
out as a difference alone; BLIP-2's query transformer is read by ``oculex.nn.connectors.from_blip2``. In ``tiny``, ours,
nobody has pretrained the query transformer: a stage before the paper's two trains it with the linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from oculex.contracts import (
    Assets,
    Data,
    Evaluation,
    Init,
    Optimizer,
    Plugin,
    Recipe,
    Schedule,
    Stage,
    System,
)
from oculex.nn.visual_language import VisualLanguageConfig, VisualLanguageModel
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


def _tiny() -> Recipe:
    """Scenes of the embedded world, minutes on two CPU cores: short captions first, then whole descriptions."""
    model = MiniGPT4Config(
        **tiny.VIT, **tiny.LANGUAGE, queries=8, query_width=128, query_layers=4, query_heads=4
    )
    short, curated = ("world:most=2",), ("world:most=2,style=detailed",)
    return Recipe(
        system="minigpt4",
        model=model,
        budget="240s",
        batch=64,
        optimizer=Optimizer(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, clip_norm=1.0),
        stages=(
            Stage("queries", 0.6, ("connector.*",), schedule=Schedule(warmup=0.05), sources=short),
            Stage("pretrain", 0.2, PROJECTION, schedule=Schedule(warmup=0.05), sources=short),
            Stage("align", 0.2, PROJECTION, schedule=Schedule(warmup=0.05), sources=curated),
        ),
        data=Data(sources=curated),
        evaluation=Evaluation(tasks=("captioning",), limit=500),
    )


def _vicuna_7b() -> Recipe:
    """20,000 steps of 256 pairs, then 4,800 samples of curated descriptions (its train_configs and section 3.2). The data
    are yours to name: ``stages`` takes the sources of each."""
    model = MiniGPT4Config(
        image_tower="eva_giant_patch14_clip_224",
        image_size=224,
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


SYSTEM = Plugin(system=MiniGPT4, config=MiniGPT4Config, presets={"tiny": _tiny, "vicuna_7b": _vicuna_7b})
