"""Embedding: order, limits, bad samples, the cache and what an interruption costs, ranks."""

import json

import numpy as np
import pytest
import torch

from oculex.contracts import UserError
from oculex.evaluation import compute
from oculex.evaluation import embed as embedding
from oculex.evaluation.embed import Embedder, embed
from oculex.nn.weights import weights_hash
from tests.evaluation.test_fakes import Dual, Fusion, Listed, sample, unit


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(compute, "CHUNK", 8)


def made(n=30, kind=Dual):
    rng = np.random.default_rng(0)
    texts = {f"text {k}": unit(rng, 4) for k in range(n)}
    return kind(unit(rng, n, 4), texts)


def source(n=30, **more):
    return Listed([sample(k, caption=f"text {k}") for k in range(n)], **more)


def test_rows_are_in_the_order_of_the_source():
    system = made()
    ids, values = embed(system, source(), batch=7)
    assert ids == [f"image-{k:04d}" for k in range(30)]
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, system.images.detach())
    ids, values = embed(system, source(), "text", limit=10)
    np.testing.assert_array_equal(values, system.vectors.detach()[[int(i[-4:]) for i in ids]])
    assert len(ids) == 10


def test_a_limit_takes_the_same_samples_and_does_not_cut_texts():
    few, more = (Embedder(made(), limit=k).images(source()).ids for k in (5, 9))
    assert len(few) == 5
    assert set(few) < set(more)
    assert more == sorted(more)
    texts = [f"text {k}" for k in range(20)]
    assert len(Embedder(made(), limit=5).texts(texts)) == 20


def test_bad_samples_are_listed_not_replaced():
    found = Embedder(made(), batch=4).images(source(broken=[3, 17]))
    assert found.bad == (("image-0003", "truncated"), ("image-0017", "truncated"))
    assert len(found.values) == len(found.ids) == 28
    np.testing.assert_array_equal(found.values[3], made().images.detach()[4])
    with pytest.raises(UserError, match="image-0003: truncated"):
        embed(made(), source(broken=[3, 17]))


def test_all_bad_is_empty():
    found = Embedder(made()).images(source(broken=range(30)))
    assert len(found.ids) == 0
    assert len(found.bad) == 30


def test_equal_ids_are_refused():
    with pytest.raises(UserError, match="same id"):
        Embedder(made()).images(Listed([sample(1), sample(1)]))


class Interrupted(Listed):
    """Fails at one sample, as a machine that goes away would."""

    def __getitem__(self, index):
        if index == 20:
            raise ConnectionError("gone")
        return super().__getitem__(index)


def test_an_interrupted_embedding_goes_on(tmp_path):
    system = made()
    with pytest.raises(ConnectionError):
        embed(system, Interrupted(source().samples), batch=4, cache=tmp_path)
    assert system.asked >= 16
    system.asked = 0
    values = embed(system, source(), batch=4, cache=tmp_path)[1]
    assert system.asked == 14  # two whole chunks of 8 were kept
    np.testing.assert_array_equal(values, system.images.detach())


def test_a_cache_is_used_once_whole_and_knows_bad_samples_labels_and_captions(tmp_path):
    system, data = made(), source(broken=[3])
    first = Embedder(system, cache=tmp_path).images(data)
    system.asked = 0
    second = Embedder(system, cache=tmp_path).images(data)
    assert system.asked == 0
    assert (first.items, first.bad) == (second.items, second.bad)
    np.testing.assert_array_equal(first.values, second.values)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * len(b)])
def test_a_damaged_chunk_is_computed_again(tmp_path, damage):
    system = made()
    embed(system, source(), cache=tmp_path)
    chunk = sorted(tmp_path.rglob("*.safetensors"))[1]
    chunk.write_bytes(damage(chunk.read_bytes()))
    system.asked = 0
    np.testing.assert_array_equal(embed(system, source(), cache=tmp_path)[1], system.images.detach())
    assert system.asked == 8


def test_a_chunk_that_does_not_fit_its_items_is_computed_again(tmp_path):
    from safetensors.numpy import save

    system = made()
    embed(system, source(), cache=tmp_path)
    chunk = sorted(tmp_path.rglob("*.safetensors"))[0]
    chunk.write_bytes(
        save({"values": np.zeros((3, 4), np.float32)}, {"about": json.dumps({"items": [], "bad": []})})
    )
    np.testing.assert_array_equal(embed(system, source(), cache=tmp_path)[1], system.images.detach())


def test_what_changes_the_answer_changes_the_key(tmp_path):
    system = made()

    def computed(data=None, **more) -> int:
        system.asked = 0
        embed(system, data or source(), cache=tmp_path, **more)
        return system.asked

    assert computed() == 30
    assert computed() == 0
    assert computed(precision="bf16-mixed") == 30
    assert computed(limit=10) == 10
    assert computed(source(name="other")) == 30
    assert computed(what="represent") == 30
    system.images.data[5, 0] += 1e-6
    assert computed() == 30
    shown = system.view
    system.view = lambda sample, rng: {**shown(sample, rng), "size": 224}
    assert computed() == 30
    system.config = ("pooling", "mean")
    assert computed() == 30
    assert computed() == 0


def test_scores_depend_on_the_texts_in_the_key(tmp_path):
    system = made(kind=Fusion)
    a = Embedder(system, cache=tmp_path).scores(source(), ["text 1", "text 2"]).values
    b = Embedder(system, cache=tmp_path).scores(source(), ["text 2", "text 1"]).values
    np.testing.assert_array_equal(a, b[:, ::-1])


def test_scores_in_tiles_equal_scores_at_once(monkeypatch):
    system, texts = made(kind=Fusion), [f"text {k}" for k in range(30)]
    whole = Embedder(system).scores(source(), texts).values
    monkeypatch.setattr(embedding, "TILE", 7)
    np.testing.assert_allclose(Embedder(system).scores(source(), texts).values, whole, atol=1e-6)


def test_modes_of_modules_come_back():
    system = made()
    system.frozen = torch.nn.Linear(1, 1).eval()
    system.train()
    system.frozen.eval()
    embed(system, source())
    assert system.training
    assert not system.frozen.training


def test_weights_hash_sees_every_bit_and_name():
    a, b = made(), made()
    assert weights_hash(a) == weights_hash(b)
    b.images.data[0, 0] = torch.nextafter(b.images.data[0, 0], torch.tensor(9.0))
    assert weights_hash(a) != weights_hash(b)
    assert weights_hash(a) != weights_hash(made().bfloat16())


def on_rank(rank: int) -> tuple[int, list[str], np.ndarray, tuple]:
    compute.CHUNK = 8
    system = made()
    found = Embedder(system, batch=4).images(source(broken=[3]))
    return system.asked, found.ids, found.values, found.bad


@pytest.mark.parametrize("pool", [2], indirect=True, ids=["2-ranks"])
def test_ranks_share_the_work_and_all_get_the_whole(pool):
    alone = Embedder(made()).images(source(broken=[3]))
    answers = pool.run(on_rank)
    assert sum(asked for asked, *_ in answers) == 29
    assert max(asked for asked, *_ in answers) <= 16
    for _, ids, values, bad in answers:
        assert (ids, bad) == (alone.ids, alone.bad)
        np.testing.assert_array_equal(values, alone.values)


def test_an_unknown_precision_is_named():
    with pytest.raises(UserError, match="precision 'fp8'"):
        Embedder(made(), precision="fp8")
