"""What every part of oculex agrees on. Nothing here runs, and nothing heavy is imported.

The seven nouns are Sample, Source, Part, System, Recipe, Run and Claim. A Part is an ``nn.Module`` or a pure
function and a Run is a folder, so neither needs a type here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor


def printable(text: str, most: int | None = None) -> str:
    """One line that is safe to print: what a terminal, a log or UTF-8 would trip over is escaped, the rest kept.

    ``most``: what is longer is cut.
    """
    if most is not None and len(text) > most:
        text = f"{text[:most]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class UserError(Exception):
    """A mistake of the user's: one line that names the thing and the remedy. The command line exits with 2."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split()), 1000))


# ---------------------------------------------------------------------------------------------- data

Sample = Mapping[str, Any]
"""One item with standard keys; ``oculex.data.schema`` gives each key's type, shape and unit."""

Batch = dict[str, Any]
"""Collated views: tensors [B, ...], ``Ragged`` sequences, or lists of B Python objects."""


@runtime_checkable
class Source(Protocol):
    """An indexable collection of samples.

    ``source[i]`` is deterministic. A sample that cannot be read raises ``BadSample``; it is never replaced.
    """

    name: str
    """What a person calls it: a path, or "world"."""
    classes: tuple[str, ...]
    """Class names in label order; empty where samples have no label."""

    def fingerprint(self) -> str:
        """A digest that changes when the data changes (names, sizes, times; not a read of every byte)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class BadSample(Exception):
    """One sample that cannot be used. ``key`` names it (file, row or shard member), ``reason`` says why.

    Both are made printable here, because they come from outside and end in logs.
    """

    def __init__(self, key: str, reason: str) -> None:
        self.key, self.reason = printable(key, 200), printable(reason, 200)
        super().__init__(self.key, self.reason)

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids. ``encode`` brackets the text by start and end and cuts it to ``context`` ids."""

    size: int
    end: int

    def encode(self, text: str, context: int) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@runtime_checkable
class Assets(Protocol):
    """What a system needs beside its configuration. A run keeps its assets, so it can be rebuilt from them."""

    def tokenizer(self, spec: str) -> Tokenizer:
        """``clip``: CLIP's own byte-pair vocabulary; ``corpus:SIZE``: one trained on the training captions;
        ``from:FOUNDATION``: the one that a foundation reads text with (its ``tokenizer``)."""
        ...

    def classes(self) -> tuple[str, ...]:
        """The class names of the training data, in label order; empty where nothing says which data it is."""
        ...

    def sources(self) -> tuple[Source, ...]:
        """The training data; empty where a finished run is built again."""
        ...

    def foundation(self, spec: str) -> Any:
        """A trained system in evaluation mode: the folder of a run, NAME:PRESET (trained once and kept), or published
        weights: open_clip:MODEL/WEIGHTS, transformers:FOLDER, timm:MODEL."""
        ...


# ------------------------------------------------------------------------------------------ pipelines


class Pipeline:
    """What turns a source into another one: the method of a system that makes or chooses data. Concrete ones are frozen
    dataclasses of their options, each a number, a text or a truth value.

    ``make`` is a pure function of a sample, of what is known of the whole source, and of randomness that is a function
    of the seed and the sample's place, so that samples can be made in any order, anywhere, and once more.
    """

    surveys: ClassVar[bool] = False
    """Whether ``make`` needs to know the whole source; its samples are then all read once before."""
    written_in: ClassVar[tuple[str, ...]] = ()
    """Modules and packages, beside its own, whose code decides what is made."""

    def note(self, sample: Sample, source: Source) -> Any:
        """What has to be remembered of a sample, as JSON holds it. Raises BadSample."""
        return None

    def gather(self, notes: Sequence[Any]) -> Any:
        """What is known of the source, as JSON holds it, from the notes in its order; None stands for a bad sample."""
        return None

    def make(self, source: Source, index: int, known: Any, rng: np.random.Generator) -> list[Sample]:
        """The samples that come of ``source[index]``; none where there is nothing to make of it. Raises BadSample."""
        raise TypeError(f"{type(self).__name__} does not say what it makes")


# -------------------------------------------------------------------------------------------- systems


class System:
    """One published method; concrete systems are ``class X(nn.Module, System)``.

    The loop owns micro-batches, gathering and reduction, and needs to know three things of a system:

    * ``encode(batch)`` gives per-sample tensors [b, ...]. The loop may call it on slices of a batch, and twice
      with equal randomness (gradient caching).
    * ``gathers`` names those tensors that a loss must see for the whole global batch. Where it is empty the
      losses of a slice do not depend on the other slices.
    * ``losses(features, batch)`` gives named tensors. A 1-D loss holds one value per item and the loop averages
      it over all items of the global batch, wherever they lie. A 0-D loss was computed from gathered features,
      is the same on every rank, and is taken as it is.

    ``encode`` and ``losses`` leave the state dict as it is: what a method learns from a batch beside gradients it
    collects, and ``after_step`` puts it in, the same on every rank. So a run resumes from its state dict alone, and a
    step that stopped can be repeated. BatchNorm's running statistics are the loop's: each update moves them once.
    """

    gathers: ClassVar[tuple[str, ...]] = ()
    config: Any

    @classmethod
    def build(cls, config: Any, assets: Assets) -> System:
        """The system with fresh weights, as the published initialisation draws them."""
        raise TypeError(f"{cls.__name__} does not say how it is built")

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A sample's training view, deterministic in ``rng``; ``rng=None`` gives the evaluation view.

        A sample without some keys (a text alone, an image alone) gives the view of what it has.
        """
        raise TypeError(f"{type(self).__name__} has no view")

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        raise TypeError(f"{type(self).__name__} has no losses")

    def items(self, batch: Batch) -> dict[str, int]:
        """Items per 1-D loss, knowable before the forward pass; only for losses not one value per sample."""
        return {}

    def loss_weights(self) -> dict[str, float]:
        """Weight of each named loss in the total; a name that is absent weighs 1."""
        return {}

    def before_step(self, step: int, steps: int) -> None:
        """What the method sets before each update, a function of how far training is: a teacher's temperature."""

    def after_backward(self, step: int, steps: int) -> None:
        """What the method does to the update's gradients: drop those of a layer that stands still for a while."""

    def after_step(self, step: int, steps: int) -> None:
        """What the method does after each update: clamp a temperature, move a teacher."""

    def after_stage(self, stage: int, stages: int, batches: Iterable[Batch]) -> None:
        """What the method keeps of stage number ``stage`` of ``stages`` at its end: a copy of the model, the importance
        of weights.

        All of it goes into the state dict, before the checkpoint that closes the stage, so it happens once whatever
        stops the run. ``batches`` are the global batches of an epoch of the stage, the same on every rank and each
        time they are gone through; the weights are whole, whatever shards them in training. It may draw from torch's
        generator, and leaves the gradients of the parameters alone (``torch.autograd.grad``).
        """


class Features(Mapping[str, "Tensor"]):
    """Encoded features as the losses see them.

    ``features[name]`` are this slice's rows [b, ...]; ``features.all(name)`` the global batch's rows [B, ...]
    for names in ``System.gathers``; ``features.start`` is the index of the first own row among all rows.
    """

    def __init__(
        self, own: Mapping[str, Tensor], everyone: Mapping[str, Tensor] | None = None, start: int = 0
    ) -> None:
        self._own, self._all, self.start = own, own if everyone is None else everyone, start

    def __getitem__(self, name: str) -> Tensor:
        return self._own[name]

    def all(self, name: str) -> Tensor:
        return self._all[name]

    def __iter__(self):
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


# Capabilities: what a trained system can be asked. All take collated evaluation views.


@runtime_checkable
class EncodesImages(Protocol):
    def encode_image(self, batch: Batch) -> Tensor:
        """Embeddings [B, D] in the space shared with text; unit norm where the system compares by cosine."""
        ...


@runtime_checkable
class EncodesText(Protocol):
    def encode_text(self, batch: Batch) -> Tensor:
        """Embeddings [B, D] in the space shared with images."""
        ...


@runtime_checkable
class EncodesModalities(Protocol):
    modalities: tuple[str, ...]
    """Keys of a sample that it encodes into the space shared with text."""

    def encode_modality(self, name: str, batch: Batch) -> Tensor:
        """Unit-norm embeddings [B, D] of one of the ``modalities``."""
        ...


@runtime_checkable
class RepresentsImages(Protocol):
    def represent_image(self, batch: Batch) -> Tensor:
        """Features [B, F] on which probes are fitted (for CLIP: before the projection)."""
        ...


@runtime_checkable
class Classifies(Protocol):
    classes: int
    """How many it tells apart."""

    def classify(self, batch: Batch) -> Tensor:
        """Logits [B, classes] over ``Assets.classes()``, the classes the system was trained on."""
        ...


@runtime_checkable
class RepresentsPatches(Protocol):
    def patch_features(self, batch: Batch) -> tuple[Tensor, tuple[int, int]]:
        """Features [B, N, D] of each part of the image in row-major order, and their grid (rows, columns)."""
        ...


@runtime_checkable
class Segments(Protocol):
    classes: int
    """How many it tells apart, beside none."""

    def segment(self, batch: Batch, size: int) -> Tensor:
        """The class of each pixel, counted from 1, 0 where it has none: int [B, size, size], for the square of the view,
        in which the whole picture is fitted at the top left."""
        ...


@runtime_checkable
class Detects(Protocol):
    classes: int
    """How many it tells apart."""

    def detect(self, batch: Batch, most: int) -> Tensor:
        """The objects of each image, the likeliest first, [B, most, 6]: class, score, and x0 y0 x1 y1 in shares of the
        picture's width and height; NaN where there are fewer."""
        ...


@runtime_checkable
class NamesObjects(Detects, Protocol):
    names: tuple[str, ...]
    """Of the classes that it tells apart."""


@runtime_checkable
class AttendsToPatches(Protocol):
    def patch_attention(self, batch: Batch) -> tuple[Tensor, tuple[int, int]]:
        """The last block's attention [B, heads, N] from the class token to each patch, and the grid of the patches."""
        ...


@runtime_checkable
class ScoresTexts(Protocol):
    def score_texts(self, images: Batch, texts: Batch) -> Tensor:
        """How well each text fits each image, [images, texts]; larger is better.

        The texts may be thousands: an image is encoded once, and a system that looks at pairs tiles them itself.
        """
        ...


@runtime_checkable
class MatchesTexts(Protocol):
    def match_texts(self, images: Batch, texts: Batch) -> Tensor:
        """How well each text fits each image, [images, texts], where the two have looked at each other: what a dual
        encoder says that is a fusion encoder too."""
        ...


@runtime_checkable
class ModelsText(Protocol):
    def log_likelihood(self, batch: Batch) -> Tensor:
        """[B, 2]: log p of each text in nats, the sum over the tokens that are predicted, and how many these are."""
        ...


@runtime_checkable
class Answers(Protocol):
    def answer(self, batch: Batch, most: int) -> list[str]:
        """What it says, the likeliest token each time, in at most ``most`` of them.

        The view of a sample with a ``question`` asks that, about its image where it has one; the view of an image alone
        asks for a description.
        """
        ...


@runtime_checkable
class Acts(Protocol):
    def act(self, batch: Batch) -> Tensor:
        """What a robot does next, [B, D], in the units of the data it was trained on, always a valid action.

        The view of a sample with an ``instruction`` tells it what to do, and shows what it sees where there is an image.
        """
        ...


@runtime_checkable
class ContinuesText(Protocol):
    def continue_text(self, batch: Batch, most: int) -> list[str]:
        """What comes after each text, the likeliest token each time, in at most ``most`` of them."""
        ...


@runtime_checkable
class Draws(Protocol):
    def draw(self, batch: Batch, generator: Generator | None = None) -> Tensor:
        """Pictures of texts, uint8 [B, 3, H, W]; equal states of the generator give equal pictures."""
        ...


@runtime_checkable
class TokenizesImages(Protocol):
    def tokenize(self, batch: Batch) -> list[list[int]]:
        """Each image as words of a visual vocabulary, at least one."""
        ...

    def similarity(self, batch: Batch, words: list[list[int]]) -> Tensor:
        """[B]: the mean cosine of each image's features and those that the words give back."""
        ...


@runtime_checkable
class Repaints(Protocol):
    def repaint(self, batch: Batch, generator: Generator | None = None) -> Tensor:
        """Pictures of images as its own tokenizer keeps them, uint8 [B, 3, H, W]; what it could draw at best."""
        ...


@runtime_checkable
class GroundsPhrases(Protocol):
    def ground(self, batch: Batch, most: int) -> Tensor:
        """Where each phrase of a sample's first ``grounded`` text is: [B, P, most, 5], its best boxes, the best first, as
        x0 y0 x1 y1 in shares of the picture's width and height, and their scores. NaN where there are fewer phrases or
        boxes."""
        ...

    def reads(self, text: Mapping[str, Any]) -> bool:
        """Whether all phrases of a grounded text can be asked for at once."""
        ...


# -------------------------------------------------------------------------------------------- recipes


@dataclass(frozen=True)
class Optimizer:
    """How weights are updated. ``part`` names an entry of ``oculex.training.optimizers``."""

    part: str = "adamw"
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.2
    """Applied to weights of two or more dimensions; gains, biases and scalars are not decayed."""
    momentum: float = 0.9
    """Used by sgd and sgd_sai."""
    clip_norm: float | None = None
    """Largest global gradient norm."""
    spike: float | None = None
    """Stop before an update whose gradient norm exceeds so many times the median of the last 100; None: never."""
    layer_decay: float = 1.0
    """Learning rate of a block relative to the next deeper one."""


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a stage, as a multiple of its peak."""

    shape: str = "cosine"
    """cosine, linear or constant, after a linear warm-up."""
    warmup: float = 0.04
    """Warm-up steps; a value below 1 is a share of the stage."""
    floor: float = 0.0
    """Where the decay ends."""
    weight_decay: float | None = None
    """Where the optimizer's weight decay is led to, along half a cosine over the whole stage; None: it stays."""


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one choice of what is trained, how fast, on what."""

    name: str = "pretrain"
    share: float = 1.0
    """Of the run's budget."""
    trainable: tuple[str, ...] = ("*",)
    """Glob patterns over parameter names; the others are frozen."""
    lr_scale: tuple[tuple[str, float], ...] = ()
    """(pattern, multiple of the learning rate); the first match counts."""
    schedule: Schedule = Schedule()
    sources: tuple[str, ...] = ()
    """Data of this stage; empty: the recipe's."""
    replay: int = 0
    """Samples of earlier stages' own sources that are mixed into this one's: an equal share of each sample seen, chosen
    by the run's seed."""


@dataclass(frozen=True)
class Data:
    sources: tuple[str, ...] = ("world",)
    """Paths, or "world"; a trailing @W weighs a source in the mixture."""
    holdout: float = 0.1
    """Share of each source (at most 5,000 samples) that is never trained on; the world has its own test split."""
    workers: int = 1
    bad_limit: float = 0.05
    """Share of unreadable samples over which the run stops."""
    stream: bool = False
    """Whether the sources arrive one after the other: each is gone through by the recipe's stages before the next, all
    for as many epochs, and at each one's end the run is evaluated on what all of them held out."""


@dataclass(frozen=True)
class Checkpoint:
    every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """How many of the latest are kept."""


@dataclass(frozen=True)
class Judges:
    """Trained systems that say what was drawn, by the names of foundations; a question whose judge is not named is not
    asked."""

    detector: str = ""
    """Finds objects, such as centernet:tiny."""
    clip: str = ""
    """Tells how well picture and text fit, and gives the features of the Frechet distance, such as clip:tiny_judge or
    open_clip:MODEL/WEIGHTS."""


@dataclass(frozen=True)
class Evaluation:
    every: int = 0
    """Steps between evaluations; 0: only at the end."""
    times: int = 0
    """Evaluations spread evenly over the run, where ``every`` is 0."""
    on: tuple[str, ...] = ()
    """Sources to evaluate on; empty: the held-out part of the training data."""
    limit: int = 1000
    """Most samples of a set used while training; the final evaluation uses all."""
    tasks: tuple[str, ...] = ("zeroshot", "retrieval")
    """What a run is asked on its way and at its end; `oculex evaluate` asks everything the system can do."""
    prompts: str = "photo"
    """Prompts of zero-shot classification: a name in ``oculex.evaluation.prompts``."""
    judges: Judges = Judges()


@dataclass(frozen=True)
class Logging:
    every: int = 20
    wandb: str = ""
    """Project name at Weights & Biases; empty: not used."""


@dataclass(frozen=True)
class Init:
    """Weights that training begins from instead of fresh ones."""

    run: str = ""
    """The foundation that has them: the folder of a run, NAME:PRESET, open_clip:MODEL/WEIGHTS, transformers:FOLDER or
    timm:MODEL; empty: all weights are fresh."""
    take: tuple[tuple[str, str], ...] = (("image.", "image."),)
    """(prefix of names there, prefix here): every weight below the prefix here is taken; the others stay fresh."""


@dataclass(frozen=True)
class Recipe:
    """All that a run needs to be repeated. ``model`` is the system's own configuration dataclass."""

    system: str
    model: Any
    preset: str = "tiny"
    budget: str = "3m"
    """Minutes (3m, 90s, 2h), steps (2000steps) or samples (1e6samples)."""
    batch: int = 256
    """Samples per update over all ranks."""
    accumulate: int = 1
    """Micro-batches per rank and update; exact for every objective."""
    precision: str = "bf16-mixed"
    """32-true, bf16-mixed or 16-mixed."""
    strategy: str = "ddp"
    """What several ranks do with the system: ddp copies it; fsdp cuts weights, gradients and optimizer state up."""
    init: Init = Init()
    stages: tuple[Stage, ...] = (Stage(),)
    optimizer: Optimizer = Optimizer()
    ema: float = 0.0
    """Decay of the averaged weights that are evaluated and exported; 0: none."""
    data: Data = Data()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    logging: Logging = Logging()
    compile: bool = False
    activation_checkpointing: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Plugin:
    """What a system's file offers: its modules are found through the catalog as ``SYSTEM``."""

    system: type[System]
    config: type
    presets: Mapping[str, Callable[[], Recipe]]
    """``tiny`` and the paper's; each gives a full recipe."""
    claims: tuple[Claim, ...] = ()
    pipeline: type[Pipeline] | None = None
    """Of a system that makes data: for ``made:NAME:SOURCE`` as a source, and for `oculex curate NAME`."""


# --------------------------------------------------------------------------------------------- claims


@dataclass(frozen=True)
class Arm:
    """One side of an experiment: the base recipe with what differs, and which number is read off it."""

    name: str
    metric: str
    """As the evaluation names it, e.g. "world/zeroshot/top1"."""
    system: str = ""
    """Another system than the claim's own."""
    preset: str = "tiny"
    set: Mapping[str, Any] = field(default_factory=dict)
    """Dotted recipe fields that this arm changes."""
    weights_of: str = ""
    """Arm whose trained run is evaluated instead of training another one."""
    starts_from: str = ""
    """Arm whose trained weights this one begins from, as its recipe's ``init.take`` names them."""


@dataclass(frozen=True)
class Tuning:
    """The search that every arm of a claim gets before it is judged, equally long for all."""

    values: tuple[float, ...]
    field: str = "optimizer.lr"
    """Dotted recipe field."""
    seed: int = 100
    """None of the claim's."""
    on: tuple[str, ...] = ()
    """Validation sources; empty: those that the claim is judged on."""


@dataclass(frozen=True)
class Claim:
    """A controlled experiment with a verdict.

    ``measure`` turns an arm's learning curve, [(samples, metric), ...], into the arm's value: ``final`` takes the
    last point, ``final_loss`` too where less is better, ``samples_to`` the samples needed to reach ``threshold``
    (linear between evaluations).
    The effect compares ``treatment`` with ``control`` per seed by ``compare`` (difference or ratio); the claim
    holds where the interval over seeds lies beyond ``at_least``. With ``minus``, a (treatment, control) of two other
    arms, it is by how much the difference is larger than theirs. ``compare`` rank_correlation asks all arms at once:
    those that are trained alike are one candidate, and the effect is the mean correlation, over any two metrics, of the
    order in which the metrics put the candidates; there is no treatment then, and no control.
    """

    name: str
    statement: str
    paper: str
    """The published figure, with its place."""
    arms: tuple[Arm, ...]
    treatment: str = ""
    control: str = ""
    measure: str = "final"
    threshold: float = 0.0
    compare: str = "difference"
    minus: tuple[str, ...] = ()
    at_least: float = 0.0
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: str = ""
    """Overrides the arms' budget, so that all have the same; empty: the recipe's."""
    tuning: Tuning | None = None
    """None: every arm runs with its preset's settings."""
