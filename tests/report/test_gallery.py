"""The gallery of what a retrieval found: chosen the same way each time, and true to the records and the source."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from oculex.evaluation import EvalSet, evaluate
from oculex.evaluation.gallery import HITS, QUERIES, gallery, thumbnail
from oculex.report.gallery import inlined
from tests.evaluation.test_fakes import Dual, Listed, unit

N = 40


class Seeing(Dual):
    """Knows a picture by its grey."""

    def view(self, sample, rng):
        shown = {"image": sample["image"][:1, :1, :1].astype(np.int32) // 6} if "image" in sample else {}
        return shown | super().view({k: v for k, v in sample.items() if k != "image"}, rng)


def grey(n: int) -> np.ndarray:
    return np.full((8, 8, 3), 6 * n, np.uint8)  # apart enough for a lossy thumbnail


@pytest.fixture(scope="module")
def asked():
    """40 pictures with two captions each, some shared, of which a good part is found at once."""
    rng = np.random.default_rng(0)
    samples = [
        {"id": f"a#{n}", "image": grey(n), "captions": [f"number {n}", "even" if n % 2 == 0 else f"odd {n}"]}
        for n in range(N)
    ]
    texts = {text: None for sample in samples for text in sample["captions"]}
    images = unit(rng, N, 8)
    own = {text: images[int(text.split()[-1])] if text != "even" else images[0] for text in texts}
    vectors = {text: own[text] + 0.9 * rng.standard_normal(8) / 8**0.5 for text in texts}
    source = Listed(samples, name="numbers")
    result = evaluate(Seeing(images, vectors), {"numbers": EvalSet("numbers", source)}, tasks=["retrieval"])
    return result.table, source


def seen(uri: str) -> int:
    """The number that a thumbnail shows."""
    return round(np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))).mean() / 6)


def test_it_is_the_same_for_the_same_records_and_mixes_right_and_wrong(asked):
    table, source = asked
    found = gallery(table, {"numbers": source})
    order = np.random.default_rng(1).permutation(len(table))
    assert gallery(table.rows(order), {"numbers": source}) == found
    assert len(found) == QUERIES
    for kind in ("text_to_image", "image_to_text"):
        own = [entry for entry in found if entry["kind"] == kind]
        assert len(own) == QUERIES // 2
        assert sum(entry["rank"] == 1 for entry in own) == QUERIES // 4
        assert len({entry["query"] for entry in own}) == len(own)


def test_entries_say_what_records_and_source_say(asked):
    table, source = asked
    captions = {sample["id"]: sample["captions"] for sample in source.samples}
    for entry in gallery(table, {"numbers": source}):
        assert len(entry["hits"]) == HITS
        assert entry["of"] == (N if entry["kind"] == "text_to_image" else 2 * N)
        first_right = [hit["right"] for hit in entry["hits"]].index(True) + 1 if entry["rank"] <= HITS else 0
        if entry["kind"] == "text_to_image":
            for hit in (*entry["hits"], entry["truth"] | {"right": True}):
                assert hit["right"] == (entry["query"] in captions[hit["id"]])
                assert seen(hit["image"]) == int(hit["id"].split("#")[1])
            assert first_right == (entry["rank"] if entry["rank"] <= HITS else 0)
        else:
            own = captions[f"a#{seen(entry['query'])}"]
            assert entry["truth"]["text"] in own
            assert all(hit["right"] == (hit["text"] in own) for hit in entry["hits"])


def test_a_picture_that_cannot_be_read_again_leaves_the_rest(asked):
    table, source = asked
    gone = Listed(source.samples, broken=range(0, N, 2))
    found = gallery(table, {"numbers": gone})
    assert len(found) == QUERIES
    images = [hit["image"] for entry in found if entry["kind"] == "text_to_image" for hit in entry["hits"]]
    assert "" in images
    assert any(images)


def test_nothing_retrieved_nothing_shown(asked):
    table, source = asked
    assert gallery(table.select(task="zeroshot"), {"numbers": source}) == []
    assert gallery(table, {}) == []


def test_a_thumbnail_is_small_and_alike():
    smooth = np.zeros((300, 200, 3), np.uint8) + np.linspace(0, 255, 300, dtype=np.uint8)[:, None, None]
    head, body = thumbnail(smooth, 64).split(",")
    small = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB"))
    assert head == "data:image/webp;base64"
    assert small.shape == (64, 43, 3)
    assert abs(small.astype(int).mean() - smooth.mean()) < 3


def test_only_pictures_are_inlined(tmp_path):
    Image.fromarray(grey(3)).save(tmp_path / "own.png")
    assert inlined(thumbnail(grey(3))).startswith("data:image/webp;base64,")
    elsewhere = [str(tmp_path / "own.png"), "own.png", "https://example.org/a.png", ""]
    no_picture = ["data:text/html,<b>", "data:image/svg+xml;base64,PHN2Zy8+", "data:image/png;base64,????"]
    for refused in (*elsewhere, *no_picture):
        assert inlined(refused) == "", refused
