"""RT-2: Vision-Language-Action Models Transfer Web Knowledge to Robotic Control.

Anthony Brohan, Noah Brown, Justice Carbajal, Yevgen Chebotar et al. (Google DeepMind). CoRL 2023 (arXiv 2307.15818).

A robot's action is a short text: whether to end the episode, six displacements of the end effector, and how far the
gripper is open, each a number of one of 256 bins and each one token. So a language model with eyes learns to act as it
learns to answer, on episodes of robots and on questions about images of the web at once (co-fine-tuning). Where an
instruction asks for an action, only tokens of actions can be chosen, so every answer can be carried out. The loop is
closed: each action is followed by the next picture.

Symbols: D is the number of dimensions of an action, 8 in the paper.

Departures. PaLI-X and PaLM-E are not public, so the paper's presets take a public image tower and a public causal
language model in their place, each of another size than theirs, which first meet here (PaLI-X writes with a decoder
that attends to an encoder); of the optimizer appendix E tells rate, batch and updates, all else is ours. Llama's
vocabularies have no integers of their own, so there the rarest tokens stand for bins, as in PaLM-E. The bins are RT-1's
published ones, which the paper says it follows; it gives no code. Tokens of actions follow one another without spaces
between. Which may come next is held to one dimension's own, and an action ends by itself. Pictures are square crops,
and a step sees one of them. Chain of thought (section 4.4) is learnt where ``conversation`` samples show it; no data
for it are made here. The preset ``tiny`` is ours: fewer bins, a short prompt, a simulated table in place of a kitchen,
whose episodes end when the goal is reached, the embedded world in place of the web.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from oculex.contracts import (
    Arm,
    Assets,
    BadSample,
    Batch,
    Claim,
    Data,
    Evaluation,
    Init,
    Optimizer,
    Plugin,
    Recipe,
    Sample,
    Schedule,
    Stage,
    System,
    UserError,
)
from oculex.data.actions import action_space
from oculex.data.boxes import fitted, picture_size
from oculex.data.chat import Encoded, Turn
from oculex.data.views import image_view
from oculex.nn.joint.visual_language import VisualLanguageConfig, VisualLanguageModel
from oculex.nn.language.generate import generate
from oculex.nn.tokens.actions import ACTION_TOKENS, ActionTokens
from oculex.systems import tiny

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'assistant' %}A: {{ message.content }}{{ eos_token }}"
    "{% else %}Q: {{ message.content }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
"""The form of visual question answering that robot data is turned into (section 3.2)."""
REMEMBERED = 500
"""Instructions whose tokens are kept."""


@dataclass(frozen=True)
class RT2Config(VisualLanguageConfig):
    connector: str = "mlp"
    template: str = TEMPLATE
    bins: int = 256
    """Of each dimension of an action."""
    dimensions: int = 8
    """Of an action."""
    action_tokens: str = "numbers"
    """numbers: the token of the integer n stands for bin n, as in PaLI-X; least_used: the vocabulary's last are
    overwritten, its rarest, as in PaLM-E."""
    instruction: str = "what action should the robot take to {}?"
    """How the robot is asked; {} is what it is told to do."""
    pairs: int = 0
    """Most questions and answers of a sample in one conversation; 0: all that it has."""
    robot_crop: tuple[float, float] = (0.9, 1.0)
    """As ``crop``, of what a robot sees."""
    places: str = ""
    """How it is asked of a picture with ``boxes`` where the only one of a class is, {} being its name; the answer is the
    middle of its box, from left and from the top. Such pictures are shown whole. Empty: it is not asked."""
    place_bins: int = 100
    """Of either of these two numbers."""


class RT2(VisualLanguageModel, System):
    """A language model that sees, and whose words can be deeds."""

    config: RT2Config

    def __init__(self, config: RT2Config, assets: Assets) -> None:
        super().__init__(config, assets)
        if config.action_tokens not in ACTION_TOKENS:
            raise UserError(
                f"action_tokens={config.action_tokens!r} is not one of {', '.join(ACTION_TOKENS)}"
            )
        self.actions = ActionTokens(config.dimensions, config.bins)
        self._prompts: dict[tuple[str, bool], Encoded] = {}
        sources = assets.sources()
        space = action_space(sources)
        if space is not None:
            choose = ACTION_TOKENS[config.action_tokens]
            self.actions.settle(space, choose(self.tokenizer, config.bins, config.vocabulary))

    @classmethod
    def build(cls, config: RT2Config, assets: Assets) -> RT2:
        return cls(config, assets)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """Of a robot's sample what it sees and is told, and the tokens of what it does, which are learnt; anything else
        as a language model with eyes reads it.

        Without ``rng`` the instruction alone.
        """
        told, c = sample.get("instruction"), self.config
        if told is None:
            view = super().view(sample, rng)
            boxed = "image" in sample and sample.get("box_labels") is not None
            if rng is not None and c.places and boxed:
                view["image"], _ = fitted(sample, c.image_size, c.mean)
            return view
        view = image_view(sample, rng, c.image_size, c.robot_crop)
        asked = self._asked(told, bool(view), sample["id"])
        if rng is None:
            return view | {"tokens": asked.tokens, "visual": asked.visual}
        if "action" not in sample:
            raise BadSample(
                sample["id"], "tells a robot what to do and has no action, which this system trains on"
            )
        done = [*self.actions.encode(sample["action"]), self.tokenizer.end]
        none = [0] * len(done)
        whole = Encoded([*asked.tokens, *done], [0] * len(asked) + [1] * len(done), [*asked.visual, *none])
        if len(whole) > c.context:
            raise BadSample(sample["id"], f"takes {len(whole)} tokens, more than context={c.context}")
        return view | {"tokens": whole.tokens, "visual": whole.visual, "trained": whole.trained}

    def act(self, batch: Batch) -> Float[Tensor, "b d"]:
        """The likeliest action of those that there are, dimension by dimension.

        Raises UserError where it was trained on no actions, or is told more than its context holds.
        """
        if not self.actions.settled:
            raise UserError("this model was trained on no actions; train it on data of a robot, with --data")
        text = batch["tokens"]
        if int(text.lengths.max()) + self.config.dimensions + 1 > self.config.context:
            raise UserError(
                f"image, instruction and action take {int(text.lengths.max()) + self.config.dimensions + 1} tokens, more "
                f"than context={self.config.context}; say it in fewer words"
            )
        visual = self.encode(batch)["visual"] if "image" in batch else None
        prompts = self.embedded(batch, visual)
        vocabulary, end = self.language.get_output_embeddings().out_features, self.tokenizer.end
        allowed = self.actions.allowed(vocabulary, end)
        said = generate(self.language, prompts, text.lengths, end, len(allowed), allowed=allowed)
        return torch.from_numpy(self.actions.decode(said)).to(prompts.device)

    def _pairs(self, sample: Sample, rng: np.random.Generator) -> list[tuple[str, str]]:
        return super()._pairs(sample, rng)[: self.config.pairs or None]

    def _known(self, sample: Sample, rng: np.random.Generator) -> list[tuple[str, str]]:
        return super()._known(sample, rng) + self._places(sample)

    def _places(self, sample: Sample) -> list[tuple[str, str]]:
        """Where each thing is that is the only one of its class."""
        asked, bins, labels = self.config.places, self.config.place_bins, sample.get("box_labels")
        if not asked or labels is None:
            return []
        side, found = max(picture_size(sample)), list[tuple[str, str]]()
        for label, (x0, y0, x1, y1) in zip(labels, sample["boxes"], strict=True):
            if label >= 0 and np.count_nonzero(labels == label) == 1:
                middle = ((x0 + x1) / 2 / side, (y0 + y1) / 2 / side)
                place = " ".join(str(min(bins - 1, max(0, int(bins * each)))) for each in middle)
                found.append((asked.format(self._named(int(label))), place))
        return found

    def _named(self, label: int) -> str:
        names = self._assets.classes()
        if label >= len(names):
            raise UserError(f"a box has class {label}, but there are {len(names)} class names")
        return names[label]

    def _asked(self, told: str, sees: bool, key: str) -> Encoded:
        """What is read before an action is said; an episode's steps ask the same."""
        if (told, sees) not in self._prompts:
            image = self._around() if sees else ()
            turn = Turn("user", (*image, self.config.instruction.format(told)))
            if len(self._prompts) > REMEMBERED:
                self._prompts.clear()
            self._prompts[told, sees] = self.chat.prompt([turn], [self.visual] if sees else [], key)
        return self._prompts[told, sees]


# ------------------------------------------------------------------------------------------------- presets

SEES: Mapping[str, Any] = {
    **tiny.MAP, "positions": True, "language": "llama", "language_width": 64, "language_layers": 3, "language_heads": 4,
    "language_std": 0.125, "context": 96, "vocabulary": 512, "tokenizer": "from:rt2:tiny_web", "after_image": "",
    "instruction": "robot: {}", "places": "where is the {}?", "place_bins": 10, "pairs": 1, "robot_crop": (1.0, 1.0),
    "bins": 21, "action_tokens": "least_used",
}  # fmt: skip
"""A tower that tells what is where, and a small language model that reads it; weights are drawn for its width. Places
of ten bins are digits, one token each. One question an image: what was said before would tell of the others."""
_SCENES = "world:most=3,part=1/4,captions=1,scenes=12000"
WEB = (f"{_SCENES},keys=boxes+box_labels@11", f"{_SCENES},keys=questions@1")
"""What stands for the web: scenes of the embedded world of 48 concepts, a caption each. Of most it is asked where things
are, which teaches words to find things, of the others all else; PaLI-X's mixture has detection and questions too."""
ROBOT = "table:size=64,novel=colour"
"""Demonstrations with 15 concepts of these 48, of three colours; ten more, of two colours, no robot has met."""
TABLES = (f"{ROBOT},objects=1@4", f"{ROBOT},objects=2@4", f"{ROBOT}@4")
"""With few things on the table it is learnt how to push, with more what to push; in all as often as the web."""
STEPS = "1500steps"
"""Of every arm of a claim, 32 demonstrated steps in each; the preset has twice as many."""
PARTS = (("image.", "image."), ("connector.", "connector."), ("language.", "language."))
"""What the paper's model is before it meets a robot: a language model with eyes."""


def _tiny_web() -> Recipe:
    """A language model with eyes that has met no robot: questions about the embedded world alone."""
    return Recipe(
        system="rt2",
        model=RT2Config(**{**SEES, "tokenizer": "corpus:491", "vision_foundation": "clip:tiny_map"}),
        budget="5000steps",
        batch=32,
        precision="32-true",
        optimizer=Optimizer(lr=1e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.05, clip_norm=1.0),
        stages=(Stage("pretrain", schedule=Schedule("cosine", warmup=0.05)),),
        data=Data(sources=WEB),
        evaluation=Evaluation(tasks=("vqa",), limit=200),
    )


def _tiny() -> Recipe:
    """That one goes on with demonstrations on the simulated table and with what it learnt before, half of either as
    PaLI-X does (appendix B), minutes on two CPU cores."""
    recipe = _tiny_web()
    return replace(
        recipe,
        model=RT2Config(**SEES),
        budget="3000steps",
        init=Init("rt2:tiny_web", PARTS),
        batch=64,
        stages=(Stage("co-fine-tune", schedule=Schedule("cosine", warmup=0.05)),),
        data=Data(sources=(*WEB, *TABLES)),
        evaluation=Evaluation(on=tuple(JUDGED), tasks=("control",)),
    )


JUDGED = (f"{ROBOT},split=test", f"{ROBOT},split=test,part=unseen")
"""Held-out tables of concepts that robots have met, and of those that they have not."""


def _paper(language: str, tower: Mapping[str, Any], init: Init, lr: float, batch: int, steps: int) -> Recipe:
    """Hyper-parameters of the paper's appendix E; a public model takes the place of one that is not. The data are yours
    to name, robots' with half of the weight for PaLI-X, two thirds for PaLM-E: --data WEB@1 ROBOT@1, or ROBOT@2."""
    model = RT2Config(
        **tower,
        blocks_left_out=1,
        language=language,
        vocabulary=32_000,
        context=2048,
        tokenizer=f"hub:{language}",
        action_tokens="least_used",  # Llama's tokens have no integers of their own
    )
    return Recipe(
        system="rt2",
        model=model,
        budget=f"{steps}steps",
        batch=batch,
        strategy="fsdp",
        init=init,
        optimizer=Optimizer(lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, clip_norm=1.0),
        stages=(Stage("co-fine-tune", schedule=Schedule("constant", warmup=1000)),),
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=("control", "imitation", "vqa")),
    )


CLIP_L: Mapping[str, Any] = {"image_size": 336, "patch": 14, "width": 1024, "layers": (24,), "heads": 16}
EVA_G: Mapping[str, Any] = {"image_tower": "eva_giant_patch14_clip_224", "image_size": 224}
_CLIP = Init("open_clip:ViT-L-14-336-quickgelu/openai")
_EVA = Init("timm:eva_giant_patch14_clip_224.laion400m", (("model.", "image.model."),))

# -------------------------------------------------------------------------------------------------- claims


_ARMS = {
    "co-fine-tuning": {"data.sources": [*WEB, *TABLES], "batch": 64},
    # as many robot samples in as many updates, on average; half of the batch
    "robot data alone": {"data.sources": [*TABLES], "batch": 32},
    "fresh weights": {"data.sources": [*TABLES], "batch": 32, "init.run": ""},
}


def _compared(name: str, statement: str, paper: str, treatment: str, control: str) -> Claim:
    """On things of colours that no demonstration has shown."""
    return Claim(
        name,
        statement,
        paper,
        arms=tuple(Arm(arm, "unseen-table/control/success", set=_ARMS[arm]) for arm in (treatment, control)),
        treatment=treatment,
        control=control,
        budget=STEPS,
    )


CLAIMS = (
    _compared(
        "the_web_kept",
        "A robot that goes on learning from images of the web while it learns from demonstrations does more of what it "
        "is told with things of colours that no demonstration has shown.",
        "unseen objects (easy, hard): 60 % and 38 % against 24 % and 38 % of PaLI-X 5B, 70 % and 62 % against 60 % and "
        "62 % of 55B (table 6)",
        "co-fine-tuning",
        "robot data alone",
    ),
    _compared(
        "the_web_first",
        "A robot whose network has learnt from images of the web before it learns from demonstrations does more of what "
        "it is told with things of colours that none has shown than one that begins with fresh weights.",
        "from scratch does worst, PaLI-X 5B; its figures were not read (section 4.3)",
        "robot data alone",
        "fresh weights",
    ),
)

SYSTEM = Plugin(
    system=RT2,
    config=RT2Config,
    presets={
        "tiny": _tiny,
        "tiny_web": _tiny_web,
        "pali_x_5b": partial(_paper, "lmsys/vicuna-7b-v1.5", CLIP_L, _CLIP, 1e-3, 2048, 270_000),
        "palm_e_12b": partial(_paper, "lmsys/vicuna-13b-v1.5", EVA_G, _EVA, 4e-4, 512, 1_000_000),
        "pali_x_55b": partial(_paper, "huggyllama/llama-65b", EVA_G, _EVA, 1e-3, 2048, 80_000),
    },
    claims=CLAIMS,
)
