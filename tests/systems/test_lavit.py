"""LaVIT: sequences of text and image in both orders, one stage at a time, and it learns to read and to draw."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from oculex import catalog, cli, export, inference, runs
from oculex.contracts import Answers, Features, UserError
from oculex.data.assets import RunAssets
from oculex.data.collate import collate
from oculex.systems.unified.lavit import LaVIT, LaVITConfig
from oculex.training import recipes
from oculex.training.folder import read_lines
from oculex.training.reopen import load
from tests import toys

SIZES = {"image_tower": "vit", "image_size": 16, "patch": 4, "width": 32, "layers": (1,), "heads": 2,
         "language": "llama", "language_width": 48, "language_layers": 2, "language_heads": 2, "context": 48,
         "vocabulary": 300, "tokenizer": "corpus:300", "merger_layers": 1, "merger_heads": 2, "merger_hidden": 64,
         "codes": 32, "code_width": 8, "unet_channels": (8, 16), "unet_condition": 16, "picture": 16,
         "predicts": "sample", "pixel_guidance": 1.0, "guidance": 2.0}  # fmt: skip
TEXTS = [f"a {name} square" for name in toys.COLOURS]


class Fixed(RunAssets):
    """Byte pairs of the toys' captions."""

    def __init__(self):
        super().__init__(None, lambda: TEXTS)


def model(**changes):
    torch.manual_seed(0)
    return LaVIT(LaVITConfig(**{**SIZES, **changes}), Fixed())


def samples(count=8):
    rng = np.random.default_rng(0)
    for n, (name, rgb) in zip(range(count), toys.COLOURS.items(), strict=False):
        pixels = np.clip(np.array(rgb) + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
        yield {"id": str(n), "image": pixels, "captions": [f"a {name} square"]}


def batch(system, **changes):
    views = [system.view(sample, np.random.default_rng(n)) for n, sample in enumerate(samples())]
    return collate([view | changes for view in views])


def only(system, *parts):
    for name, weight in system.named_parameters():
        weight.requires_grad_(name.startswith(parts))
    return system


def losses(system, made):
    torch.manual_seed(3)
    return system.losses(Features(system.encode(made)), made)


def test_each_stage_has_the_losses_of_what_it_trains():
    system = model()
    made = batch(system)
    found = {
        parts: set(losses(only(system, *parts), made))
        for parts in (("visual.",), ("pixels.",), ("language.", "reader."))
    }
    assert found == {
        ("visual.",): {"reconstruction", "length", "commitment"},
        ("pixels.",): {"painting"},
        ("language.", "reader."): {"sequence"},
    }


def test_an_image_before_its_text_is_read_and_after_it_is_learnt():
    """What stands at the image's places: vectors that have a gradient where it is read, names where it is written."""
    system = only(model(), "language.", "reader.")
    for writes in (False, True):
        system.zero_grad()
        losses(system, batch(system, writes=writes, alone=False))["sequence"].sum().backward()
        reader = system.reader.projection.weight.grad
        codes = system.language.get_input_embeddings().weight.grad[system.first_code :]
        assert (reader is not None and float(reader.abs().sum()) > 0) == (not writes)
        assert float(codes.abs().sum()) > 0  # of the tied output weights in both orders


def test_a_sequence_is_what_the_paper_says():
    """[image, text]: the text's tokens alone; [text, image]: all of both, by hand."""
    system = only(model(), "language.", "reader.").eval()
    made = batch(system, writes=True, alone=False)
    patches = system.encode(made)["patches"]
    words = system._words(patches)
    got = losses(system, made)["sequence"]
    for n, text in enumerate(made["tokens"].rows()):
        image = [system.begin_image, *(system.first_code + code for code in words[n]), system.end_image]
        ids = torch.tensor([[*text[:-1], *image, text[-1]]])
        logits = system.language(ids).logits
        assert torch.allclose(got[n], F.cross_entropy(logits[0, :-1], ids[0, 1:]), atol=1e-5)
    made = batch(system, writes=False, alone=False)
    got = losses(system, made)["sequence"]
    embed = system.language.get_input_embeddings()
    kept = system._kept(patches).detach()
    for n, text in enumerate(made["tokens"].rows()):
        vectors = system.reader(patches[n : n + 1], kept[n : n + 1])
        around = embed(torch.tensor([text[0], system.begin_image, system.end_image, *text[1:]]))
        x = torch.cat([around[:2], vectors, around[2:]])[None]
        logits = system.language(inputs_embeds=x).logits[0, len(vectors) + 2 : -1]
        assert torch.allclose(got[n], F.cross_entropy(logits, torch.tensor(text[1:])), atol=1e-5)
    made = batch(system, writes=True, alone=True)
    blind = losses(system, made)["sequence"]
    ids = torch.tensor([[made["tokens"].rows()[0][0], system.begin_image, *(system.first_code + c for c in words[0]),
                         system.end_image, made["tokens"].rows()[0][-1]]])  # fmt: skip
    assert torch.allclose(
        blind[0], F.cross_entropy(system.language(ids).logits[0, :-1], ids[0, 1:]), atol=1e-5
    )


def test_the_tokenizer_learns_where_to_look():
    """Its losses reach the selector, and never the tower."""
    system = only(model(), "visual.")
    made = batch(system)
    found = losses(system, made)
    found["reconstruction"].sum().backward()
    assert float(system.visual.selector.out[4].weight.grad.abs().sum()) > 0
    assert all(weight.grad is None for weight in system.image.parameters())
    before = system.visual.codebook.codes.clone()
    system.after_step(0, 10)
    assert not torch.equal(before, system.visual.codebook.codes)


def test_all_images_of_the_fixed_length_keep_as_many():
    system = model(fixed=True)
    patches = system.encode(batch(system))["patches"]
    assert {len(each) for each in system._words(patches)} == {5}
    system.train()
    torch.manual_seed(0)
    assert (system._kept(patches).round().sum(1) == 5).all()


def test_the_reader_begins_as_the_tokenizers_merger():
    system = only(model(), "visual.")
    torch.nn.init.normal_(system.visual.merger.norm.weight)
    system.after_stage(0, 3, [])
    assert torch.equal(system.reader.merger.norm.weight, system.visual.merger.norm.weight)
    torch.nn.init.normal_(system.visual.merger.norm.weight)
    only(system, "language.").after_stage(2, 3, [])
    assert not torch.equal(system.reader.merger.norm.weight, system.visual.merger.norm.weight)


def test_it_writes_pictures_and_answers():
    system = model().eval()
    assert isinstance(system, Answers)
    asked = collate(
        [
            system.view({"id": "0", "captions": ["a red square"]}, None),
            system.view({"id": "1", "captions": ["a"]}, None),
        ]
    )
    drawn = [system.draw(asked, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert drawn[0].shape == (2, 3, 16, 16)
    assert drawn[0].dtype == torch.uint8
    assert torch.equal(*drawn)
    seen = collate([system.view({"id": each["id"], "image": each["image"]}, None) for each in samples()])
    assert len(system.answer(seen, 4)) == 8
    assert system.repaint(seen, torch.Generator().manual_seed(1)).shape == (8, 3, 16, 16)
    question = collate(
        [
            system.view({"id": each["id"], "image": each["image"], "question": "which?"}, None)
            for each in samples()
        ]
    )
    assert "question: which? answer:" in system.tokenizer.decode(question["tokens"].rows()[0])


def plain_squares(folder):
    """The toys' squares, each with one caption: what is seen and drawn is the colour alone."""
    rows = pq.read_table(toys.squares(folder)).to_pydict()
    rows["caption"] = [TEXTS[label] for label in rows["label"]]
    pq.write_table(pa.table(rows), folder / "squares.parquet")
    return folder / "squares.parquet"


@pytest.fixture(scope="module")
def learned(request, tmp_path_factory):
    """A run through all three stages on eight colours; painting, which takes minutes, at full length alone."""
    long = request.config.getoption("--record-evidence")
    budget, shares = ("1000steps", (0.1, 0.5, 0.4)) if long else ("260steps", (0.15, 0.01, 0.84))
    folder = tmp_path_factory.mktemp("lavit")
    settings = {
        key: value for key, value in toys.SMALL.items() if key not in ("evaluation.prompts", "context")
    }
    fresh = {
        "vision_foundation": "", "language_foundation": "", "evaluation.tasks": ["captioning", "tokenization"],
        "evaluation.judges.detector": "", "evaluation.judges.clip": "",
    }  # fmt: skip
    recipe = recipes.preset(catalog.load("lavit"), "lavit", "tiny")
    changes = {
        **settings,
        **SIZES,
        **fresh,
        "budget": budget,
        "data.sources": [str(plain_squares(folder / "data"))],
    }
    recipe = recipes.change(recipe, changes)
    stages = tuple(replace(stage, share=share) for stage, share in zip(recipe.stages, shares, strict=True))
    return runs.start(replace(recipe, stages=stages), folder / "run", quiet=True)


def test_it_learns_to_read_and_to_draw(learned, evidence):
    """What an image is called, and what the picture of a name looks like, against the other images and names."""
    *_, last = read_lines(learned.evaluations)
    found = {name.rsplit("/", 1)[1]: value for name, value in last["metrics"].items()}
    assert found["rouge_l"]["low"] > 0.9
    assert found["wrong_image_rouge_l"]["high"] < 0.75  # "a ... square" stands in every caption
    if not evidence.recording:
        return
    system = load(learned).eval()
    asked = collate([system.view({"id": text, "captions": [text]}, None) for text in TEXTS * 8])
    drawn = system.draw(asked, torch.Generator().manual_seed(0)).float().mean((2, 3))
    palette = torch.tensor(list(toys.COLOURS.values())).float()
    right = torch.cdist(drawn, palette).argmin(1) == torch.arange(len(TEXTS)).repeat(8)
    share, n = float(right.float().mean()), len(right)
    half = 1.96 * (share * (1 - share) / n) ** 0.5
    assert share - half > 0.4, f"{share} of {n}"  # chance is 1 of 8
    drawn_right = {"value": share, "low": share - half, "high": min(share + half, 1.0), "n": n}
    evidence("lavit", "learning", task="8 colours, 1000 steps of 32 through its three stages",
             rouge_l=found["rouge_l"], wrong_image_rouge_l=found["wrong_image_rouge_l"],
             drawn_in_the_right_colour=drawn_right)  # fmt: skip


def test_the_command_draws_and_reads(learned, tmp_path, capsys):
    out = tmp_path / "new" / "red.png"
    cli.main(["generate", str(learned.path), "--draw", "a red square", "-o", str(out)])
    first = Image.open(out)
    assert (first.size, first.mode) == ((16, 16), "RGB")
    again = inference.draw(learned.path, "a red square", tmp_path / "again.png")
    other = inference.draw(learned.path, "a red square", tmp_path / "other.png", seed=1)
    assert np.array_equal(first, Image.open(again))
    assert not np.array_equal(first, Image.open(other))
    square = tmp_path / "blue.png"
    Image.new("RGB", (16, 16), toys.COLOURS["blue"]).save(square)
    (said,) = inference.generate(learned.path, [square])
    assert said["text"] == "a blue square"
    assert inference.generate(learned.path, prompt="a")[0]["text"]
    capsys.readouterr()
    for arguments, why in (
        (["--draw", "a", "-o", str(tmp_path / "a.txt")], "end it in .png"),
        (["--draw", " ", "-o", str(out)], "nothing to draw"),
        (["--draw", "a"], "where should the drawing go"),
        (["--draw", "a", "-o", str(out), "--prompt", "b"], "either draws or writes"),
    ):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["generate", str(learned.path), *arguments])
        assert why in capsys.readouterr().err


def test_what_it_learnt_is_used_elsewhere(learned, tmp_path, evidence):
    """Reloaded it is what it was; its language model is one of transformers', its tower one of timm's."""
    *_, last = read_lines(learned.evaluations)
    again = runs.evaluate(learned.path)["metrics"]
    assert again.keys() >= last["metrics"].keys()
    assert {name: again[name] for name in last["metrics"]} == last["metrics"]
    errors = {
        to: max(parity.max_abs_error for parity in export.export_run(learned.path, to, tmp_path / to))
        for to in ("transformers", "timm")
    }
    assert max(errors.values()) <= 1e-4
    opened = pytest.importorskip("transformers").AutoModelForCausalLM.from_pretrained(
        tmp_path / "transformers"
    )
    system = load(learned)
    assert opened.get_input_embeddings().num_embeddings == system.first_code + system.config.codes
    if evidence.recording:
        square = tmp_path / "blue.png"
        Image.new("RGB", (16, 16), toys.COLOURS["blue"]).save(square)
        (said,) = inference.generate(learned.path, [square])
        drawn = np.asarray(
            Image.open(inference.draw(learned.path, "a blue square", tmp_path / "drawn.png")), float
        )
        nearest = min(toys.COLOURS, key=lambda name: np.abs(drawn.mean((0, 1)) - toys.COLOURS[name]).sum())
        assert (said["text"], nearest) == ("a blue square", "blue")
        evidence("lavit", "usable", reloaded="equal in all metrics of its last evaluation", says_of_blue=said["text"],
                 draws_blue=nearest, export_max_abs_error=errors)  # fmt: skip


PHOTOS = {
    **SIZES, "image_size": 64, "patch": 8, "width": 64, "layers": [2], "heads": 2, "language_width": 64, "context": 128,
    "vocabulary": 1000, "tokenizer": "corpus:1000", "merger_hidden": 128, "codes": 128, "picture": 32, "unet_cell": 4,
    "kept": 0.25, "kept_weight": 10.0, "vision_foundation": "", "language_foundation": "", "batch": 32,
    "data.workers": 0, "evaluation.tasks": ["tokenization", "captioning"], "logging.every": 10,
    "evaluation.judges.detector": "", "evaluation.judges.clip": "",
}  # fmt: skip


def test_it_learns_from_real_photos(real_data, tmp_path, evidence):
    """The words of a photo nobody trained on give back its features, not another photo's; for the record with enough
    steps that the language model's descriptions are text, too."""
    budget, shares = ("400steps", (0.4, 0.1, 0.5)) if evidence.recording else ("40steps", (0.8, 0.05, 0.15))
    recipe = recipes.preset(catalog.load("lavit"), "lavit", "tiny")
    data = str(real_data / "flickr8k_thumbs")
    recipe = recipes.change(recipe, {**PHOTOS, "budget": budget, "data.sources": [data]})
    stages = tuple(replace(stage, share=share) for stage, share in zip(recipe.stages, shares, strict=True))
    folder = runs.start(replace(recipe, stages=stages), tmp_path / "run", quiet=True)
    *_, last = read_lines(folder.evaluations)
    found = {name.partition("/")[2]: value for name, value in last["metrics"].items()}
    gain = found["tokenization/gain_over_wrong_image"]
    assert gain["n"] == 70
    if evidence.recording:
        assert gain["low"] > 0
        stage = [line["loss"] for line in read_lines(folder.metrics) if "loss/sequence" in line]
        assert stage[-1] < 0.8 * stage[0]
        kept = ("tokenization/similarity", "tokenization/wrong_image_similarity", "tokenization/words",
                "captioning/cider", "captioning/gain_over_wrong_image")  # fmt: skip
        evidence("lavit", "real_data", data="Flickr8k: 630 photos with 5 captions each, 70 more held out",
                 budget=f"{budget} of {PHOTOS['batch']}", gain_over_wrong_image=gain,
                 next_token={"first": stage[0], "last": stage[-1]},
                 **{name.replace("/", "_"): found[name] for name in kept})  # fmt: skip


def test_images_are_words_and_words_give_features_back():
    system = model().eval()
    images = collate([system.view({"id": each["id"], "image": each["image"]}, None) for each in samples()])
    words = system.tokenize(images)
    assert [len(each) for each in words] == [
        len(each) for each in system._words(system.encode(images)["patches"])
    ]
    patches = system.encode(images)["patches"]
    back = system.visual.features(words)
    wanted = F.cosine_similarity(back, patches, dim=-1).mean(1)
    torch.testing.assert_close(system.similarity(images, words), wanted)


def test_an_image_that_fills_the_context_is_refused():
    with pytest.raises(UserError, match="more than context=19 holds"):
        model(context=19)
    with pytest.raises(UserError, match="predicts='noise' is unknown"):
        model(predicts="noise")


def test_the_published_tokenizer_has_its_size(evidence):
    """EVA-G apart: the authors' modules built with their sizes hold as many numbers."""
    from oculex.nn.tokens.visual_tokenizer import VisualTokenizer

    c = LaVITConfig()
    with torch.device("meta"):
        tokenizer = VisualTokenizer(
            1408, 256, c.merger_layers, c.merger_heads, c.merger_hidden, c.codes, c.code_width
        )
    count = sum(each.numel() for each in tokenizer.parameters()) + tokenizer.codebook.codes.numel()
    assert count == PUBLISHED
    evidence("lavit", "preset", tokenizer_parameters=count, equals="the authors' TokenPredictor, TokenMerger, quantizer "
             "and VQDecoder without its U-net projection")  # fmt: skip


PUBLISHED = 807_047_810
LLAMA_7B, WORD = 6_738_415_616, 4096
"""Parameters of the published language model, and the width of its words."""
STABLE_DIFFUSION = 859_520_964
"""Of version 1.5's U-net."""


def test_the_published_language_side_has_its_size(evidence):
    """LLaMA-7B reads and writes 16,384 visual words more and two that stand around them, as the authors number
    them: 32,000 and 32,001, then the first visual word (their lavit_for_generation.py)."""
    config = catalog.load("lavit").presets["llama_7b"]().model
    with torch.device("meta"):
        system = LaVIT(config, RunAssets(None, None))
    added = (
        2 * (config.codes + 2) * WORD
    )  # words that are read and words that are written have weights of their own
    counts = {
        part: sum(each.numel() for each in getattr(system, part).parameters())
        for part in ("language", "pixels")
    }
    assert counts["language"] == LLAMA_7B + added
    assert (system.begin_image, system.end_image, system.first_code) == (32_000, 32_001, 32_002)
    unet = sum(each.numel() for each in system.pixels.unet.parameters())
    assert unet == STABLE_DIFFUSION
    evidence("lavit", "preset", language_parameters=counts["language"], unet_parameters=unet,
             equals="LLaMA-7B's count and 16,386 words more in and out; Stable Diffusion 1.5's U-net")  # fmt: skip
