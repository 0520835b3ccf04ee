"""LaVIT: Unified Language-Vision Pretraining in LLM with Dynamic Discrete Visual Tokenization.

Yang Jin, Kun Xu, Kun Xu, Liwei Chen, Chao Liao, Jianchao Tan, Quzhe Huang, Bin Chen, Chenyi Lei, An Liu, Chengru Song,
Xiaoqiang Lei, Di Zhang, Wenwu Ou, Kun Gai, Yadong Mu. ICLR 2024.

Images become a foreign language that a language model reads and writes. Stage one (section 3.1) trains a tokenizer on the
features of a frozen tower: patches that say little are left out by a drawn mask M, the kept ones take up what those held,
and each is named by its nearest code; a decoder must give back all features x from the names, by cosine, while the
share of kept patches is held near rho: mean(1 - cos(x, x')) + lambda (rho - mean(M))^2. Stage two trains a denoising
network to paint the picture from what that decoder gives. Stage three (section 3.2) trains the language model by
next-token prediction in both orders: [image, text], where the image is the merged features before they are named, and
[text, image], where it is names.

Departures. The authors have published no training code: the codebook is BEiT v2's, as the tokenizer's published parts
are, with its decay and commitment; half of the pairs go in each order, and a tenth of the texts is left out before an
image, which guidance needs. Sequences weigh alike, not tokens, for how many tokens an image has is not known in
advance. Their tokenizer draws M anew when it is used, too; here an image then keeps its
likeliest patches, as many as it would keep on average, so that it has one name. Where all patches are kept, nothing is
left out to attend to, and the choice has no gradient there; theirs is that of a division by 1e-6. The preset ``tiny``
is ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.contracts import (
    Arm,
    Assets,
    Batch,
    Claim,
    Data,
    Evaluation,
    Features,
    Init,
    Judges,
    Optimizer,
    Plugin,
    Recipe,
    Sample,
    Schedule,
    Stage,
    System,
    Tokenizer,
    Tuning,
    UserError,
)
from oculex.data.collate import Ragged
from oculex.data.views import image_view, text_view
from oculex.nn.image.image_encoder import ImageEncoder, ImageEncoderConfig
from oculex.nn.image.towers import grid_of
from oculex.nn.language.causal import LanguageConfig, check_vocabulary, language_model
from oculex.nn.language.generate import generate
from oculex.nn.tokens.drawing import draw_tokens
from oculex.nn.tokens.pixel_decoder import PixelConfig, PixelDecoder
from oculex.nn.tokens.visual_tokenizer import VisualTokenizer, padded
from oculex.nn.weights import adopt
from oculex.objectives.captioning import next_token
from oculex.objectives.tokenization import cosine_error, length_error
from oculex.systems import tiny


@dataclass(frozen=True)
class LaVITConfig(PixelConfig, LanguageConfig, ImageEncoderConfig):
    image_tower: str = "eva_giant_patch14_clip_224"
    vision_foundation: str = ""
    """Trained system whose image tower is taken; empty: fresh weights, or the recipe's ``init``."""
    language_foundation: str = ""
    """Trained system whose language model is taken; empty: ``language`` has its own weights, or fresh ones."""
    merger_layers: int = 12
    """Of the merger and of the decoder of features."""
    merger_heads: int = 16
    merger_hidden: int = 6144
    codes: int = 16_384
    """Words of the visual vocabulary."""
    code_width: int = 32
    code_decay: float = 0.99
    """Of the moving averages that codes follow."""
    kept: float = 1 / 3
    """rho, the share of patches that an image keeps on average."""
    kept_weight: float = 2.0
    """lambda."""
    commitment: float = 1.0
    """Weight of the distance between a vector and its code."""
    fixed: bool = False
    """Whether every image keeps the same number of patches, its likeliest ones (an ablation)."""
    drop_text: float = 0.1
    """Share of the images that are written without their text."""
    guidance: float = 4.0
    """Of the language model where it writes images,"""
    pixel_guidance: float = 7.0
    """and of the denoising network."""
    pixel_steps: int = 25
    """Of the denoising network, in a drawing."""
    question: str = "Question: {} Answer:"
    picture: int = 512
    """Pixels a side of what is painted; the tower sees it at ``image_size``."""
    crop: tuple[float, float] = (0.9, 1.0)
    """Area of the random square crop, as a share of the image."""


class LaVIT(System, ImageEncoder):
    """A frozen tower, the tokenizer over it, the network that paints, the language model that reads and writes both."""

    def __init__(self, config: LaVITConfig, assets: Assets) -> None:
        super().__init__(config)
        self._assets, c = assets, config
        rows, columns = grid_of(self.image, c.image_size)
        self.patches = rows * columns
        width = self.image.width
        self.visual = VisualTokenizer(
            width,
            self.patches,
            c.merger_layers,
            c.merger_heads,
            c.merger_hidden,
            c.codes,
            c.code_width,
            c.code_decay,
        )
        training = bool(assets.sources())  # a finished run has all weights of its own
        self.pixels = PixelDecoder(width, c.picture, c, weights=training)
        self.language: Any = language_model(c, weights=training)
        if training:
            for field, part in (("vision_foundation", "image"), ("language_foundation", "language")):
                if name := getattr(c, field):
                    adopt(
                        getattr(self, part), getattr(assets.foundation(name), part, None), f"{field}={name!r}"
                    )
        self.begin_image, self.end_image, self.first_code = (c.vocabulary + n for n in range(3))
        self.language.resize_token_embeddings(c.vocabulary + 2 + c.codes, mean_resizing=False)
        self.reader = Reader(self.visual.merger, width, self.language.get_input_embeddings().embedding_dim)
        if self.patches + 4 > c.context:
            raise UserError(
                f"an image of {c.image_size} pixels takes up to {self.patches} tokens, more than context={c.context} "
                "holds with a text; take a smaller image or a longer context"
            )

    @classmethod
    def build(cls, config: LaVITConfig, assets: Assets) -> LaVIT:
        return cls(config, assets)

    @property
    def tokenizer(self) -> Tokenizer:
        tokenizer = self._assets.tokenizer(self.config.tokenizer)
        check_vocabulary(tokenizer.size, self.config)
        return tokenizer

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A random square crop, one of the captions, which of the two comes first, and whether an image goes without its
        text. Without ``rng`` the centre and the first caption, or the sample's ``question``."""
        c = self.config
        view = image_view(sample, rng, max(c.image_size, c.picture), c.crop)
        if rng is None and "question" in sample:
            sample = {**sample, "captions": [c.question.format(sample["question"])]}
        view |= text_view(sample, rng, self.tokenizer, c.context - self.patches - 2)
        if rng is not None:
            view["writes"] = rng.random() < 0.5
            view["alone"] = rng.random() < c.drop_text
        return view

    def before_step(self, step: int, steps: int) -> None:
        self.visual.codebook.begin()

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """{"patches": [B, N, D]}: the tower's features, which nothing trains."""
        with torch.no_grad():
            pixels = sized(self._normalised(batch["image"]), self.config.image_size)
            features, _ = self.image.tokens(pixels)
        return {"patches": features[:, features.shape[1] - self.patches :]}

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Those of the parts that are trained in this stage."""
        losses: dict[str, Tensor] = {}
        if trained(self.visual):
            losses |= self._tokenization(features["patches"])
        if trained(self.pixels):
            losses["painting"] = self._painting(features["patches"], batch["image"].float() / 127.5 - 1)
        if trained(self.language):
            losses["sequence"] = self._sequences(features["patches"], batch)
        return losses

    def loss_weights(self) -> dict[str, float]:
        return {"length": self.config.kept_weight, "commitment": self.config.commitment}

    def after_step(self, step: int, steps: int) -> None:
        if trained(self.visual):
            self.visual.codebook.update()

    def after_stage(self, stage: int, stages: int, batches: Iterable[Batch]) -> None:
        """What reads images for the language model begins as the tokenizer's merger, and is then trained with it."""
        if trained(self.visual):
            self.reader.merger.load_state_dict(self.visual.merger.state_dict())

    # ------------------------------------------------------------------------------- images as words (3.1)

    def _kept(self, patches: Tensor) -> Tensor:
        return self.visual.kept(patches, self.training, self._count)

    def _words(self, patches: Tensor) -> list[list[int]]:
        return self.visual.words(patches, self.training, self._count)

    @property
    def _count(self) -> int | None:
        return round(self.config.kept * self.patches) if self.config.fixed else None

    def _tokenization(self, patches: Tensor) -> dict[str, Tensor]:
        visual, kept = self.visual, self._kept(patches)
        where = kept > 0.5
        vectors = visual.narrow(visual.merger(patches, kept)[where])
        codes, index, distance = visual.codebook(vectors)
        visual.codebook.collect(vectors.detach(), index)
        counts = where.sum(1)
        rebuilt = visual.decoder(*padded(codes, counts))
        row = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        return {
            "reconstruction": cosine_error(rebuilt, patches),
            "length": length_error(kept, self.config.kept),
            "commitment": torch.zeros(len(counts), device=row.device).index_add(0, row, distance) / counts,
        }

    def _painting(self, patches: Tensor, pictures: Tensor) -> Tensor:
        with torch.no_grad():
            rebuilt = self.visual.features(self._words(patches))
        return self.pixels.losses(sized(pictures, self.config.picture), rebuilt)

    # -------------------------------------------------------------------------- both as one sequence (3.2)

    def _sequences(self, patches: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy over the tokens of each sequence that are learnt: the text after an image, or a text and
        the image after it."""
        text: Ragged = batch["tokens"]
        words, kept = self._words(patches), self._kept(patches).detach()
        ids, learnt, seen = [], [], []
        for n, row in enumerate(text.rows()):
            image = [self.begin_image, *(self.first_code + code for code in words[n]), self.end_image]
            start, said, end = row[:1], row[1:-1], row[-1:]
            if batch["writes"][n]:
                said = [] if batch["alone"][n] else said
                ids.append([*start, *said, *image, *end])
                learnt.append([False] + [True] * (len(ids[-1]) - 1))
                seen.append([False] * len(ids[-1]))
            else:
                many = round(float(kept[n].sum()))
                ids.append([*start, self.begin_image, *[0] * many, self.end_image, *said, *end])
                learnt.append([False] * (many + 3) + [True] * (len(said) + 1))
                seen.append([False] * 2 + [True] * many + [False] * (len(said) + 2))
        tokens, where, places = (Ragged.of(each).to(patches.device) for each in (ids, learnt, seen))
        reads = ~batch["writes"].bool()
        x = self._embedded(tokens.values, places.values.bool(), patches[reads], kept[reads])
        targets, mask = tokens.values[:, 1:], where.values[:, 1:].bool()
        logits = self.language(inputs_embeds=x, use_cache=False).logits[:, :-1]
        each = torch.zeros(mask.shape, device=x.device).masked_scatter(
            mask, next_token(logits[mask], targets[mask])
        )
        return each.sum(1) / mask.sum(1)

    def _embedded(self, tokens: Tensor, places: Tensor, patches: Tensor, kept: Tensor) -> Tensor:
        words = self.language.get_input_embeddings()(tokens)
        if not len(patches):
            return words
        vectors = self.reader(patches, kept)
        return words.masked_scatter(places[..., None], vectors.to(words.dtype))

    # --------------------------------------------------------------------------------- what it can be asked

    def answer(self, batch: Batch, most: int) -> list[str]:
        """What it reads in an image, says to a question about it, or goes on with after a text alone.

        Raises UserError where the context has no room for it.
        """
        tokenizer = self.tokenizer
        if "image" in batch:
            patches = self.encode(batch)["patches"]
        else:
            patches = torch.zeros(0, self.patches, self.image.width, device=self.mean.device)
        kept = self._kept(patches)
        counts = (kept > 0.5).sum(1).tolist()
        empty = tokenizer.encode("", 2)
        asked = batch["tokens"].rows() if "tokens" in batch else [empty] * len(patches)
        ids, seen = [], []
        for n, row in enumerate(asked):
            places = [self.begin_image, *[0] * counts[n], self.end_image] if counts else []
            ids.append([row[0], *places, *row[1:-1]])
            seen.append([False, *(token == 0 for token in places), *[False] * len(row[1:-1])])
        tokens, where = (Ragged.of(each).to(patches.device) for each in (ids, seen))
        x = self._embedded(tokens.values, where.values.bool(), patches, kept)
        room = self.config.context - int(tokens.lengths.max())
        if room < 1:
            raise UserError(
                f"image and text take all of context={self.config.context}; ask a shorter question"
            )
        said = generate(self.language, x, tokens.lengths, tokenizer.end, min(most, room))
        return [tokenizer.decode([token for token in each if token < self.begin_image]) for each in said]

    @torch.no_grad()
    def tokenize(self, batch: Batch) -> list[list[int]]:
        """Each image as words of the visual vocabulary, counted from 0."""
        return self._words(self.encode(batch)["patches"])

    @torch.no_grad()
    def similarity(self, batch: Batch, words: list[list[int]]) -> Tensor:
        """The mean cosine over patches of the tower's features and what the decoder makes of the words."""
        return 1 - cosine_error(self.visual.features(words), self.encode(batch)["patches"])

    @torch.no_grad()
    def draw(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Pictures of texts, [B, 3, H, W] in 0..255."""
        c, text = self.config, batch["tokens"]
        ids = Ragged.of([[*row[:-1], self.begin_image] for row in text.rows()]).to(text.values.device)
        embed = self.language.get_input_embeddings()
        blind = embed(torch.tensor([ids.values[0, 0], self.begin_image], device=ids.values.device))
        codes = range(self.first_code, self.first_code + c.codes)
        words = draw_tokens(
            self.language, embed(ids.values), ids.lengths, blind, codes, self.end_image, self.patches,
            guidance=c.guidance, generator=generator,
        )  # fmt: skip
        features = self.visual.features([[token - self.first_code for token in row] for row in words])
        pictures = self.pixels.draw(features, c.pixel_steps, c.pixel_guidance, generator)
        return ((pictures + 1) * 127.5).round().to(torch.uint8)

    @torch.no_grad()
    def repaint(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Pictures from the names that the tokenizer gives to images, [B, 3, H, W] in 0..255."""
        pictures = self.pixels.draw(
            self.visual.features(self.tokenize(batch)),
            self.config.pixel_steps,
            self.config.pixel_guidance,
            generator,
        )
        return ((pictures + 1) * 127.5).round().to(torch.uint8)


class Reader(nn.Module):
    """A merger of its own and a projection: the kept patches of an image as a language model's vectors."""

    def __init__(self, merger: nn.Module, features: int, width: int) -> None:
        super().__init__()
        self.merger = deepcopy(merger)
        self.projection = nn.Linear(features, width)

    def forward(self, patches: Tensor, kept: Tensor) -> Tensor:
        """[kept patches of all images, width], image by image."""
        return self.projection(self.merger(patches, kept)[kept > 0.5])


def sized(pictures: Tensor, side: int) -> Tensor:
    if pictures.shape[-1] == side:
        return pictures
    return F.interpolate(pictures, (side, side), mode="bilinear", antialias=True)


def trained(part: nn.Module) -> bool:
    """Whether this stage trains anything of it."""
    return any(weight.requires_grad for weight in part.parameters())


# ------------------------------------------------------------------------------------------------- presets

_ADAMW = Optimizer(lr=2e-4, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05, clip_norm=1.0)
_WARM = Schedule("cosine", warmup=0.05)


def _stages(tokenizer: float, painting: float, language: float) -> tuple[Stage, ...]:
    return (
        Stage("tokenizer", tokenizer, ("visual.*",), schedule=_WARM),
        Stage("painting", painting, ("pixels.unet.*", "pixels.project.*"), schedule=_WARM),
        Stage("language", language, ("language.*", "reader.*"), schedule=_WARM),
    )


def _tiny() -> Recipe:
    """Scenes of one object of the embedded world: 256 codes, 7 or 8 of them an image, drawn at 32 pixels.

    Gradients are taken as they are: now and then that of the selector is hundreds of times as large as all others, of
    which clipping would leave nothing.
    """
    model = LaVITConfig(
        **{**tiny.READS, **tiny.MAP, "vision_foundation": "clip:tiny_map"},
        merger_layers=1, merger_heads=2, merger_hidden=256, codes=256, code_decay=0.97, kept=3 / 8,
        kept_weight=10.0, picture=32,
        predicts="sample", unet_channels=(64, 128), unet_condition=64, unet_cell=4, guidance=2.0, pixel_guidance=3.0,
        pixel_steps=10,
    )  # fmt: skip
    tokenizer, painting, language = _stages(0.22, 0.34, 0.44)
    return Recipe(
        system="lavit",
        model=model,
        budget="130e3samples",
        batch=32,
        precision="32-true",
        optimizer=Optimizer(lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05),
        stages=(
            replace(tokenizer, lr_scale=(("*", 0.5),)),
            painting,
            replace(language, lr_scale=(("*", 2.0),)),
        ),
        data=Data(sources=(tiny.FEW_CONCEPTS,), workers=0),
        evaluation=Evaluation(
            tasks=("captioning", "drawing"), limit=500, judges=Judges("centernet:tiny", "clip:tiny_judge")
        ),
    )


def _llama_7b() -> Recipe:
    """50,000 steps of 2,048 images for the tokenizer, as many for painting, and one pass over the 193 million pairs for
    the language model (section 4.1). Learning rates are not told in the authors' code; these are ours."""
    steps, pairs = 50_000 * 2048, 193_000_000
    model = LaVITConfig(
        image_size=224,
        language="huggyllama/llama-7b",
        vocabulary=32_000,
        context=2048,
        tokenizer="hub:huggyllama/llama-7b",
        unet="stable-diffusion-v1-5/stable-diffusion-v1-5",
    )
    return Recipe(
        system="lavit",
        model=model,
        budget=f"{2 * steps + pairs}samples",
        batch=2048,
        precision="bf16-mixed",
        strategy="fsdp",
        init=Init("timm:eva_giant_patch14_clip_224.laion400m", (("model.", "image.model."),)),
        optimizer=_ADAMW,
        stages=_stages(*(each / (2 * steps + pairs) for each in (steps, steps, pairs))),
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=("captioning", "vqa")),
    )


# -------------------------------------------------------------------------------------------------- claims

_UNPAINTED = {
    "stages.0.share": 0.45,
    "stages.1.share": 0.01,
    "stages.2.share": 0.54,
    "evaluation.tasks": ["tokenization", "captioning"],
}
"""What is not looked at is hardly trained."""
_LED = {"kept_weight": 50.0}
"""Five times the preset's: at small rates as many patches are kept as are asked for in so short a first stage, at large
ones that varies with the seed."""
_BUDGET = "32e3samples"
_RATES = Tuning(values=(5e-4, 1e-3, 2e-3, 4e-3), on=("world:most=1,part=1/9,split=test,seed=1,scenes=500",))
_PAPER = "no figure was read; a third of the patches on average, more where an image holds more (section 3.1)"


def _length(name: str, statement: str, metric: str) -> Claim:
    """Both arms keep 6 of 16 patches, one of them on average; how many it keeps in truth is told beside."""
    arms = {"dynamic": {**_UNPAINTED, **_LED}, "fixed": {**_UNPAINTED, **_LED, "fixed": True}}
    return Claim(
        name,
        statement,
        _PAPER,
        arms=(
            *(Arm(arm, f"world/{metric}", set=changes) for arm, changes in arms.items()),
            *(Arm(f"words, {arm}", "world/tokenization/words", weights_of=arm) for arm in arms),
        ),
        treatment="dynamic",
        control="fixed",
        budget=_BUDGET,
        tuning=_RATES,
    )


def _both(name: str, statement: str, metric: str, at_least: float) -> Claim:
    task, _, measure = metric.partition("/")
    return Claim(
        name,
        statement,
        "one model for understanding and generation (sections 4.2 and 4.3)",
        arms=(
            Arm("its own", f"world/{metric}"),
            Arm("another's", f"world/{task}/wrong_image_{measure}", weights_of="its own"),
        ),
        treatment="its own",
        control="another's",
        at_least=at_least,
    )


CLAIMS = (
    _length(
        "dynamic_length_keeps_more",
        "Words given to images as they need them give back more of the features than as many for every image.",
        "tokenization/similarity",
    ),
    _length(
        "dynamic_length_tells_more",
        "A language model describes images better from words given as they need them than from as many for every image.",
        "captioning/cider",
    ),
    _both(
        "it_captions",
        "The model's descriptions name what is in their own image, 20 points more often than what is in another one.",
        "captioning/named",
        0.2,
    ),
    _both(
        "it_draws",
        "The same model's drawings show what their own text names, 20 points more often than what another one names.",
        "drawing/objects",
        0.2,
    ),
)

SYSTEM = Plugin(
    system=LaVIT, config=LaVITConfig, presets={"tiny": _tiny, "llama_7b": _llama_7b}, claims=CLAIMS
)
