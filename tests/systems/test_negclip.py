"""NegCLIP against its authors' loss; what its batches are made of; and that it learns who stands where."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from oculex import export, runs
from oculex.contracts import Features, UserError
from oculex.data.assets import RunAssets
from oculex.data.collate import Ragged
from oculex.data.order import generator
from oculex.nn.joint import hard_images
from oculex.nn.joint.hard_images import HardImages, nearest
from oculex.objectives.contrastive import contrastive
from oculex.systems.contrastive.negclip import SYSTEM, NegCLIP, NegCLIPConfig
from oculex.training.folder import read_lines
from tests import toys
from tests.systems.test_clip import PHOTOS

pytest.importorskip("HanTa", reason="kinds of words need HanTa")

SMALL = NegCLIPConfig(image_size=16, patch=8, width=16, layers=(1,), heads=2, embedding=8, text_width=16, text_layers=1,
                      text_heads=2, context=16, vocabulary=300, tokenizer="corpus:300", foundation="given")  # fmt: skip
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "negclip.npz")


def halves(name):
    """The authors lay the drawn samples and then those like them; ours lie in pairs."""
    rows = torch.from_numpy(GOLDEN[name])
    return torch.stack([rows[:3], rows[3:6]], 1), torch.stack([rows[6:9], rows[9:]], 1) if len(
        rows
    ) > 6 else None


def test_loss_and_gradients_are_the_authors(evidence):
    system = NegCLIP(SMALL, RunAssets(None, None))
    system.log_scale.data = torch.from_numpy(GOLDEN["scale"]).log()
    (image, _), (text, negative) = halves("image"), halves("text")
    inputs = [each.requires_grad_() for each in (image, text, negative)]
    features = dict(zip(("image", "text", "negative"), inputs, strict=True))
    features["has_negative"] = torch.ones(3, 2, dtype=torch.long)
    loss = system.losses(Features(features), {})["contrastive"].mean()
    loss.backward()
    (to_image, _), (to_text, to_negative) = halves("to_image"), halves("to_text")
    wanted = [torch.from_numpy(GOLDEN["loss"]), to_image, to_text, to_negative]
    wanted.append(torch.from_numpy(GOLDEN["to_scale"]) * system.log_scale.exp())
    got = [loss, *(each.grad for each in inputs), system.log_scale.grad]
    errors = [float((a - b).detach().abs().max()) for a, b in zip(got, wanted, strict=True)]
    assert max(errors) < 1e-5
    names = ("loss", "to_image", "to_text", "to_negative", "to_log_scale")
    evidence(
        "negclip",
        "golden",
        peer=str(GOLDEN["provenance"]),
        max_abs_error=dict(zip(names, errors, strict=True)),
    )


def test_orders_of_words_are_those_that_the_authors_make():
    from oculex.data import swaps

    for key, theirs in json.loads(str(GOLDEN["orders"])).items():
        text, name = key.split("|")
        ours = {swaps.orders(text, np.random.default_rng(n)).get(name) for n in range(60 + 8 * len(theirs))}
        assert ours - {None} <= set(theirs), key
        assert len(ours - {None}) >= 0.9 * len(theirs), key
    for text, cleaned in json.loads(str(GOLDEN["cleaned"])).items():
        assert swaps.plain(text) == cleaned


def test_the_papers_preset_is_vit_b_32(evidence):
    recipe = SYSTEM.presets["vit_b_32"]()
    with torch.device("meta"):
        system = NegCLIP(recipe.model, RunAssets(None, None))
    assert sum(p.numel() for p in system.parameters()) == 151_277_313
    assert (recipe.batch, recipe.optimizer.lr, recipe.stages[0].schedule.warmup) == (256, 1e-6, 50)
    evidence("negclip", "preset", vit_b_32=151_277_313)


# --------------------------------------------------------------------------------------------- similar images


class Coloured:
    """Image n is of one colour; the foundation sees its mean."""

    name, classes = "coloured", ()

    def __init__(self, values, captions=None, ids=None):
        self.values, self.ids = values, ids or [f"i{n}" for n in range(len(values))]
        self.captions = captions or [["a shade"]] * len(values)

    def fingerprint(self):
        return repr((self.values, self.ids))

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        shade = np.full((16, 16, 3), self.values[index], np.uint8)
        return {"id": self.ids[index], "image": shade, "captions": self.captions[index]}


class Mean(torch.nn.Module):
    def view(self, sample, rng):
        return {"image": np.ascontiguousarray(sample["image"].transpose(2, 0, 1))}

    def encode_image(self, batch):
        angle = batch["image"].float().mean((1, 2, 3)) / 128
        return torch.stack([angle.cos(), angle.sin()], 1)


def assets(*sources):
    texts = [text for source in sources for each in source.captions for text in each]
    return RunAssets(None, lambda: texts * 20, sources=sources, foundation=lambda name: Mean())


def test_neighbours_are_the_nearest_by_cosine_and_never_oneself():
    rows = torch.randn(70, 5, generator=torch.Generator().manual_seed(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hard_images, "ROWS", 16)
        got = nearest(rows, 4)
    for n, found in enumerate(got.tolist()):
        cosine = F.cosine_similarity(rows[n][None], rows)
        wanted = [int(m) for m in cosine.argsort(descending=True) if m != n][:4]
        assert found == wanted


def test_similar_images_are_found_once_and_over_all_sources(monkeypatch):
    dark, light = Coloured([0, 10, 200, 90]), Coloured([12, 210, 190, 95], ids=["a", "b", "c", "d"])
    hard = HardImages("given", assets(dark, light), 2)
    found = {hard.near(dark[0], np.random.default_rng(n))["id"] for n in range(20)}
    assert found == {"i1", "a"}
    assert {hard.near(light[1], np.random.default_rng(n))["id"] for n in range(20)} == {"i2", "c"}
    monkeypatch.setattr(Mean, "encode_image", None)  # kept: not asked again
    again = HardImages("given", assets(dark, light), 2)
    assert (again.nearest == hard.nearest).all()


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ((Coloured([1, 2, 3], [["a"], ["b"], []]),), "2 readable images with captions, too few for 2"),
        ((Coloured([1, 2, 3]), Coloured([4, 5])), "two training samples are called i"),
    ],
)
def test_data_without_neighbours_is_refused(sources, said):
    with pytest.raises(UserError, match=said):
        HardImages("given", assets(*sources), 2)


def test_a_sample_from_elsewhere_is_named():
    hard = HardImages("given", assets(Coloured([1, 2, 3])), 2)
    with pytest.raises(UserError, match="other is none of the images"):
        hard.near({"id": "other"}, np.random.default_rng(0))


# ---------------------------------------------------------------------------------------------------- batches

TEXTS = ["a red dog behind a blue cat", "two birds over a house", "rain", "a man on a horse"]


@pytest.fixture(scope="module")
def system():
    torch.manual_seed(0)
    return NegCLIP(SMALL, assets(Coloured([0, 10, 100, 110], [[text] for text in TEXTS])))


def test_a_training_view_is_a_sample_one_like_it_and_a_negative_of_each(system):
    source = Coloured([0, 10, 100, 110], [[text] for text in TEXTS])
    read = system.tokenizer.decode
    view = system.view(source[0], generator(1, 2))
    assert set(view) == {
        prefix + key for prefix in ("", "other_") for key in ("image", "tokens", "negative", "has_negative")
    }
    assert read(view["tokens"]) == TEXTS[0]
    assert sorted(read(view["negative"])) == sorted(TEXTS[0])
    assert read(view["negative"]) != TEXTS[0]
    assert read(view["other_tokens"]) in TEXTS[1:]
    again = system.view(source[0], generator(1, 2))
    assert all(np.array_equal(view[key], again[key]) for key in view)
    rain = system.view(source[2], generator(0))
    assert not rain["has_negative"]
    assert rain["negative"] == rain["tokens"]
    assert set(system.view(source[0], None)) == {"image", "tokens"}


def test_a_run_that_is_over_has_no_training_view():
    with pytest.raises(UserError, match="oculex train"):
        NegCLIP(SMALL, RunAssets(None, None)).view({"id": "x"}, generator(0))


def batch(has):
    generator = torch.Generator().manual_seed(3)
    made = {}
    for prefix in ("", "other_"):
        made[f"{prefix}image"] = torch.randint(256, (4, 3, 16, 16), generator=generator, dtype=torch.uint8)
        for key in ("tokens", "negative"):
            rows = torch.randint(1, 290, (4, 6), generator=generator).tolist()
            made[prefix + key] = Ragged.of([row[: 3 + n] for n, row in enumerate(rows)])
        made[f"{prefix}has_negative"] = torch.tensor(has[prefix])
    return made


def test_a_caption_without_a_negative_adds_none_to_the_texts(system):
    has = {"": [True, False, True, False], "other_": [False, False, True, True]}
    features = system.encode(batch(has))
    loss = system.losses(Features(features), {})["contrastive"]
    image, text, negative = (features[name].flatten(0, 1) for name in ("image", "text", "negative"))
    wrong = negative[torch.tensor([0, 4, 5, 7])]
    logits = system.log_scale.exp() * image @ torch.cat([text, wrong]).T
    truth = torch.arange(8)
    wanted = F.cross_entropy(logits, truth, reduction="none") + F.cross_entropy(
        logits[:, :8].T, truth, reduction="none"
    )
    torch.testing.assert_close(loss, (wanted / 2).view(4, 2).mean(1))
    none = system.encode(batch({"": [False] * 4, "other_": [False] * 4}))
    torch.testing.assert_close(
        system.losses(Features(none), {})["contrastive"],
        contrastive(image, text, system.log_scale.exp()).view(4, 2).mean(1),
    )


# -------------------------------------------------------------------------------------------------- learning

PAIRS = (
    toys.SMALL
    | toys.TEXT
    | {"context": 32, "embedding": 32, "activation": "gelu", "evaluation.tasks": ["compositional"]}
)


def pairs(folder):
    """Two of eight colours side by side, each ordered pair in four pictures with captions; questions about two more."""
    rng, rows, asked = np.random.default_rng(0), [], {}
    (folder / "images").mkdir(parents=True)
    for n, sides in enumerate(6 * list(permutations(toys.COLOURS, 2))):
        pixels = np.repeat([[toys.COLOURS[name] for name in sides]], 16, 0).repeat(8, 1)
        noisy = (pixels + rng.normal(0, 20, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / "images" / f"{n}.png")
        true, false = (f"a {a} square to the left of a {b} square" for a, b in (sides, sides[::-1]))
        if n < 4 * 56:
            rows.append({"image": f"images/{n}.png", "caption": true})
        else:
            asked[str(n)] = {"filename": f"{n}.png", "caption": true, "negative_caption": false}
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "swap.json").write_text(json.dumps(asked), encoding="utf-8")
    return folder / "captions.jsonl", folder / "swap.json"


def swapped(run):
    return list(read_lines(run.evaluations))[-1]["metrics"]["swap.json/compositional/swap"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """(CLIP that knows the colours, the same tuned with negatives, questions about other pictures)."""
    folder = tmp_path_factory.mktemp("pairs")
    data, questions = pairs(folder / "data")
    asked = PAIRS | {"evaluation.on": [str(questions)]}
    clip = runs.train(
        "clip", data=[str(data)], out=folder / "clip", budget="60steps", changes=asked, quiet=True
    )
    changes = asked | begun_with(clip) | {"batch": 16}
    run = runs.train(
        "negclip", data=[str(data)], out=folder / "run", budget="150steps", changes=changes, quiet=True
    )
    return clip, run, questions


def begun_with(clip):
    """A run's weights, its tokenizer, and its embeddings to tell which images are alike."""
    spec = str(clip.path)
    return {"init.run": spec, "init.take": [["", ""]], "tokenizer": f"from:{spec}", "foundation": spec}


def test_it_learns_which_of_two_is_left(tuned, evidence):
    clip, run, _ = tuned
    before, after = swapped(clip), swapped(run)
    assert after["value"] >= 0.9
    assert after["low"] > before["high"]
    evidence("negclip", "learning", task="which of two colours is left, 150 steps of 16 pairs after CLIP's 60 of 32",
             before=before, after=after)  # fmt: skip


def test_what_it_learnt_is_used_elsewhere(tuned, tmp_path, evidence):
    _, run, questions = tuned
    errors = {
        to: max(p.max_abs_error for p in export.export_run(run.path, to, tmp_path / to))
        for to in export.TARGETS
    }
    assert max(errors.values()) <= 1e-4
    again = runs.evaluate(run.path, [str(questions)])["metrics"]["swap.json/compositional/swap"]
    assert again["value"] == swapped(run)["value"]
    evidence("negclip", "usable", export_max_abs_error=errors, evaluated_again=again["value"])


SMALL_PHOTOS = PHOTOS | {"image_size": 32, "width": 16, "heads": 4, "text_width": 64, "batch": 64,
                         "precision": "32-true", "evaluation.tasks": ["order"]}  # fmt: skip
"""Less to look at, because most of how words are ordered is learnt from the captions."""


def test_it_learns_from_real_photos(real_data, tmp_path, evidence):
    """Held-out captions are told from their own words in other orders better than by the CLIP that it began as and
    than by guessing; for the record with enough steps, else with few."""
    clip_steps, steps = (100, 900) if evidence.recording else (8, 4)
    shared = {"data": [str(real_data / "flickr8k_thumbs")], "quiet": True}
    clip = runs.train(
        "clip", out=tmp_path / "clip", budget=f"{clip_steps}steps", changes=SMALL_PHOTOS, **shared
    )
    changes = SMALL_PHOTOS | begun_with(clip) | {"batch": 16, "optimizer.lr": 2e-3}
    run = runs.train("negclip", out=tmp_path / "run", budget=f"{steps}steps", changes=changes, **shared)
    found, before = (list(read_lines(each.evaluations))[-1]["metrics"] for each in (run, clip))
    name = "flickr8k_thumbs/order/order"
    assert found[name]["n"] == before[name]["n"] >= 340
    gained = runs.compare([clip.path, run.path])["differences"][str(run.path)][name]
    assert gained["n"] == found[name]["n"]
    if evidence.recording:
        assert gained["low"] > 0
        assert found[name]["low"] > found[f"{name}_chance"]["high"]
        evidence("negclip", "real_data", data="Flickr8k: 630 photos with 5 captions each, 70 more held out",
                 task="a caption is told from up to four other orders of its words",
                 budget=f"CLIP for {clip_steps} steps of 64, then NegCLIP for {steps} of 16 and as many like them",
                 before=before[name], after=found[name], gained=gained, chance=found[f"{name}_chance"],
                 shown_another_image=found[f"{name}_wrong_image"])  # fmt: skip
