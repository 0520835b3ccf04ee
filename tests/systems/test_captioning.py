"""The two systems that learn by predicting captions: losses and scores against slow references, and that they learn."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from oculex import catalog, runs
from oculex.contracts import EncodesText, Features, ScoresTexts
from oculex.data.assets import RunAssets
from oculex.data.collate import Ragged
from oculex.nn.image.image_encoder import ImageEncoderConfig
from oculex.nn.language.decoder import TextDecoder, prefix_levels
from oculex.objectives.captioning import bag_of_words, word_bags
from oculex.systems.baselines.caption_bow import CaptionBow, CaptionBowConfig
from oculex.systems.baselines.caption_lm import CaptionLM, CaptionLMConfig
from oculex.training.folder import read_lines
from oculex.training.step import Trainee, backward
from tests import toys

SIZES = {
    "image_size": 16,
    "patch": 8,
    "width": 32,
    "layers": (2,),
    "heads": 2,
    "context": 12,
    "vocabulary": 30,
}
START, END = 28, 29


def bow():
    torch.manual_seed(0)
    return CaptionBow(CaptionBowConfig(**SIZES), RunAssets(None, None))


def lm(**changes):
    torch.manual_seed(0)
    config = CaptionLMConfig(**SIZES, text_width=16, text_layers=2, text_heads=2)
    model = CaptionLM(replace(config, **changes), RunAssets(None, None))
    for parameter in model.parameters():  # also what starts at 0 or 1
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def batch(rows=8):
    g = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (rows, 3, 16, 16), generator=g, dtype=torch.uint8)
    texts = [[START, *torch.randint(1, 9, (i,), generator=g).tolist(), END] for i in range(rows)]
    return {"image": image, "tokens": Ragged.of(texts)}, texts


def test_a_bag_holds_each_word_once():
    bags = word_bags(Ragged.of([[START, 3, 5, 3, 3, END], [START, END], [START, 7, END]]), 30)
    assert bags[0].nonzero().flatten().tolist() == [3, 5]
    assert bags.sum(1).tolist() == [1.0, 0.0, 1.0]


def test_the_bag_of_words_loss_is_the_mean_surprise_of_the_captions_words():
    logits = torch.randn(3, 30, generator=torch.Generator().manual_seed(0))
    texts = [[START, 3, 5, 3, END], [START, 1, END], [START, 8, 9, 10, 11, END]]
    loss = bag_of_words(logits, word_bags(Ragged.of(texts), 30))
    for n, words in enumerate(({3, 5}, {1}, {8, 9, 10, 11})):
        odds = np.exp(logits[n].double().numpy())
        slow = -np.mean([np.log(odds[word] / odds.sum()) for word in words])
        assert float(loss[n]) == pytest.approx(slow, rel=1e-5)


def test_a_bag_of_words_rates_a_text_by_minus_its_loss():
    model, (data, _) = bow().eval(), batch()
    scores = model.score_texts({"image": data["image"]}, {"tokens": data["tokens"]})
    losses = model.losses(Features(model.encode(data)), data)["words"]
    torch.testing.assert_close(scores.diagonal()[1:], -losses[1:])  # the first text has no words


def one_by_one(model, image, text):
    """Mean log p of a text's tokens, each predicted from a sequence that ends before it."""
    memory = model.encode({"image": image})["image"]
    total = 0.0
    for n in range(1, len(text)):
        x = model.decoder(Ragged.of([text[:n]]), memory)
        total += float(model.decoder.logits(x)[0, -1].log_softmax(-1)[text[n]])
    return total / (len(text) - 1)


@torch.no_grad()
def test_a_language_model_rates_texts_as_if_one_by_one():
    """Whatever the texts have in common, in whatever order and tiles they come; twice the same text included."""
    model, (data, texts) = lm().eval(), batch(4)
    texts += [texts[3], [START, *texts[3][1:3], 9, END], [START, 4, END]]
    slow = torch.tensor([[one_by_one(model, data["image"][i : i + 1], t) for t in texts] for i in range(4)])
    tokens = Ragged.of(texts)
    got = model.score_texts({"image": data["image"]}, {"tokens": tokens})
    torch.testing.assert_close(got, slow, atol=1e-5, rtol=1e-4)
    memory = model.encode(data)["image"]
    tiles = model.decoder.log_likelihood(tokens, memory, tile=2) / (tokens.lengths - 1)
    torch.testing.assert_close(tiles, slow, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_language_models_loss_is_over_the_texts_own_tokens():
    model, (data, texts) = lm().eval(), batch()
    losses = model.losses(Features(model.encode(data)), data)["captioning"]
    slow = [one_by_one(model, data["image"][i : i + 1], text) for i, text in enumerate(texts)]
    counts = [len(text) - 1 for text in texts]
    assert len(losses) == model.items(data)["captioning"] == sum(counts)
    assert float(losses.sum()) == pytest.approx(-np.dot(slow, counts), rel=1e-4)


def test_shared_prefixes_are_decoded_once():
    levels = prefix_levels([[0, 5, 6, 1], [0, 5, 7, 1], [0, 5, 6, 8, 1]])
    assert [len(level.tokens) for level in levels] == [1, 1, 2, 1]
    assert levels[2].parents.tolist() == [0, 0]
    assert levels[2].nodes.tolist() == [0, 1, 0]


def test_what_comes_later_does_not_matter():
    torch.manual_seed(0)
    decoder, memory = TextDecoder(30, 12, 16, 2, 2, 8).eval(), torch.randn(1, 5, 8)
    a, b = (decoder(Ragged.of([text]), memory) for text in ([1, 2, 3, 4], [1, 2, 9, 9]))
    torch.testing.assert_close(a[:, :2], b[:, :2])
    assert not torch.allclose(a[:, 2:], b[:, 2:])
    with pytest.raises(ValueError, match="longer than the context"):
        decoder(Ragged.of([[1] * 13]), memory)


@pytest.mark.parametrize(
    "make", [bow, lm, lambda: lm(image_tower="resnet", image_size=64, layers=(1, 1, 1, 1), width=8)]
)
def test_micro_batches_change_nothing_and_every_weight_is_trained(make):
    """Captions of different lengths: a mean of means would weigh the tokens of short micro-batches more."""
    fabric = Fabric(accelerator="cpu", devices=1)
    gradients = []
    for accumulate in (1, 4):
        model = make()
        model.eval()  # batch norm sees its batch, which is not what is asked here
        data, _ = batch()
        if model.config.image_size == 64:
            data["image"] = data["image"].repeat(1, 1, 4, 4)
        backward(fabric, fabric.setup(Trainee(model)), data, accumulate=accumulate, seed=0, step=0)
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert [name for name, value in gradients[0].items() if value is None] == []
    for name, value in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_they_are_what_they_say():
    assert isinstance(bow(), ScoresTexts)
    assert isinstance(lm(), ScoresTexts)
    assert not isinstance(lm(), EncodesText)
    assert bow().represent_image(batch()[0]).shape == lm().represent_image(batch()[0]).shape == (8, 32)


@pytest.mark.parametrize("name", ["caption_bow", "caption_lm"])
def test_tiny_differs_from_clips_in_the_objective_alone(name):
    ours, clip = catalog.load(name).presets["tiny"](), catalog.load("clip").presets["tiny"]()
    for field in ("batch", "precision", "optimizer", "stages", "ema", "data", "budget"):
        assert getattr(ours, field) == getattr(clip, field), field
    shared = [field.name for field in fields(ImageEncoderConfig)] + [
        "context",
        "vocabulary",
        "tokenizer",
        "crop",
    ]
    if name == "caption_lm":
        shared += ["text_width", "text_layers", "text_heads"]
    for field in shared:
        assert getattr(ours.model, field) == getattr(clip.model, field), field


def test_figure_2s_language_model_has_its_63_million_parameters():
    with torch.device("meta"):
        model = catalog.load("caption_lm").system.build(
            catalog.load("caption_lm").presets["rn50"]().model, RunAssets(None, None)
        )
    blocks = sum(p.numel() for p in model.decoder.parameters())
    assert 63e6 < blocks < 80e6  # cross-attention comes on top of the text tower's 63 million


@pytest.mark.parametrize(
    ("name", "more"), [("caption_bow", {}), ("caption_lm", toys.TEXT)], ids=["bow", "lm"]
)
def test_it_learns_to_name_colours(tmp_path, name, more, evidence):
    data = toys.squares(tmp_path / "data")
    folder = runs.train(name, data=[str(data)], out=tmp_path / "run", budget="200steps",
                        changes=toys.SMALL | more, quiet=True)  # fmt: skip
    metrics = list(read_lines(folder.evaluations))[-1]["metrics"]
    top1 = metrics["squares.parquet/zeroshot/top1"]
    assert top1["value"] >= 0.95
    evidence(name, "learning", task="zero-shot naming of 8 colours, 200 steps of 32", top1=top1)
