"""ProVision: Programmatically Scaling Vision-centric Instruction Data for Multimodal Language Models.

Jieyu Zhang, Le Xue, Linxin Song, Jun Wang, Weikai Huang, Manli Shu, An Yan, Zixian Ma, Juan Carlos Niebles, Silvio
Savarese, Caiming Xiong, Zeyuan Chen, Ranjay Krishna, Ran Xu. 2024 (arXiv 2412.07012).

Questions about pictures are not asked of a language model but written by programs that read scene graphs: objects
with boxes, attributes and relations, with depth and segments where there are any. 24 generators ask about one
picture, 14 about several together (abstract). Each picture gets questions of each generator, of which those about
rare objects, attributes and relations are drawn more often; each is put into one of many phrasings, with a short
answer or as a choice. A model that reads pictures is then tuned on them beside what it is tuned on anyhow.

The generators are in ``oculex.data.graphs``; the data that comes of them is written down by `oculex curate
provision`, or made as it is trained on: ``made:provision,generators=depth+relation,most=4:SOURCE``. The model is
LLaVA 1.5's, whose images are squeezed whole into their squares, so that places told as shares of width and height are
where they are said to be.

Departures. Phrasings are ours. Which nouns are counted and what kind of thing an attribute tells follow small tables
and rules of ours. Not asked here, because more than one answer would be right: how many have some attributes where
others have these and more; which of two points is nearer where ten draws show no clear difference; and, of three
pictures and more, which one lacks a thing with an attribute where others lack the thing. A description means all that
it fits in the picture, the authors' what it fits among the things that are related to each other. Larger depth is
farther for points as for objects; their points' generators read the maps the other way round. What is rare is counted
in the graphs, not in the questions, and wrong relations and attributes are those of the source's graphs. Their
sentences that are no questions, and captions of graphs, are left out. The shares that the paper mixes by were not
read: that of ``tiny`` is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from oculex.contracts import (
    Arm,
    Assets,
    Claim,
    Data,
    Evaluation,
    Optimizer,
    Plugin,
    Recipe,
    Schedule,
    Stage,
    System,
    Tuning,
)
from oculex.data.graphs.instructions import Instructions
from oculex.nn.joint.several_images import SeveralImagesConfig, SeveralImagesModel
from oculex.systems import tiny
from oculex.systems.baselines.llava import CONNECT, FINETUNE
from oculex.systems.baselines.llava import SYSTEM as LLAVA

# -------------------------------------------------------------------------------------------------- system


@dataclass(frozen=True)
class ProVisionConfig(SeveralImagesConfig):
    connector: str = "mlp"


class ProVision(SeveralImagesModel, System):
    """A language model that reads one picture or several, and learns to answer what is asked about them."""

    @classmethod
    def build(cls, config: ProVisionConfig, assets: Assets) -> ProVision:
        return cls(config, assets)


# ------------------------------------------------------------------------------------------------- presets

SCENES = "world:most=3,part=1/9,scenes=2000"
BASE = f"{SCENES},style=detailed,keys=questions"
"""What a model is tuned on anyhow: descriptions of scenes, and questions about them."""
MADE = f"made:provision,most=3:{SCENES},keys=graph+depth+instances"
"""The same scenes with what the programs ask about them."""
ASKED = "world:most=3,part=1/9,keys=questions,split=test"


SEES = {**tiny.READS, **tiny.MAP, "vision_foundation": "clip:tiny_map", **tiny.SHOWN, "context": 256}
"""A tower that tells what is where, so that of several objects the one that is asked about can be looked at."""


def _tiny() -> Recipe:
    """Scenes of the embedded world, minutes on two CPU cores: half of what is seen is asked by programs."""
    return Recipe(
        system="provision",
        model=ProVisionConfig(**SEES),
        budget="24e3samples",
        batch=16,
        precision="32-true",
        optimizer=Optimizer(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, clip_norm=1.0),
        stages=(
            Stage("connect", share=0.2, trainable=CONNECT, schedule=Schedule("cosine", warmup=0.03)),
            Stage("finetune", share=0.8, trainable=FINETUNE, schedule=Schedule("cosine", warmup=0.03)),
        ),
        data=Data(sources=(f"{BASE}@1", f"{MADE}@1")),
        evaluation=Evaluation(on=(f"{ASKED},scenes=200",), tasks=("vqa", "pope")),
    )


def _tiny_pairs() -> Recipe:
    """Two pictures at a time."""
    recipe = _tiny()
    return replace(
        recipe,
        model=replace(recipe.model, images=2),
        data=Data(sources=(MADE.replace("most=3:", "images=2,most=3:"),)),
    )


def _llava_7b() -> Recipe:
    """LLaVA 1.5 7B, with what `oculex curate` made among what it is tuned on. The data are yours to name."""
    recipe = LLAVA.presets["llava_7b"]()
    known = {field.name for field in fields(ProVisionConfig)}
    of_theirs = {name: value for name, value in vars(recipe.model).items() if name in known}
    return replace(
        recipe,
        system="provision",
        model=ProVisionConfig(**of_theirs | {"crop": ProVisionConfig.crop}),
        evaluation=Evaluation(tasks=("vqa", "pope")),
    )


# -------------------------------------------------------------------------------------------------- claims

_METRIC = "world/vqa/gain_over_wrong_image"
"""Accuracy less that of the same model before another picture: what it has learnt to see. Without a picture a model may
answer worse for no other reason than that it has never been asked so."""
CLAIMS = (
    Claim(
        "programs_beside_base",
        "Where half of what a model is tuned on is replaced by questions that programs read off the same scenes' graphs, "
        "it answers more by looking, in questions about attributes and places that the programs do not ask.",
        "up to +7 % on CVBench 2D and +8 % on 3D (abstract)",
        arms=(
            Arm("base and programs", _METRIC),
            Arm("base", _METRIC, set={"data.sources": [BASE]}),
        ),
        treatment="base and programs",
        control="base",
        at_least=0.0,
        tuning=Tuning(values=(1e-3, 2e-3), on=(f"{ASKED},scenes=200,seed=1",)),
    ),
)

SYSTEM = Plugin(
    system=ProVision,
    config=ProVisionConfig,
    presets={"tiny": _tiny, "tiny_pairs": _tiny_pairs, "llava_7b": _llava_7b},
    claims=CLAIMS,
    pipeline=Instructions,
)
