"""The same over HTTP, uploads that are hostile, mistakes of the user, and the end of the server."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from oculex import embeddings, inference, runs
from oculex.contracts import Answers, Classifies, Draws, RepresentsPatches, UserError
from oculex.nn.language.generate import Choice
from oculex.serve import MOST_BYTES, Server, serve, tabs
from oculex.serve.opened import Opened
from oculex.serve.shelf import shelf
from oculex.serve.speech import spoken
from oculex.serve.tabs import ask, classify, draw, features, find, search
from tests import toys

gradio_client = pytest.importorskip("gradio_client")


@pytest.fixture
def client(serving, request):
    def of(name):
        return gradio_client.Client(
            serving(request.getfixturevalue(name)).url, verbose=False, analytics_enabled=False
        )

    return of


@pytest.fixture(scope="session")
def red(tmp_path_factory):
    path = tmp_path_factory.mktemp("red") / "red.png"
    Image.new("RGB", (16, 16), toys.COLOURS["red"]).save(path)
    return path


# ------------------------------------------------------------------------------------------ over HTTP


def test_a_program_searches_and_classifies(client, clip, red, tmp_path):
    asked = client("clip")
    found = asked.predict("a photo of a red.", 5, api_name="/search_text")
    assert [set(hit) >= {"id", "score", "caption", "image"} for hit in found["hits"]] == [True] * 5
    like = asked.predict(gradio_client.handle_file(str(red)), 5, api_name="/search_picture")
    assert sum("red" in hit["caption"] for hit in like["hits"]) >= 3
    named = asked.predict(gradio_client.handle_file(str(red)), "red\nblue\ngreen", api_name="/classify_names")
    assert named["rows"][0]["name"] == "red"
    with pytest.raises(Exception, match="give two names or more"):
        asked.predict(gradio_client.handle_file(str(red)), "red", api_name="/classify_names")
    with pytest.raises(Exception, match="greater than maximum value 60"):
        asked.predict("red", 10**9, api_name="/search_text")


def test_a_program_hears_an_answer_word_by_word(client, llava, red):
    job = client("llava").submit(gradio_client.handle_file(str(red)), "", 64, 0, 0, api_name="/answer")
    (said,) = inference.generate(llava, [red])
    assert job.result(timeout=60) == said["text"]
    parts = job.outputs()
    assert len(parts) > 1
    assert all(said["text"].startswith(part.strip()) for part in parts[:-1])


def test_a_picture_has_to_be_uploaded(serving, clip):
    """Neither files of the server nor addresses are opened, and what is too large is not taken."""
    url = serving(clip).url.rstrip("/")

    def call(path):
        told = {"path": path, "meta": {"_type": "gradio.FileData"}}
        event = httpx.post(f"{url}/gradio_api/call/search_picture", json={"data": [told, 3]}).json()[
            "event_id"
        ]
        return httpx.get(f"{url}/gradio_api/call/search_picture/{event}", timeout=60).text

    for path in (
        "/etc/passwd",
        f"{clip}/recipe.json",
        "/tmp/../etc/passwd",
        "http://127.0.0.1:1/a.png",
        "file:///etc/passwd",
    ):
        assert "event: error" in call(path), path
        assert "hits" not in call(path)
    assert "addresses are not fetched" in call("http://127.0.0.1:1/a.png")
    for path in ("/etc/passwd", f"{clip}/recipe.json", str(Path(__file__))):
        assert httpx.get(f"{url}/gradio_api/file={path}").status_code in (403, 404), path
    large = httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.png", b"\0" * (MOST_BYTES + 1))})
    assert large.status_code == 413


def test_a_bomb_is_refused_before_it_is_decoded(client, tmp_path):
    """A PNG of 100 million pixels in 100 kB."""
    bomb = tmp_path / "bomb.png"
    Image.new("1", (10_000, 10_000)).save(bomb)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(Exception, match="over the limit"):
        client("clip").predict(gradio_client.handle_file(str(bomb)), 3, api_name="/search_picture")


# ----------------------------------------------------------------------------------- the functions alone


def test_what_is_found_is_what_the_command_finds(clip, squares, tmp_path):
    assert embeddings.index(clip, str(squares), tmp_path / "index") == 240
    opened = Opened.of(clip)
    for pictures in (shelf(opened, index=tmp_path / "index"), shelf(opened, images=str(squares))):
        found = search.text_to_pictures(opened, pictures, "a photo of a pink.", 20)["hits"]
        hits = embeddings.search(tmp_path / "index", "a photo of a pink.", 20)
        assert [hit["id"] for hit in found] == [hit["id"] for hit in hits]
        assert [hit["score"] for hit in found] == pytest.approx([hit["score"] for hit in hits], abs=1e-5)


def test_an_index_of_another_run_or_of_other_pictures_is_named(clip, classifier, squares, tmp_path):
    embeddings.index(clip, str(squares), tmp_path / "index")
    with pytest.raises(UserError, match="serve that run"):
        shelf(Opened.of(classifier), index=tmp_path / "index")
    (tmp_path / "index" / "embeddings.npy").write_bytes(b"no numbers")
    with pytest.raises(UserError, match="make the index again"):
        shelf(Opened.of(clip), index=tmp_path / "index")


def test_classes_are_the_classifiers(classifier, red):
    opened = Opened.of(classifier)
    rows = classify.known(opened, red.read_bytes())["rows"]
    logits = opened.system.classify(opened.batch({"id": "a", "image": red.read_bytes()}))[0]
    wanted = dict(zip(toys.COLOURS, logits.softmax(0).tolist(), strict=True))
    assert {row["name"]: row["score"] for row in rows} == pytest.approx(wanted)
    assert rows[0]["name"] == "red"


def test_names_are_told_apart_as_in_the_evaluation(clip):
    """The share that is right equals the evaluation's, prompts and all."""
    opened = Opened.of(clip)
    names, right = "\n".join(toys.COLOURS), []
    for index in range(len(opened.held_out)):
        sample = opened.held_out[index]
        first = classify.named(opened, sample["image"], names)["rows"][0]["name"]
        right.append(first == list(toys.COLOURS)[sample["label"]])
    told = runs.evaluate(clip)["metrics"]["squares.parquet/zeroshot/top1"]
    assert (np.mean(right), len(right)) == (pytest.approx(told["value"]), told["n"])


def test_a_text_is_drawn_by_its_seed_and_temperature(gpt):
    """Above temperature 0 the seed alone decides; at 0 it decides nothing."""
    from oculex.serve.tabs.continue_text import continued

    opened = Opened.of(gpt)

    def said(temperature, seed):
        return list(continued(opened, "a photo", 12, temperature, seed))[-1]

    drawn = {said(1.5, seed) for seed in range(6)}
    assert len(drawn) > 1
    assert (
        said(1.5, 3)
        == said(1.5, 3)
        == inference.generate(gpt, prompt="a photo", most=12, temperature=1.5, seed=3)[0]["text"]
    )
    assert said(0, 1) == said(0, 2)
    with pytest.raises(UserError, match="temperature is a number"):
        said(-1, 0)


def test_who_stops_listening_stops_the_model(gpt):
    opened = Opened.of(gpt)
    views, say = inference.asked(opened.system, opened.name, (), "a photo")
    heard = spoken(opened, opened.collated(views), say, 20, 0.0, 0)
    before = set(threading.enumerate())
    next(heard)
    (writer,) = set(threading.enumerate()) - before
    heard.close()
    assert not opened.lock.locked()
    assert not writer.is_alive()


def test_a_failure_of_the_model_is_not_swallowed(gpt):
    opened = Opened.of(gpt)

    def say(batch, most):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(spoken(opened, {}, say, 5, 0.0, 0))


def test_drawings_follow_the_guidance(lavit):
    """The configured guidance is what is drawn by when none is given, and stands again afterwards."""
    opened = Opened.of(lavit)
    before = opened.system.config

    def drawn(guidance, seed=0):
        ((picture, told),) = draw.pictures(opened, "a red square", 1, seed, guidance)
        assert told == f"seed {seed}"
        return np.asarray(picture)

    assert np.array_equal(drawn(None), drawn(before.guidance))
    assert any(not np.array_equal(drawn(None, seed), drawn(0.0, seed)) for seed in range(8))
    assert opened.system.config == before
    with pytest.raises(UserError, match="nothing to draw"):
        draw.pictures(opened, " ", 1, 0, None)


def test_boxes_are_the_systems_in_pixels(fiber):
    opened = Opened.of(fiber)
    sample = opened.examples("image", "grounded")[0]
    shown, told = find.boxes(opened, sample["image"], find._marked(sample["grounded"][0]), 2, 0.0)
    own = opened.system.ground(opened.batch(sample), 2)[0].detach().numpy()
    assert [phrase["phrase"] for phrase in told["phrases"]] == [
        sample["grounded"][0]["text"][a:b] for ((a, b),) in sample["grounded"][0]["spans"]
    ]
    for phrase, rows in zip(told["phrases"], own, strict=False):
        kept = rows[np.isfinite(rows).all(1)]
        np.testing.assert_allclose(phrase["boxes"], kept[:, :4] * 32, atol=0.01)
    assert shown.size == (512, 512)
    x0, y0, x1, _ = (16 * edge for edge in told["phrases"][-1]["boxes"][0])
    colour = tuple(int(told["phrases"][-1]["colour"][n : n + 2], 16) for n in (1, 3, 5))
    assert shown.getpixel((int((x0 + x1) / 2), int(y0) + 1)) == colour
    none = find.boxes(opened, sample["image"], "red square", 2, 1.0)[1]["phrases"][0]
    assert (none["boxes"], none["shown"]) == ([], "not found")


def test_phrases_are_read_in_both_forms():
    listed = find.grounded("a red ball, a cube\na cube")
    assert [listed["text"][a:b] for ((a, b),) in listed["spans"]] == ["a red ball", "a cube"]
    marked = find.grounded("see [a red ball] near [a cube]!")
    assert marked["text"] == "see a red ball near a cube!"
    assert [marked["text"][a:b] for ((a, b),) in marked["spans"]] == ["a red ball", "a cube"]
    for text, why in (("", "nothing to find"), ("[a", "bracket is open"), ("[a [b]]", "bracket is open")):
        with pytest.raises(UserError, match=why):
            find.grounded(text)


def test_features_are_the_reports(classifier, red):
    from oculex.report.features import rows

    opened = Opened.of(classifier)
    shown = features.pictures(opened, red.read_bytes())
    own = rows(opened.system, opened.batch({"id": "a", "image": red.read_bytes()}))
    assert [np.asarray(picture)[::80, ::80].tolist() for picture, _ in shown[1:]] == [
        each[0].tolist() for each in list(own.values())[1:]
    ]


def test_tabs_go_by_capabilities_and_by_nothing_else():
    class Speaker(torch.nn.Module):
        def answer(self, batch, most):
            return []

    class Painter(Speaker):
        classes = 3

        def draw(self, batch, generator=None):
            return torch.zeros(0)

        def classify(self, batch):
            return torch.zeros(0)

        def patch_features(self, batch):
            return torch.zeros(0), (0, 0)

    assert isinstance(Painter(), (Answers, Draws, Classifies, RepresentsPatches))
    assert [tab.title for tab in tabs.of(Speaker())] == ["Ask"]
    assert [tab.title for tab in tabs.of(Painter())] == ["Classify", "Ask", "Draw", "Features"]
    assert tabs.of(torch.nn.Linear(1, 1)) == []


def test_nothing_to_answer_is_named(llava, tmp_path):
    opened = Opened.of(llava)
    for given, why in (
        ((None, " ", 5, 0, 0), "nothing to answer"),
        ((None, "what?", 0, 0, 0), "most tokens is a number"),
        ((None, "what?" * 2000, 5, 0, 0), "10,000 characters"),
        ((b"nothing", "what?", 5, 0, 0), "not a readable image"),
    ):
        with pytest.raises(UserError, match=why):
            list(ask.answer(opened, *given))
    assert Choice() == Choice(0.0, None, None)


# ------------------------------------------------------------------------------------ beginning and end


def test_a_run_whose_data_are_gone_is_served_without_examples(clip, squares, tmp_path):
    import json
    import shutil

    run = shutil.copytree(clip, tmp_path / "run")
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["data"]["sources"] = [str(tmp_path / "gone.parquet")]
    (run / "recipe.json").write_text(json.dumps(recipe))
    opened = Opened.of(run)
    assert (opened.held_out, shelf(opened), opened.examples("image")) == (None, None, [])
    with Server(opened, None) as server:
        assert httpx.get(server.url).status_code == 200


def test_mistakes_are_one_line(clip, gpt, squares, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for given, why in (
            ({"port": port}, f"cannot listen on 127.0.0.1:{port}"),
            ({"host": "256.0.0.1"}, "cannot listen on 256.0.0.1"),
            ({"port": 70_000}, "cannot listen on 127.0.0.1:70000"),
            ({"images": "a", "index": tmp_path}, "either --images PATH or --index INDEX"),
            ({"index": tmp_path}, "is not an index"),
            ({"images": "/nowhere"}, "does not exist"),
        ):
            with pytest.raises(UserError, match=re.escape(why)):
                serve(clip, **given)
    with pytest.raises(UserError, match="does not encode images"):
        serve(gpt, images=str(squares))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly(gpt, tmp_path, sent):
    """Status 0, the port free, no upload left."""
    command = [sys.executable, "-m", "oculex", "serve", str(gpt), "--port", "0"]
    env = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    line = running.stdout.readline()
    url = re.search(r"http://127\.0\.0\.1:\d+", line)[0]
    assert httpx.get(url).status_code == 200
    assert list(tmp_path.glob("oculex-serve-*"))
    running.send_signal(sent)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (0, "ended\n", "")
    assert not list(tmp_path.glob("oculex-serve-*"))
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_without_gradio_the_extra_is_named(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install 'oculex\[serve\]'"):
        serve(clip)
