"""LLaVA: Improved Baselines with Visual Instruction Tuning (LLaVA 1.5).

Haotian Liu, Chunyuan Li, Yuheng Li, Yong Jae Lee. CVPR 2024; after Visual Instruction Tuning, NeurIPS 2023.

Each patch of a frozen image tower becomes a visual token by a two-layer perceptron (section 3.2); the language model
reads them where the image stands in a conversation, and learns the answers alone (equation 3 of the first paper). Stage
one trains the perceptron, stage two the language model with it. It is the plain arm to which other ways of giving a
language model eyes are compared.

Departures. The pictures are square crops; the authors pad them in stage two. Stage one has the conversation's template,
which the authors leave out there. Sequences are packed, which changes no loss. In ``tiny``, ours, the image tower and the
language model are small ones of the embedded world, and the features those of the last block.
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
from oculex.nn.joint.visual_language import VisualLanguageConfig, VisualLanguageModel
from oculex.systems import tiny

VICUNA = (
    "{{ bos_token }}A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. {% for message in messages %}"
    "{% if message.role == 'user' %}USER: {{ message.content }} "
    "{% else %}ASSISTANT: {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""Vicuna 1.5's, which comes with its tokenizer in words alone."""


@dataclass(frozen=True)
class LLaVAConfig(VisualLanguageConfig):
    connector: str = "mlp"


class LLaVA(VisualLanguageModel, System):
    """A language model that reads each patch of an image as a token."""

    @classmethod
    def build(cls, config: LLaVAConfig, assets: Assets) -> LLaVA:
        return cls(config, assets)


# ------------------------------------------------------------------------------------------------- presets

CONNECT = ("connector.*",)
FINETUNE = ("connector.*", "language.*")


def _tiny() -> Recipe:
    """Descriptions of scenes of the embedded world and questions about them, minutes on two CPU cores."""
    scenes = f"{tiny.FEW_CONCEPTS},style=detailed,keys=questions"
    return Recipe(
        system="llava",
        model=LLaVAConfig(**{**tiny.READS, **tiny.SHOWN, "context": 192}),
        budget="12e3samples",
        batch=32,
        precision="32-true",
        optimizer=Optimizer(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, clip_norm=1.0),
        stages=(
            Stage("connect", share=0.2, trainable=CONNECT, schedule=Schedule("cosine", warmup=0.03)),
            Stage("finetune", share=0.8, trainable=FINETUNE, schedule=Schedule("cosine", warmup=0.03)),
        ),
        data=Data(sources=(f"{scenes},scenes=3000",), workers=0),
        evaluation=Evaluation(on=(f"{scenes},split=test,scenes=200",), tasks=("vqa", "pope", "captioning")),
    )


def _llava_7b() -> Recipe:
    """LLaVA 1.5 with Vicuna 7B: 558,128 captioned images by the perceptron alone, then 665,298 conversations by the
    language model too, an epoch of each (its scripts/v1_5). The data are yours to name."""
    model = LLaVAConfig(
        image_size=336,
        patch=14,
        width=1024,
        layers=(24,),
        heads=16,
        blocks_left_out=1,
        language="lmsys/vicuna-7b-v1.5",
        vocabulary=32_000,
        context=2048,
        tokenizer="hub:lmsys/vicuna-7b-v1.5",
        template=VICUNA,
        crop=(1.0, 1.0),
    )
    first, second = 558_128, 665_298
    return Recipe(
        system="llava",
        model=model,
        budget=f"{first + second}samples",
        batch=128,
        strategy="fsdp",
        init=Init("open_clip:ViT-L-14-336-quickgelu/openai"),
        optimizer=Optimizer(lr=2e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, clip_norm=1.0),
        stages=(
            Stage(
                "connect",
                share=first / (first + second),
                trainable=CONNECT,
                lr_scale=(("*", 50.0),),
                schedule=Schedule("cosine", warmup=0.03),
            ),
            Stage(
                "finetune",
                share=second / (first + second),
                trainable=FINETUNE,
                schedule=Schedule("cosine", warmup=0.03),
            ),
        ),
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=("vqa", "pope", "captioning")),
    )


SYSTEM = Plugin(system=LLaVA, config=LLaVAConfig, presets={"tiny": _tiny, "llava_7b": _llava_7b})
