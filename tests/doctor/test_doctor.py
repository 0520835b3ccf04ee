"""The doctor finds what is planted, names it, says what to type, and says nothing where nothing is."""

import csv
import io
import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from oculex import catalog, cli, doctor
from oculex.data.sources import open_source
from oculex.data.split import split
from oculex.doctor import copies, page, texts
from oculex.doctor.commands import Commands
from oculex.doctor.findings import Rank
from oculex.doctor.look import HELD_OUT, TRAIN, Look, Seen, look
from oculex.training import memory, recipes

WORDS = "a red green small old dog horse house near on under beside the grey river garden".split()  # noqa: SIM905
SMALL = {"model.image_tower": "vit", "model.image_size": 32, "model.width": 32, "model.layers": [1], "model.heads": 1,
         "model.text_width": 32, "model.text_layers": 1, "model.text_heads": 1, "model.tokenizer": "corpus:500",
         "model.vocabulary": 500, "batch": 16, "precision": "32-true", "data.workers": 0}  # fmt: skip


def picture(seed, size=(96, 80)):
    """Coloured blobs, no two alike."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )


def folder(path, count=80):
    """A clean folder: (pictures by name, captions by name), to be planted in before it is written."""
    rng = np.random.default_rng(0)
    pictures = {f"{i:03d}.png": picture(i) for i in range(count)}
    captions = {name: [" ".join(rng.choice(WORDS, 8)) + f" {name[1]}{name[2]} times"] for name in pictures}
    path.mkdir()
    return pictures, captions


def write(path, pictures, captions):
    for name, image in pictures.items():
        if isinstance(image, bytes):
            (path / name).write_bytes(image)
        else:
            image.save(path / name)
    with (path / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        rows.writerows([name, text] for name, texts in captions.items() for text in texts)
    return path


def recipe(*paths, system="clip", **changes):
    base = recipes.preset(catalog.load(system), system, "tiny")
    return recipes.change(
        base, {"data.sources": [str(p) for p in paths], **(SMALL if system == "clip" else {}), **changes}
    )


def examined(path, **changes):
    """(findings by name, the whole report)"""
    report = doctor.examine(recipe(path, **changes), seconds=3)
    return {finding.name: finding for finding in report.findings}, report


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    path = tmp_path_factory.mktemp("doctor") / "clean"
    return write(path, *folder(path))


@pytest.fixture(scope="module")
def clean_report(clean):
    return examined(clean)


def test_nothing_is_found_where_nothing_is(clean_report):
    found, report = clean_report
    assert not {name for name, finding in found.items() if finding.rank > Rank.COSTS}
    assert set(found) <= {"slow-data"}  # a matter of the machine
    assert report.looked.whole()


def test_every_stage_has_a_rate_and_an_interval(clean_report):
    _, report = clean_report
    figures = json.loads(json.dumps(report.figures()))
    rates = figures["samples_per_s"]
    assert {"read", "decode", "augment", "tokenise", "collate", "loader", "update", "one_worker"} <= set(
        rates
    )
    for name, rate in rates.items():
        if name != "one_worker":
            assert 0 < rate["low"] <= rate["value"] <= rate["high"], name
            assert rate["n"] > 0
    stages = ("read", "decode", "augment", "tokenise", "collate")
    assert rates["one_worker"] == pytest.approx(1 / sum(1 / rates[name]["value"] for name in stages))
    whole = figures["update_rows"] == 16
    assert whole or figures["update_rows"] in (1, 2, 4, 8)  # where a machine is too slow for the time given
    assert ("the update was timed on" in page.text(report)) == (not whole)  # and that is said
    parts = {key: value for key, value in figures["memory"].items() if key not in ("peak", "available")}
    assert sum(parts.values()) == figures["memory"]["peak"]


PLANTED = {
    "tiny": lambda p, c: p.update({"007.png": picture(7, (20, 24))}),
    "oblong": lambda p, c: p.update({"007.png": picture(7, (400, 60))}),
    "flat": lambda p, c: p.update({"007.png": Image.new("RGB", (80, 80), (9, 90, 9))}),
    "grey": lambda p, c: p.update({"007.png": picture(7).convert("L")}),
    "unreadable": lambda p, c: p.update({"007.png": b"\x89PNG\r\n\x1a\nnothing more"}),
    "duplicates-equal": lambda p, c: p.update({"007.png": p["008.png"]}),
    "duplicates-near": lambda p, c: p.update({"007.png": p["008.png"].resize((60, 50))}),
    "not-language": lambda p, c: c.update({"007.png": ["http://shop.example/IMG_20391.jpg"]}),
    "short": lambda p, c: c.update({"007.png": ["photo"]}),
    "long": lambda p, c: c.update({"007.png": ["word and " * 60]}),
    "truncated": lambda p, c: c.update({"007.png": ["the river garden " * 20]}),
    "shared-caption": lambda p, c: c.update({"007.png": c["008.png"]}),
    "boilerplate": lambda p, c: c.update(
        {f"00{i}.png": ["Image for illustration only."] for i in range(3, 9)}
    ),
    "foreign": lambda p, c: c.update({"007.png": ["ქართული ენა საქართველოში"]}),
    "upsampled": lambda p, c: p.update({"007.png": picture(7, (31, 40))}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found_named_and_has_a_remedy(tmp_path, name):
    path = tmp_path / "data"
    pictures, captions = folder(path)
    PLANTED[name](pictures, captions)
    fixed = {"model.tokenizer": "clip", "model.vocabulary": 49_408} if name == "foreign" else {}
    found, report = examined(write(path, pictures, captions), **fixed)
    assert name in found, sorted(found)
    finding = found[name]
    assert any("007.png" in each or "003.png" in each for each in finding.examples), finding.examples
    assert finding.remedy
    if finding.share is not None:
        planted = 6 if name == "boilerplate" else 2 if name == "shared-caption" else 1
        assert round(finding.share.value * finding.share.n) == planted
        assert finding.share.low == finding.share.value == finding.share.high  # all was looked at
    assert finding.says.split(";")[0][:30] in " ".join(page.text(report).split())


def test_the_context_that_is_advised_holds_more_than_the_recipes(tmp_path):
    """Also where the recipe's already holds nearly all captions."""
    path = tmp_path / "data"
    pictures, captions = folder(path, 150)
    captions["007.png"] = ["the river garden " * 20]
    found, report = examined(write(path, pictures, captions))
    advised = int(re.search(r"context=(\d+)", found["truncated"].remedy)[1])
    assert found["truncated"].rank == Rank.NOTE
    assert advised > report.recipe.model.context


def test_images_without_a_caption_are_found():
    thumb = np.zeros((16, 16, 3), np.uint8)
    seen = [Seen(str(i), TRAIN, ("a red dog near the river",) if i else (), thumb=thumb) for i in range(40)]
    for limit, rank in ((0.05, Rank.COSTS), (0.01, Rank.STOPS)):
        found = {f.name: f for f in texts.captions(Look({TRAIN: 40}, seen), "clean", limit)}
        assert found["no-caption"].rank is rank
        assert found["no-caption"].examples == ("0",)
        assert found["no-caption"].leave_out == ["0"]


def test_a_leak_is_found_and_gone_after_the_remedy(tmp_path, capsys):
    """A training image copied over a held-out one, re-encoded. The printed commands are typed as they stand."""
    path = tmp_path / "data"
    pictures, captions = folder(path)
    write(path, pictures, captions)
    train, held = split(open_source(str(path)), 0.1)
    first, copy = train[0]["id"], held[0]["id"]
    pictures[first].save(path / copy, "JPEG", quality=60)
    found, report = examined(path)
    leak = found["leak"]
    assert report.findings[0] is leak
    assert leak.share.n == report.looked.count(HELD_OUT) == 8
    assert first in leak.examples[0]
    assert copy in leak.examples[0]
    assert "metrics" in leak.says

    out, into = tmp_path / "out.txt", tmp_path / "clean"
    doctor.examine(recipe(path), seconds=1, leave_out=out)
    assert out.read_text().split() in ([first], [copy])
    command = Commands(recipe(path), out).clean.replace("-o clean", f"-o {shlex.quote(str(into))}")
    cli.main(shlex.split(command)[1:])
    assert "left_out 1" in capsys.readouterr().out
    assert "leak" not in examined(into)[0]


def test_data_that_a_recipe_cannot_use_is_said_first(real_data):
    report = doctor.examine(recipe(real_data / "cifar10"), seconds=3)
    assert report.findings[0].name == "refused"
    assert "caption" in report.findings[0].says
    assert report.trial.rates is None
    assert "not measured" in page.text(report)


def test_a_batch_too_large_for_memory_is_said_with_the_accumulation_that_fits(
    clean, clean_report, monkeypatch
):
    needed = clean_report[1].trial.memory.peak
    monkeypatch.setattr(memory, "available", lambda device: 3 * needed)
    found, report = examined(clean, batch=128)
    assert found["memory"] is report.findings[0]
    pieces = int(found["memory"].remedy.split("accumulate=")[1].split()[0])
    assert pieces > 1
    assert report.trial.rates.rows < 128
    assert "memory" not in examined(clean, batch=128, accumulate=pieces)[0]


def test_a_look_at_a_part_gives_intervals_and_repeats_itself(clean):
    train, held = split(open_source(str(clean)), 0.1)
    first, again = (look([train], [held], 60, most=24) for _ in range(2))
    assert [seen.id for seen in first.seen] == [seen.id for seen in again.seen]
    assert (first.count("training"), first.count(HELD_OUT)) == (18, 6)
    share = first.share(3, 24)
    assert share.low < share.value < share.high


def test_a_look_ends_when_time_is_over(clean):
    assert not look([open_source(str(clean))], [], seconds=0.0).seen


@pytest.mark.parametrize(
    ("change", "alike"),
    [
        (lambda image: image.resize((48, 40)), True),
        (lambda image: image.point(lambda value: int(value * 0.9)), True),
        (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), False),
        (lambda image: picture(1000), False),
    ],
    ids=["resized", "darker", "mirrored", "another"],
)
def test_what_counts_as_a_copy(change, alike):
    found = 0
    for seed in range(20):
        pair = picture(seed), change(picture(seed))
        found += bool(copies.alike([copies.bits_of(p) for p in pair], [copies.thumb_of(p) for p in pair]))
    assert found >= 18 if alike else found == 0


def test_photographs_are_copies_of_themselves_alone(real_data):
    """No two of hundreds of different photographs; those encoded anew, and most of those also trimmed by 2 %."""
    train, held = split(open_source(str(real_data / "flickr8k_thumbs")), 0.1)
    seen = look([train], [held], 60).images()
    assert len(seen) > 500
    assert copies.alike([s.bits for s in seen], [s.thumb for s in seen]) == []
    for trim, least in ((0, 95), (50, 65)):  # measured: 100 and 74
        found = 0
        for index in range(100):
            image = Image.open(io.BytesIO(train[index]["image"])).convert("RGB")
            dx, dy = (side // trim if trim else 0 for side in image.size)
            buffer = io.BytesIO()
            trimmed = image.crop((dx, dy, image.width - dx, image.height - dy))
            trimmed.save(buffer, "JPEG", quality=30)
            pair = image, Image.open(buffer).convert("RGB")
            found += bool(copies.alike([copies.bits_of(p) for p in pair], [copies.thumb_of(p) for p in pair]))
        print(trim, found)
        assert found >= least


def test_the_command_prints_json(clean, capsys):
    sets = [
        f"{key}={json.dumps(value) if not isinstance(value, str) else value}" for key, value in SMALL.items()
    ]
    cli.main(["data", "doctor", str(clean), "--recipe", "clip", "--seconds", "2", "--json", "--set", *sets])
    figures = json.loads(capsys.readouterr().out)
    assert figures["looked_at"] == {"training": {"n": 72, "of": 72}, "held-out": {"n": 8, "of": 8}}
    assert figures["memory"]["peak"] > 0
