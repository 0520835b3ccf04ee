"""CLIP: Learning Transferable Visual Models From Natural Language Supervision.

Alec Radford, Jong Wook Kim, Chris Hallacy, Aditya Ramesh, Gabriel Goh, Sandhini Agarwal, Girish Sastry, Amanda
Askell, Pamela Mishkin, Jack Clark, Gretchen Krueger, Ilya Sutskever. ICML 2021.

An image tower and a text tower are trained from scratch on pairs (image, caption). Each pair's two embeddings are
pulled together and pushed away from all other pairs of the batch: a symmetric cross-entropy over the N x N cosine
similarities, scaled by a learned temperature (figure 3). A classifier for any set of classes then is a set of
captions: the class whose prompts' mean embedding lies nearest to the image's wins (section 3.1).

Symbols: I_e, T_e are the unit-norm embeddings, t the log of the inverse temperature.

Departures. Captions are padded to the longest of the batch instead of to the context length, which changes nothing
because attention is causal. The loss is taken in float32. The preset ``tiny`` is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from oculex.contracts import (
    Arm,
    Batch,
    Claim,
    Data,
    Evaluation,
    Features,
    Optimizer,
    Plugin,
    Recipe,
    Schedule,
    Stage,
    Tuning,
)
from oculex.nn.joint.dual_encoder import PairEncoder, PairEncoderConfig
from oculex.objectives.contrastive import contrastive
from oculex.systems import tiny


@dataclass(frozen=True)
class CLIPConfig(PairEncoderConfig):
    """Crops as in section 2.3, the temperature clipped as in section 2.5."""


class CLIP(PairEncoder):
    """Two towers and a temperature."""

    gathers = ("image", "text")

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return self.embed(batch)

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        return {
            "contrastive": contrastive(
                features["image"],
                features["text"],
                self.log_scale.exp(),
                features.all("image"),
                features.all("text"),
                features.start,
            )
        }


# ------------------------------------------------------------------------------------------------- presets


def _tiny() -> Recipe:
    """64-pixel scenes of the embedded world, minutes on two CPU cores."""
    return Recipe(
        system="clip",
        model=CLIPConfig(**tiny.DUAL, tokenizer="corpus:2048"),
        budget="180s",
        batch=256,
        optimizer=Optimizer(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1, clip_norm=1.0),
        stages=(Stage(schedule=Schedule("cosine", warmup=0.05)),),
        data=Data(sources=(tiny.ONE_OBJECT,)),
    )


def _tiny_vit() -> Recipe:
    """With a vision transformer, which takes longer to learn as much."""
    recipe = _tiny()
    return replace(
        recipe,
        model=CLIPConfig(**{**tiny.DUAL, **tiny.VIT}, tokenizer="corpus:2048"),
        optimizer=replace(recipe.optimizer, lr=2e-3),
        budget="120e3samples",
    )


def _tiny_patches() -> Recipe:
    """A smaller transformer on fewer classes, in a minute or two: what encoders of other modalities begin as."""
    recipe = _tiny_vit()
    return replace(
        recipe,
        model=CLIPConfig(**{**tiny.DUAL, **tiny.FEW_PATCHES}, tokenizer="corpus:2048"),
        batch=128,
        budget="60e3samples",
        data=Data(sources=(tiny.FEW_CONCEPTS,)),
    )


def _tiny_map() -> Recipe:
    """Of as few classes with a residual tower: what images are named and painted by, place by place."""
    recipe = _tiny_patches()
    return replace(recipe, model=CLIPConfig(**{**tiny.DUAL, **tiny.MAP}, tokenizer="corpus:2048"))


def _tiny_pairs() -> Recipe:
    """Of small scenes in which objects stand beside, behind and before each other: what is tuned to read relations."""
    recipe = _tiny()
    return replace(
        recipe,
        model=CLIPConfig(**tiny.SMALL_DUAL, tokenizer="corpus:2048"),
        optimizer=replace(recipe.optimizer, lr=2e-3),
        budget="24e3samples",
        batch=128,
        precision="32-true",
        data=Data(sources=(tiny.TWO_OBJECTS,), workers=0),
        evaluation=Evaluation(tasks=("compositional", "order", "retrieval")),
    )


def _tiny_judge() -> Recipe:
    """Of 32-pixel pictures of few classes, in a minute: how well a drawing fits its text."""
    recipe = _tiny_pairs()
    return replace(
        recipe,
        model=CLIPConfig(**{**tiny.SMALL_DUAL, "embedding": 32}, tokenizer="corpus:2048"),
        data=Data(sources=(tiny.FEW_CONCEPTS,)),
        evaluation=Evaluation(tasks=("zeroshot", "retrieval")),
    )


def _paper(model: CLIPConfig, lr: float, budget: str = "12.8e9samples") -> Recipe:
    """Tables 18 to 20: 32 epochs of 400 million pairs, batches of 32,768, 2,000 steps of warm-up."""
    resnet = model.image_tower == "resnet"
    return Recipe(
        system="clip",
        model=model,
        budget=budget,
        batch=32_768,
        precision="16-mixed",
        optimizer=Optimizer(
            lr=lr, betas=(0.9, 0.999 if resnet else 0.98), eps=1e-8 if resnet else 1e-6, weight_decay=0.2
        ),
        stages=(Stage(schedule=Schedule("cosine", warmup=2000)),),
        data=Data(sources=(), workers=8),
    )


def _resnet(size: int, width: int, layers: tuple[int, ...], embedding: int, text: int) -> CLIPConfig:
    return CLIPConfig(
        image_tower="resnet",
        image_size=size,
        width=width,
        layers=layers,
        heads=width // 2,
        embedding=embedding,
        text_width=text,
        text_heads=text // 64,
    )


def _vit(size: int, patch: int, width: int, layers: int, embedding: int) -> CLIPConfig:
    return CLIPConfig(
        image_size=size,
        patch=patch,
        width=width,
        layers=(layers,),
        heads=width // 64,
        embedding=embedding,
        text_width=embedding,
        text_heads=embedding // 64,
    )


# -------------------------------------------------------------------------------------------------- claims

_SCALE = {
    "evaluation.tasks": ["zeroshot"],
    "evaluation.prompts": "single",
    "evaluation.times": 16,
    "checkpoint.every": 40,
}
"""As in figure 2, the image tower of the preset is a residual one."""
_BUDGET = "30000samples"
_RATES = Tuning(values=(3.75e-4, 7.5e-4, 1.5e-3, 3e-3, 6e-3), on=("world:split=test,seed=1,most=1",))
_FIGURE_2 = (
    Arm("CLIP", "world/zeroshot/top1", set=_SCALE),
    Arm("bag of words prediction", "world/zeroshot/top1", system="caption_bow", set=_SCALE),
    Arm("transformer language model", "world/zeroshot/top1", system="caption_lm", set=_SCALE),
)


def _efficiency(name: str, statement: str, paper: str, control: Arm) -> Claim:
    return Claim(
        name,
        statement,
        paper,
        arms=(_FIGURE_2[0], control),
        treatment="CLIP",
        control=control.name,
        measure="samples_to",
        threshold=0.2,
        compare="ratio",
        at_least=1.0,
        budget=_BUDGET,
        tuning=_RATES,
    )


CLAIMS = (
    _efficiency(
        "contrastive_against_words",
        "Matching captions to images reaches a zero-shot accuracy from fewer samples than predicting their words.",
        "4 times fewer, zero-shot ImageNet (section 2.3, figure 2)",
        _FIGURE_2[1],
    ),
    _efficiency(
        "contrastive_against_captioning",
        "Matching captions to images reaches a zero-shot accuracy from fewer samples than writing the captions.",
        "12 times fewer, zero-shot ImageNet (section 2.3, figure 2: 4 times 3)",
        _FIGURE_2[2],
    ),
    Claim(
        "prompt_ensemble",
        "The mean of many prompts' embeddings classifies better than the one prompt 'a photo of a {}.'.",
        "+3.5 points with 80 prompts, ImageNet (section 3.1.4)",
        arms=(
            Arm("ensemble of 12", "world/zeroshot/top1", set=_SCALE | {"evaluation.prompts": "world"}),
            Arm("single prompt", "world/zeroshot/single_prompt_top1", weights_of="ensemble of 12"),
        ),
        treatment="ensemble of 12",
        control="single prompt",
        budget=_BUDGET,
    ),
)

SYSTEM = Plugin(
    system=CLIP,
    config=CLIPConfig,
    presets={
        "tiny": _tiny,
        "tiny_vit": _tiny_vit,
        "tiny_patches": _tiny_patches,
        "tiny_map": _tiny_map,
        "tiny_pairs": _tiny_pairs,
        "tiny_judge": _tiny_judge,
        "rn50": partial(_paper, _resnet(224, 64, (3, 4, 6, 3), 1024, 512), 5e-4),
        "rn101": partial(_paper, _resnet(224, 64, (3, 4, 23, 3), 512, 512), 5e-4),
        "rn50x4": partial(_paper, _resnet(288, 80, (4, 6, 10, 6), 640, 640), 5e-4),
        "rn50x16": partial(_paper, _resnet(384, 96, (6, 8, 18, 8), 768, 768), 4e-4),
        "rn50x64": partial(_paper, _resnet(448, 128, (3, 15, 36, 10), 1024, 1024), 3.6e-4),
        "vit_b_32": partial(_paper, _vit(224, 32, 768, 12, 512), 5e-4),
        "vit_b_16": partial(_paper, _vit(224, 16, 768, 12, 512), 5e-4),
        "vit_l_14": partial(_paper, _vit(224, 14, 1024, 24, 768), 4e-4),
        # the paper's is vit_l_14 trained for one more epoch at the larger size (section 2.5)
        "vit_l_14_336": partial(_paper, _vit(336, 14, 1024, 24, 768), 2e-5, "4e8samples"),
    },
    claims=CLAIMS,
)
