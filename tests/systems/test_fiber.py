"""FIBER: its two stages against the authors' modules, gates that are closed or left out, what is told from what."""

import json
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image

from oculex import embeddings, inference, runs
from oculex.contracts import Features, Optimizer, Stage, UserError
from oculex.data.assets import RunAssets
from oculex.data.collate import Ragged, collate, rows
from oculex.data.order import generator
from oculex.data.sources import open_source
from oculex.nn.dense import detection
from oculex.nn.dense.detection import GroundingHead
from oculex.nn.language.roberta import Roberta, RobertaConfig, renamed
from oculex.nn.memory.pair_queue import PairQueue
from oculex.objectives import grounding
from oculex.objectives.matching import hard_negatives, matching
from oculex.systems.fusion import fiber
from oculex.systems.fusion.fiber import FIBER, Coarse, FIBERConfig
from oculex.training import operations, plan, reopen
from oculex.training.folder import read_lines
from oculex.training.optimizers import build, set_rate
from oculex.training.step import Trainee, backward
from tests import toys

GOLDEN = Path(__file__).parents[1] / "golden" / "fiber.npz"
AUTHORS = FIBERConfig(image_tower="swin", image_size=64, width=8, patch=4, layers=(2, 2, 18, 2), heads=1, drop_path=0.0,
                      fusion=6, text_width=24, text_layers=12, text_heads=2, text_dropout=0.0, vocabulary=60,
                      positions=20, mask=59, embedding=16, context=12, queue=6, tokenizer="none")  # fmt: skip
"""The authors' code fixes the blocks of the third stage and the layers of the text."""
SMALL = replace(AUTHORS, image_size=32, layers=(1, 2), fusion=2, text_layers=3, queue=0)


def fixed(state):
    """Weights that follow from names and shapes alone, so that the authors' modules could be given the same."""
    made = {}
    for name, value in state.items():
        drawn = np.random.default_rng(zlib.crc32(name.encode())).random(value.shape, np.float32) - 0.5
        if value.ndim > 1:
            drawn *= 4 * (value[0].numel()) ** -0.5
        elif value.ndim == 0 or name.endswith("weight"):
            drawn += 1
        made[name] = torch.from_numpy(np.asarray(drawn, np.float32)) if value.is_floating_point() else value
    return made


def built(config, weights=True):
    system = FIBER.build(config, RunAssets(None, None)).eval()
    if weights:
        own = {name: value for name, value in system.state_dict().items() if not name.startswith("queue.")}
        system.load_state_dict(fixed(own) | {"temperature": torch.tensor(0.2)}, strict=False)
    return system


def pairs(config, count=6, seed=0):
    rng = np.random.default_rng(seed)
    views = []
    for _ in range(count):
        words = rng.integers(3, config.mask, int(rng.integers(3, config.context - 2))).tolist()
        hidden = [0, 1, *(rng.random(len(words) - 1) < 0.3).astype(int).tolist(), 0]
        tokens = [0, *words, 2]
        masked = [config.mask if h else t for t, h in zip(tokens, hidden, strict=True)]
        views.append({"image": rng.integers(0, 256, (3, config.image_size, config.image_size), dtype=np.uint8),
                      "tokens": tokens, "masked": masked, "hidden": hidden, "draws": rng.random(2)})  # fmt: skip
    return collate(views)


# ---------------------------------------------------------------------------------------- two towers, or one


def test_without_gates_the_towers_are_timms_and_transformers():
    system = built(AUTHORS)
    pixels = torch.randn(2, 3, 64, 64)
    alone = system.read_image(system.lower_image(pixels))
    assert alone.equal(system.image.model.forward_features(pixels).flatten(1, 2))

    transformers = pytest.importorskip("transformers")
    shape = transformers.RobertaConfig(vocab_size=60, hidden_size=24, num_hidden_layers=12, num_attention_heads=2,
                                       intermediate_size=96, max_position_embeddings=20, type_vocab_size=1,
                                       layer_norm_eps=1e-5)  # fmt: skip
    theirs = transformers.RobertaModel(shape, add_pooling_layer=False).eval()
    ours = Roberta(RobertaConfig(60, 20, 24, 12, 2)).eval()
    ours.load_state_dict(renamed(theirs.state_dict()))
    text = Ragged.of([[0, 5, 6, 7, 2], [0, 9, 2]])
    ids = torch.tensor([[0, 5, 6, 7, 2], [0, 9, 2, 1, 1]])
    got = ours(text)
    wanted = theirs(ids, attention_mask=(ids != 1).long()).last_hidden_state
    torch.testing.assert_close(got[0], wanted[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got[1, :3], wanted[1, :3], atol=1e-5, rtol=1e-4)


def test_the_text_tower_begins_from_a_published_roberta(tmp_path):
    transformers = pytest.importorskip("transformers")
    shape = transformers.RobertaConfig(vocab_size=60, hidden_size=24, num_hidden_layers=3, num_attention_heads=2,
                                       intermediate_size=96, max_position_embeddings=20, type_vocab_size=1)  # fmt: skip
    theirs = transformers.RobertaModel(shape)
    theirs.save_pretrained(tmp_path)
    config = replace(SMALL, text_foundation=str(tmp_path))
    training = RunAssets(None, None, sources=[object()])
    system = FIBER.build(config, training)
    assert system.text.words.weight.equal(theirs.embeddings.word_embeddings.weight)
    assert system.text.layers[2].down.weight.equal(theirs.encoder.layer[2].output.dense.weight)
    with pytest.raises(UserError, match="text_layers"):
        FIBER.build(replace(config, text_layers=4), training)
    with pytest.raises(UserError, match="no RoBERTa"):
        FIBER.build(replace(config, text_foundation=str(tmp_path / "nowhere")), training)


def test_closed_gates_change_nothing_and_open_ones_do():
    system = built(SMALL)
    image = system.lower_image(torch.randn(2, 3, 32, 32))
    text = system.lower_text(Ragged.of([[0, 5, 6, 2], [0, 9, 2]]))

    def seen():
        maps, words = system.fuse(image, text)
        assert [tuple(each.shape) for each in maps] == [(2, 8, 8, 8), (2, 4, 4, 16)]
        return system.image.model.norm(maps[-1]).flatten(1, 2), words

    patches, words = seen()
    assert not patches.allclose(system.read_image(image), atol=1e-3)
    assert not words.allclose(system.read_text(text), atol=1e-3)
    for gate in (*system.to_image, *system.to_text):
        gate.gate.data.zero_()
    patches, words = seen()
    assert patches.equal(system.read_image(image))
    assert words.equal(system.read_text(text))


def test_gates_start_closed_and_learn_although_they_are():
    system = built(SMALL, weights=False).train()
    assert all(gate.gate == 0 for gate in (*system.to_image, *system.to_text))
    batch = pairs(SMALL)
    system.losses(Features(system.encode(batch)), batch)["matching"].sum().backward()
    assert all(gate.gate.grad != 0 for gate in (*system.to_image, *system.to_text))


@pytest.mark.parametrize("place", ["backbone", "top"])
def test_padding_is_seen_by_neither_tower(place):
    config = replace(SMALL, place=place)
    system, batch = built(config), pairs(config)
    alone = rows(batch, 0, 1)
    together = system.encode(batch)
    for name, value in system.encode(alone).items():
        if name != "lower_text":
            torch.testing.assert_close(value[0], together[name][0], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ({"fusion": 3}, "fusion=3"),
        ({"fusion": 0}, "fusion=0"),
        ({"image_tower": "plain"}, "no Swin"),
        ({"place": "middle"}, "place='middle'"),
        ({"stage": "fine", "place": "top", "layers": (1, 1, 1)}, "place='top'"),
    ],
)
def test_a_network_that_cannot_be_built_is_named(change, about):
    with pytest.raises(UserError, match=about):
        FIBER.build(replace(SMALL, **change), RunAssets(None, None))


def test_on_top_the_towers_stay_as_they_are_and_the_layers_above_look_at_both():
    """What the claim compares with: no gates, whole towers below, and two texts change an image's tokens above."""
    system = built(replace(SMALL, place="top"))
    assert not [name for name, _ in system.named_parameters() if name.startswith(("to_image", "to_text"))]
    image = system.lower_image(torch.randn(1, 3, 32, 32))
    texts = [system.lower_text(Ragged.of([ids])) for ids in ([0, 5, 6, 2], [0, 9, 7, 2])]
    assert system.read_text(texts[0]).equal(texts[0].words), "nothing is left of the tower"
    maps = [system.fuse(image, text)[0][-1] for text in texts]
    assert maps[0].shape == image.map.shape
    assert not maps[0].allclose(maps[1], atol=1e-3)


def test_fresh_weights_have_the_configured_deviation():
    torch.manual_seed(0)
    system = built(replace(SMALL, deviation=0.1), weights=False)
    for part in (system.text, system.to_image, system.to_text, system.fused_text, system.match_head):
        drawn = torch.cat([m.weight.flatten() for m in part.modules() if isinstance(m, torch.nn.Linear)])
        assert float(drawn.detach().std()) == pytest.approx(0.1, rel=0.15)
    swin = torch.cat([m.weight.flatten() for m in system.image.modules() if isinstance(m, torch.nn.Linear)])
    assert float(swin.detach().std()) < 0.05, "timm's own"


# -------------------------------------------------------------------------------------------- first stage


def test_the_first_stage_is_the_authors(evidence):
    """Both towers alone and fused, contrast with a queue, matching with hard negatives, hidden words."""
    golden = {
        name.removeprefix("coarse_"): str(value) if value.dtype.kind == "U" else torch.from_numpy(value)
        for name, value in np.load(GOLDEN).items()
        if name.startswith(("coarse_", "provenance"))
    }
    system, length, own = built(AUTHORS), golden["hidden"].shape[1], 4
    pixels = np.random.default_rng(5).integers(0, 256, (10, 3, 64, 64), dtype=np.uint8)
    images, ids, lengths = torch.from_numpy(pixels), golden["ids"], golden["lengths"]
    system.queue.push(*golden["queue"], images[own:], ids[own:], lengths[own:])
    masked = golden["masked"] * (torch.arange(length) < lengths[:own, None])
    batch = {
        "image": images[:own],
        "tokens": Ragged(ids[:own, :length], lengths[:own]),
        "masked": Ragged(masked, lengths[:own]),
        "hidden": Ragged(golden["hidden"], lengths[:own]),
        "draws": golden["draws"],
    }
    with torch.no_grad():
        features = system.encode(batch)
        losses = system.losses(Features(features), batch)
        image = system.lower_image(system._normalised(batch["image"]))
        maps, words = system.fuse(image, system.lower_text(batch["tokens"]), last_norm=False)
        real = (torch.arange(length) < lengths[:own, None])[..., None]
        got = {
            "image": features["image"],
            "text": features["text"],
            "fused_image": system.fused_image.words(maps[-1].flatten(1, 2)),
            "fused_text": system.fused_text.words(words) * real,
            "match_logits": features["match"],
            "contrastive": losses["contrastive"].mean(),
            "matching": losses["matching"].mean(),
            "words": losses["words"].sum() / system.items(batch)["words"],
        }
    golden["match_logits"] = golden["match_logits"][:own]
    error = {name: float((value - golden[name]).abs().max()) for name, value in got.items()}
    assert all(value < 1e-4 for value in error.values()), error
    evidence("fiber", "golden", peer=golden["provenance"], max_abs_error=error)


def test_hard_negatives_are_drawn_with_the_softmax_and_never_the_truth():
    torch.manual_seed(0)
    rows_, columns = (torch.nn.functional.normalize(torch.randn(n, 4), dim=-1) for n in (1, 6))
    draws, truth, scale = torch.arange(0, 1, 1e-4, dtype=torch.float64), torch.tensor([2]), torch.tensor(3.0)
    count = len(draws)
    drawn = hard_negatives(rows_.expand(count, -1), columns, scale, truth.expand(count), draws)
    chance = (3 * rows_ @ columns.T)[0].exp()
    chance[2] = 0
    shares = torch.bincount(drawn, minlength=6) / count
    torch.testing.assert_close(shares, chance / chance.sum(), atol=2e-3, rtol=0)
    assert hard_negatives(rows_, columns, scale, truth, torch.tensor([0.999999])) != 2


def test_matching_is_the_cross_entropy_of_three_pairs():
    true, text, image = (torch.randn(4, 2, generator=torch.Generator().manual_seed(s)) for s in range(3))
    labels = torch.tensor([1] * 4 + [0] * 8)
    wanted = torch.nn.functional.cross_entropy(torch.cat([true, text, image]), labels)
    torch.testing.assert_close(matching(true, text, image).mean(), wanted)


def test_a_queue_keeps_the_last_pairs_in_turn():
    queue = PairQueue(5, 2, 4, 3)
    assert len(queue) == 0
    values = torch.arange(8)

    def push(some):
        vectors = some[:, None].expand(-1, 2).float()
        pixels = some.to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)
        queue.push(vectors, -vectors, pixels, some[:, None].expand(-1, 3), some.clamp(1, 3))

    push(values[:3])
    assert queue.vectors()[0][:, 0].tolist() == [0, 1, 2]
    push(values[3:])
    assert queue.vectors()[0][:, 0].tolist() == [5, 6, 7, 3, 4]
    assert queue.vectors()[1][:, 0].tolist() == [-5, -6, -7, -3, -4]
    assert queue.pixels[:, 0, 0, 0].tolist() == [5, 6, 7, 3, 4]
    assert queue.texts(torch.tensor([3, 4])).values.tolist() == [[3, 3, 3], [4, 4, 4]]


def step(system, batch, accumulate=1, fabric=None):
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    losses = backward(fabric, fabric.setup(Trainee(system)), batch, accumulate=accumulate, seed=1, step=0)
    gradients = {name: p.grad for name, p in system.named_parameters()}
    system.after_step(0, 1)
    return losses, gradients, {name: value.clone() for name, value in system.queue.state_dict().items()}


def filled(queue=4):
    config = replace(SMALL, queue=queue)
    system, old = built(config).train(), pairs(config, count=4, seed=9)
    if queue:
        step(system, old)
        system.zero_grad()
    return system


def on_rank(rank, ranks):
    fabric = Fabric(accelerator="cpu", strategy="ddp", devices=ranks)
    fabric.launch()
    own = 8 // ranks
    return step(filled(), rows(pairs(SMALL, count=8), rank * own, (rank + 1) * own), 1, fabric)


def same(got, wanted):
    for theirs, ours in zip(got, wanted, strict=True):
        for name in ours:
            torch.testing.assert_close(
                theirs[name], ours[name], atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_micro_batches_and_ranks_change_nothing(pool):
    """Hard negatives come from other ranks' part of the batch, and from the queue, which is the same on each."""
    batch = pairs(SMALL, count=8)
    wanted = step(filled(), batch)
    same(step(filled(), batch, accumulate=3), wanted)
    for got in pool.run(on_rank, pool.ranks):
        same(got, wanted)


def test_the_papers_network_has_the_authors_number_of_weights(evidence):
    """281,897,191 in their module, of which RoBERTa's pooler and norms that nothing uses are left out here."""
    config = fiber.SYSTEM.presets["base"]().model
    with torch.device("meta"):
        system = Coarse(replace(config, queue=0))
    count = sum(p.numel() for p in system.parameters())
    assert count == pytest.approx(281_897_191, rel=0.01)
    evidence("fiber", "preset", base=count, authors=281_897_191)


TOY = {"image_tower": "swin", "image_size": 16, "patch": 4, "width": 16, "layers": [1, 2], "heads": 2, "drop_path": 0.0,
       "fusion": 2, "text_width": 32, "text_layers": 2, "text_heads": 2, "text_dropout": 0.0, "deviation": 0.1,
       "context": 16, "positions": 18, "vocabulary": 301, "tokenizer": "corpus:300", "mask": 300, "embedding": 32,
       "queue": 0, "batch": 32, "precision": "32-true", "optimizer.lr": 2e-3, "data.workers": 0, "data.holdout": 0.25,
       "evaluation.tasks": ["zeroshot"], "evaluation.prompts": "single"}  # fmt: skip


COLOURED = "100steps"


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """(run, data): FIBER's first stage on squares of eight colours."""
    folder = tmp_path_factory.mktemp("coloured")
    data = toys.squares(folder / "data")
    return runs.train(
        "fiber", data=[str(data)], out=folder / "run", budget=COLOURED, changes=TOY, quiet=True
    ), data


def test_it_learns_to_name_colours(coloured, evidence):
    metrics = list(read_lines(coloured[0].evaluations))[-1]["metrics"]
    top1 = metrics["squares.parquet/zeroshot/top1"]
    assert top1["value"] >= 0.95
    evidence("fiber", "learning", task=f"zero-shot naming of 8 colours, {COLOURED} of 32", top1=top1)


def missed(system, views):
    """Mean loss of the hidden words."""
    batch = collate(views)
    with torch.no_grad():
        return float(system.encode(batch)["words"].sum() / system.items(batch)["words"])


def test_hidden_words_are_read_off_the_picture(coloured, evidence):
    """Beside the picture of another colour the words around say all that there is to know."""
    folder, data = coloured
    system, source = runs.load(folder.path), open_source(str(data))
    views = [system.view(source[n], generator(1, n)) for n in range(64)]
    others = [view | {"image": views[(n + 1) % 64]["image"]} for n, view in enumerate(views)]
    own, blind = missed(system, views), missed(system, others)
    assert own < 0.85 * blind
    evidence("fiber", "learning", hidden_words={"loss": own, "beside another picture": blind})


def test_what_it_learnt_is_searched_by_text(coloured, tmp_path, evidence):
    folder, data = coloured
    assert embeddings.index(folder.path, str(data), tmp_path / "index") == 240
    hits = embeddings.search(tmp_path / "index", "a photo of a pink.", 20)
    pinks = sum(int(hit["id"].split("#")[1]) % 8 == 6 for hit in hits)
    assert pinks >= 18
    evidence("fiber", "usable", search=f"{pinks} of the 20 best of 240 for a text are right")


def test_it_learns_which_pairs_belong_together():
    """The fusion encoder tells eight pairs, by heart, from others; the squares would not do, as most of their hard
    negatives fit. Pairs that are never drawn as hard negatives it need not know."""
    torch.manual_seed(0)
    system, batch = built(replace(SMALL, deviation=0.12), weights=False).train(), pairs(SMALL, count=8)
    optimizer = build(system, Optimizer(lr=1e-3, weight_decay=0.0), Stage(lr_scale=fiber.FASTER))
    set_rate(optimizer, 1e-3)
    for _ in range(100):
        losses = system.losses(Features(system.encode(batch)), batch)
        optimizer.zero_grad()
        (losses["matching"].mean() + losses["contrastive"].mean()).backward()
        optimizer.step()
        system.after_step(0, 1)
    with torch.no_grad():
        scores = system.eval().match_texts(batch, batch)
    others = scores[~torch.eye(8, dtype=torch.bool)]
    assert float(losses["matching"].detach().mean()) < 0.2  # 0.64 says of all pairs what most are
    assert float(scores.diagonal().mean() - others.mean()) > 4.0


def test_what_an_update_computes_is_counted(tmp_path):
    """One more layer below the fusion reads each text twice, whole and with words hidden, and costs twice as much again
    on the way back; layers on top cost more than gates in the towers. Of two samples each is the other's hard
    negative."""
    data = toys.squares(tmp_path / "data")

    def counted(**more):
        name = "-".join(map(str, more.values())) or "as it is"
        run = runs.train("fiber", data=[str(data)], out=tmp_path / name, budget="1steps",
                         changes=TOY | {"batch": 2} | more, quiet=True)  # fmt: skip
        return operations.per_sample(run), reopen.load_recipe(run)

    (plain, recipe), (deeper, _), (above, _) = counted(), counted(text_layers=3), counted(place="top")
    pool, system = plan.open_pool([str(data)], TOY["data.holdout"]), runs.load(tmp_path / "as it is")
    n, d = pool.steps(system.view, recipe, 0, 1)[0].batch["tokens"].values.shape[1], TOY["text_width"]
    weights, attention = 2 * n * 12 * d * d, 2 * 2 * n * n * d
    assert deeper - plain == pytest.approx(2 * 3 * (weights + attention))
    assert above > plain


# --------------------------------------------------------------------------------------------- fine stage

FINE = FIBERConfig(image_tower="swin", image_size=32, width=16, patch=4, layers=(1, 1, 1), heads=2, drop_path=0.0,
                   fusion=2, text_width=32, text_layers=2, text_heads=2, text_dropout=0.0, vocabulary=300,
                   positions=34, context=32, tokenizer="corpus:300", stage="fine", head_width=32, head_blocks=1,
                   head_groups=4, deformable=False, anchor=2.5, regions=8, negatives=3, flip=0.0,
                   deviation=0.1, log_scale=-1.6)  # fmt: skip
"""Sizes that learn in seconds."""
NETWORK = ("image_tower", "image_size", "width", "patch", "layers", "heads", "drop_path", "fusion", "text_width",
           "text_layers", "text_heads", "text_dropout", "deviation", "vocabulary", "positions", "context",
           "tokenizer")  # fmt: skip


def changes(*names, **more):
    """``FINE``'s fields as changes of a recipe."""
    common = {"batch": 16, "precision": "32-true", "data.workers": 0}
    return {name: getattr(FINE, name) for name in (*NETWORK, *names)} | common | more


def golden_head():
    """The head as the authors' was given it, and what went in: maps, text, which tokens are real."""
    head = GroundingHead((16, 32, 64), 24, 32, 3, 16).eval()
    head.load_state_dict(fixed(head.state_dict()) | {"bias": torch.tensor(-2.0)})
    rng = np.random.default_rng(7)
    maps = [
        torch.from_numpy(rng.normal(size=(2, side, side, width)).astype(np.float32))
        for side, width in ((16, 16), (8, 32), (4, 64))
    ]
    text = torch.from_numpy(rng.normal(size=(2, 7, 24)).astype(np.float32))
    seen = torch.arange(7) < torch.tensor([[7], [5]])
    return head, maps, text * seen[..., None], seen


def test_the_second_stage_is_the_authors(evidence):
    """Pyramid, dynamic head, dot products with words, anchors, which positions answer for a box, and the three losses."""
    golden = np.load(GOLDEN)
    head, maps, text, seen = golden_head()
    with torch.no_grad():
        found = head(maps, text)
    levels = detection.anchors(128, 8, 2.0)
    squares = torch.cat(levels)
    got = {"words": found.words, "deltas": found.deltas, "centred": found.centred,
           "anchors": squares - torch.tensor([0, 0, 1.0, 1.0])}  # fmt: skip
    error = {
        name: float((value - torch.from_numpy(golden[f"fine_{name}"])).abs().max())
        for name, value in got.items()
    }
    sums, answers = np.zeros(4), []
    for n, count in enumerate((3, 2)):
        boxes, spans = (torch.from_numpy(golden[f"fine_{name}"][n, :count]) for name in ("boxes", "spans"))
        which = grounding.assigned(boxes, levels)
        answers.append(which >= 0)
        there, own = which >= 0, boxes[which[which >= 0]]
        centre = grounding.centredness(own, squares[there])
        named = spans[which.clamp(min=0)] & there[:, None]
        sums += [
            float(grounding.word_loss(found.words[n : n + 1], named[None], seen[n : n + 1])),
            float(
                grounding.box_loss(
                    detection.decoded(found.deltas[n, there], squares[there]), own, centre
                ).sum()
            ),
            float(grounding.centred_loss(found.centred[n, there], centre).sum()),
            float(centre.sum()),
        ]
    answering = torch.stack(answers)
    assert answering.equal(torch.from_numpy(golden["fine_positive"]))
    count = int(answering.sum())
    losses = np.array([sums[0] / count, 2 * sums[1] / sums[3], sums[2] / count])
    error["losses"] = float(np.abs(losses - golden["fine_losses"]).max())
    assert all(value < 1e-4 for value in error.values()), error
    evidence("fiber", "golden", peer=str(golden["fine_provenance"]), max_abs_error=error)


def boxed(folder, count=120, seed=0):
    """``count`` pictures of three squares of different colours, with a text that names them, as MDETR lays it out."""
    rng = np.random.default_rng(seed)
    names = list(toys.COLOURS)[:6]
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for n in range(count):
        pixels = np.full((32, 32, 3), (90, 70, 110), np.uint8) + rng.integers(
            0, 20, (32, 32, 3), dtype=np.uint8
        )
        cells, caption = rng.permutation(9)[:3], ""
        for cell, colour in zip(cells, rng.permutation(len(names))[:3], strict=True):
            side = int(rng.integers(7, 11))
            x, y = 10 * (cell % 3) + 1, 10 * (cell // 3) + 1
            pixels[y : y + side, x : x + side] = toys.COLOURS[names[colour]]
            caption += " and a " if caption else "a "
            start = len(caption)
            caption += f"{names[colour]} square"
            annotations.append({"id": len(annotations), "image_id": n, "bbox": [int(x), int(y), side, side],
                                "iscrowd": 0, "category_id": 1, "tokens_positive": [[start, len(caption)]]})  # fmt: skip
        Image.fromarray(pixels).save(folder / "images" / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "caption": caption, "width": 32, "height": 32})
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    (folder / "squares.json").write_text(json.dumps(tree))
    return folder / "squares.json"


def fine_batch(system, source, count=8):
    return collate([system.view(source[n], generator(0, n)) for n in range(count)])


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return boxed(tmp_path_factory.mktemp("squares") / "data")


def fine(squares, **changes):
    source = open_source(str(squares))
    assets = RunAssets(
        None, lambda: [text for n in range(40) for text in source[n]["captions"]], source.classes
    )
    torch.manual_seed(0)
    return FIBER.build(replace(FINE, **changes), assets), source


def test_boxes_and_words_go_together_in_a_view(squares):
    system, source = fine(squares)
    sample, view = source[0], system.view(source[0], generator(0, 0))
    places = {tuple(box): row for row, box in enumerate(view["boxes"].tolist())}
    for box, spans in zip(sample["boxes"], sample["grounded"][0]["spans"], strict=True):
        about = view["about"][places[tuple(box.tolist())]]
        said = system.tokenizer.decode([t for t, mine in zip(view["tokens"], about, strict=False) if mine])
        assert said == sample["grounded"][0]["text"][spans[0][0] : spans[0][1]]
    assert (view["boxes"][3:] == 0).all()
    assert set(view["answers"].tolist()) == {-1, 0, 1, 2}
    flipped, _ = fine(squares, flip=1.0)
    mirrored = flipped.view(source[0], generator(0, 0))
    assert (mirrored["image"] == view["image"][..., ::-1]).all()
    assert {tuple(box) for box in mirrored["boxes"][:3].tolist()} == {
        (32 - x1, y0, 32 - x0, y1) for x0, y0, x1, y1 in places if x1
    }


def test_a_picture_without_a_mentioned_box_teaches_that_nothing_is_there(squares):
    system, source = fine(squares)
    sample = dict(source[0]) | {"boxes": np.zeros((0, 4)), "box_ignored": np.zeros(0, bool)}
    sample["grounded"] = [sample["grounded"][0] | {"boxes": [[], [], []]}]
    batch = collate([system.view(sample, generator(0, 0))])
    losses = system.losses(Features(system.encode(batch)), batch)
    assert float(losses["words"].detach()) > 0
    assert float(losses["boxes"].detach()) == float(losses["centred"].detach()) == 0


def test_micro_batches_change_nothing_of_boxes(squares):
    """Losses are means over the positions and boxes of the global batch, of which samples have different numbers."""

    def gradients(accumulate):
        system, source = fine(squares)
        batch, fabric = fine_batch(system, source), Fabric(accelerator="cpu", devices=1)
        batch["answers"][0] = -1
        losses = backward(fabric, fabric.setup(Trainee(system)), batch, accumulate=accumulate, seed=1, step=0)
        return losses, {name: p.grad for name, p in system.named_parameters() if p.grad is not None}

    same(gradients(3), gradients(1))


def test_found_boxes_are_decoded_kept_once_and_cut_at_the_picture():
    squares = torch.tensor([[0, 0, 10, 10.0], [0, 0, 10, 10.5], [20, 20, 40, 40]])
    logits = torch.tensor([[[4.0, -4], [3, -4], [-4, 2]]])
    found = detection.Found(logits, torch.zeros(1, 3, 4), torch.full((1, 3), 9.0))
    about = torch.tensor([[[True, False], [False, True], [True, True], [False, False]]])
    best = detection.best_boxes(found, squares, about, torch.tensor([[32.0, 40.0]]), 2)[0]
    torch.testing.assert_close(
        best[0, 0],
        torch.tensor([0, 0, 10 / 32, 10 / 40, torch.sigmoid(torch.tensor(4.0)) ** 0.5]),
        atol=1e-3,
        rtol=0,
    )
    (
        torch.testing.assert_close(best[0, 1, :4], torch.tensor([20 / 32, 20 / 40, 1, 1.0])),
        "the second of the pair is the first's",
    )
    torch.testing.assert_close(best[1, 0, :4], torch.tensor([20 / 32, 20 / 40, 1, 1.0]))
    assert float(best[2, 0, 4]) == pytest.approx(float(logits[0].sigmoid().mean(1).max().sqrt()), abs=1e-3)
    assert best[3].isnan().all(), "a phrase without a token has no box"


def test_the_fine_stage_begins_from_the_coarse_ones_towers_and_gates(tmp_path, squares):
    coarse = changes(mask=299, embedding=16, queue=0) | {"evaluation.tasks": ["zeroshot"]}
    first = runs.train("fiber", data=[str(toys.squares(tmp_path / "toys"))], out=tmp_path / "coarse", budget="2steps",
                       changes=coarse, quiet=True)  # fmt: skip
    then = changes(*fiber.FINE_FIELDS) | {
        "init.run": str(first.path),
        "optimizer.lr": 0.0,
        "evaluation.tasks": ["grounding"],
    }
    second = runs.train("fiber", preset="tiny_fine", data=[str(squares)], out=tmp_path / "fine", budget="1steps",
                        changes=then, quiet=True)  # fmt: skip
    before, after = runs.load(first.path).state_dict(), runs.load(second.path).state_dict()
    taken = [name for name in before if name.startswith(("image.", "text.", "to_image.", "to_text."))]
    assert len(taken) > 50
    assert all(after[name].equal(before[name]) for name in taken)


BOXES_BUDGET = "240steps"


@pytest.fixture(scope="module")
def grounded(tmp_path_factory, squares):
    """FIBER's second stage from fresh weights, on pictures of three squares."""
    set_ = changes(*fiber.FINE_FIELDS) | {"optimizer.lr": 4e-3, "init.run": "", "init.take": [], "data.holdout": 0.25,
                                          "evaluation.tasks": ["grounding"]}  # fmt: skip
    return runs.train("fiber", preset="tiny_fine", data=[str(squares)], out=tmp_path_factory.mktemp("grounded") / "run",
                      budget=BOXES_BUDGET, changes=set_, quiet=True)  # fmt: skip


def phrases(metrics):
    """The grounding of a run's own evaluation."""
    found = {name.partition("/grounding/")[2]: value for name, value in metrics.items()}
    return {name: value for name, value in found.items() if name}


def test_it_learns_which_square_a_phrase_means(grounded, evidence):
    """Three squares in a picture: to find any of them is right in a third."""
    found = phrases(list(read_lines(grounded.evaluations))[-1]["metrics"])
    assert found["phrases_r1"]["low"] > 1 / 3
    assert found["phrases_r10"]["value"] > 0.9
    assert found["phrases_wrong_image_r1"]["high"] < found["phrases_r1"]["low"]
    evidence("fiber", "learning", task=f"which of three squares, {BOXES_BUDGET} of 16", **found)


def test_what_grounds_is_opened_again_and_asked_by_command(grounded, squares, tmp_path, evidence):
    """A finished run finds what it found at its end, and says where a phrase of a person's own is."""
    before = phrases(list(read_lines(grounded.evaluations))[-1]["metrics"])
    after = phrases(runs.evaluate(grounded.path, device="cpu")["metrics"])
    assert {name: value["value"] for name, value in after.items()} == {
        name: value["value"] for name, value in before.items()
    }
    samples, right = open_source(str(squares)), 0
    for number in range(24):
        sample = samples[number]
        text = sample["grounded"][0]
        (start, end), meant = text["spans"][0][0], sample["boxes"][text["boxes"][0][0]] / 32
        said = inference.generate(
            grounded.path, [squares.parent / "images" / f"{number}.png"], text["text"][start:end]
        )
        x0, x1, y0, y1, _score = map(float, re.findall(r"\d\.\d+", said[0]["text"]))
        shared = max(0, min(x1, meant[2]) - max(x0, meant[0])) * max(0, min(y1, meant[3]) - max(y0, meant[1]))
        right += shared / ((x1 - x0) * (y1 - y0) + np.prod(meant[2:] - meant[:2]) - shared) > 0.5
    assert right > 8  # by chance
    with pytest.raises(UserError, match="give an image and the phrase"):
        inference.generate(grounded.path, prompt="red square")
    evidence(
        "fiber",
        "usable",
        evaluated_again="equal",
        generate=f"finds {right} of 24 phrases by a command, 8 by chance",
    )


def test_it_trains_on_real_boxes(real_data, tmp_path, evidence):
    """COCO's own files. For the record long enough that boxes of photos it was shown are found as an untrained network
    finds none; fifty photos teach nothing that could be claimed of others."""
    path = real_data / "tiny_coco" / "annotations" / "instances_train2017.json"
    set_ = changes(*fiber.FINE_FIELDS) | {"image_size": 64, "patch": 4, "context": 64, "positions": 66, "regions": 80,
                                          "tokenizer": "corpus:400", "vocabulary": 400, "negatives": 8, "batch": 8,
                                          "init.run": "", "init.take": [], "optimizer.lr": 2e-3, "logging.every": 1,
                                          "evaluation.tasks": ["detection"]}  # fmt: skip

    def trained(name, budget, **more):
        return runs.train("fiber", preset="tiny_fine", data=[str(path)], out=tmp_path / name, budget=budget,
                          changes=set_ | more, quiet=True)  # fmt: skip

    def found(folder):
        metrics = list(read_lines(folder.evaluations))[-1]["metrics"]
        return {name.rpartition("/")[2]: value for name, value in metrics.items()}

    if not evidence.recording:
        folder = trained("run", "8steps")
        losses = [line["loss"] for line in read_lines(folder.metrics)]
        assert np.mean(losses[-3:]) < np.mean(losses[:3])
        assert found(folder)["ap"]["n"] == 5
        return
    shown = {"evaluation.on": [str(path)]}
    before = found(trained("untrained", "1steps", **shown, **{"optimizer.lr": 0.0}))
    after = found(trained("run", "300steps", **shown))
    assert after["ap50"]["low"] > before["ap50"]["high"]
    evidence("fiber", "real_data", data="COCO train2017: 50 photos with instances, 45 of them trained on",
             budget="300 steps of 8", untrained={name: before[name] for name in ("ap", "ap50")},
             **{name: after[name] for name in ("ap", "ap50")})  # fmt: skip
