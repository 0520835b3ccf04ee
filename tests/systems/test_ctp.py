"""CTP: its losses against plain references, what it keeps at the end of a task, and streams that are resumed."""

import csv
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from oculex import catalog, embeddings, runs
from oculex.cli import main
from oculex.contracts import Features, UserError
from oculex.data.assets import RunAssets
from oculex.data.collate import Ragged
from oculex.data.masked_text import hide_words
from oculex.data.sources import open_source
from oculex.evaluation import stream
from oculex.evaluation.records import Table
from oculex.nn.memory.continual import Queue
from oculex.nn.memory.teacher import Teacher
from oculex.objectives.continual import momentum_contrast, topology
from oculex.report import stream as report_stream
from oculex.report.page import write_report
from oculex.systems.continual import ctp
from oculex.training import checkpoint, plan, recipes
from oculex.training.folder import RunFolder, read_lines
from tests.systems.ssl import errors
from tests.systems.test_clip import golden_weights
from tests.toys import COLOURS
from tests.training.small import assert_same_to_the_bit, squares

GOLDEN = Path(__file__).parents[1] / "golden" / "ctp.npz"
SMALL = ["image_tower=plain", "pool=class", "image_size=16", "patch=8", "width=32", "layers=[1]", "heads=2",
         "embedding=16", "text_width=32", "text_layers=2", "fusion=1", "text_heads=2", "tokenizer=corpus:299",
         "vocabulary=300", "mask=299", "positions=32", "queue=24", "batch=16", "precision=32-true", "data.workers=0",
         "checkpoint.every=5", "logging.every=1", "evaluation.on=[]", 'evaluation.tasks=["retrieval"]']  # fmt: skip


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return [str(squares(tmp_path_factory.mktemp(f"task{n}"), count=40, seed=n)) for n in range(3)]


def train(tasks, out, *changes, budget="12steps"):
    return runs.train("ctp", data=tasks, out=out, budget=budget, changes=[*SMALL, *changes], quiet=True)


def unit(*shape, seed=0):
    torch.manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


# ------------------------------------------------------------------------------------------------- objectives


def test_topology_is_the_divergence_of_softmaxes_over_the_others():
    rows, old, scale = unit(5, 4), unit(5, 4, seed=1), torch.tensor(1 / 0.07)
    got = topology(rows, rows, old, old, scale, start=0)
    for i in range(5):
        others = [j for j in range(5) if j != i]
        p, q = ((scale * (x @ x.T)[i, others].float()).softmax(0) for x in (old, rows))
        assert got[i] == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-4, abs=1e-6)
    assert topology(rows, rows, rows, rows, scale, start=0).abs().max() < 1e-6
    turned = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    assert topology(rows @ turned, rows @ turned, rows, rows, scale, start=0).abs().max() < 1e-5, (
        "a turn keeps it"
    )


def test_momentum_contrast_tells_the_own_row_from_the_batch_and_the_queue():
    image, text, slow_image, slow_text = (unit(3, 4, seed=s) for s in range(4))
    images, texts, scale = unit(6, 4, seed=5), unit(6, 4, seed=6), torch.tensor(10.0)
    got = momentum_contrast(image, text, scale, slow_image, slow_text, images, texts)
    truth = torch.arange(3)
    of_image = 10 * image @ torch.cat([slow_text, texts]).T
    of_text = 10 * text @ torch.cat([slow_image, images]).T
    both = [torch.nn.functional.cross_entropy(x, truth, reduction="none") for x in (of_image, of_text)]
    assert got.allclose((both[0] + both[1]) / 2)


def test_a_queue_holds_the_last_vectors_in_turn():
    queue, vectors = Queue(5, 3), unit(8, 3).float()
    queue.push(vectors[:4])
    queue.push(vectors[4:])
    assert queue.rows.equal(vectors[[5, 6, 7, 3, 4]])


def test_a_teacher_follows_running_statistics_too():
    network = torch.nn.BatchNorm1d(2)
    teacher = Teacher(network=network)
    network.running_mean.fill_(4.0)
    network.running_var.fill_(9.0)
    teacher.follow(0.5)
    assert teacher.network.running_mean.tolist() == [2.0, 2.0]
    assert teacher.network.running_var.tolist() == [5.0, 5.0]


def test_words_are_hidden_as_berts():
    tokens = list(range(1, 5001))
    masked, hidden = hide_words(tokens, np.random.default_rng(0), 0.15, 9999, 5000)
    hidden, masked, tokens = np.array(hidden, bool), np.array(masked), np.array(tokens)
    assert not hidden[0]
    assert abs(hidden.mean() - 0.15) < 0.02
    assert (masked[~hidden] == tokens[~hidden]).all()
    assert abs((masked[hidden] == 9999).mean() - 0.8) < 0.05
    assert abs((masked[hidden] == tokens[hidden]).mean() - 0.1) < 0.04


# --------------------------------------------------------------------------------------------------- sizes


def test_the_papers_network_has_the_authors_number_of_weights(evidence):
    """Of CLIP_Pretrain with configs/base_seqF.yaml and albef_bert_chinese_config.json, its two fixed temperatures left
    out: ViT-B/16 85,798,656, BERT with six layers that attend to the image and its word head 116,473,736, projections."""
    recipe = recipes.preset(catalog.load("ctp"), "ctp", "p9d")
    with torch.device("meta"):
        system = ctp.CTP.build(recipe.model, RunAssets(None, None))
    count = sum(p.numel() for p in system.parameters())
    assert count == 202_666_120
    evidence("ctp", "preset", parameters=count, equals="the authors' CLIP_Pretrain, built on the meta device")


@pytest.mark.parametrize(
    "changes", [{"image_tower": "resnet", "heads": 4}, {"fusion": 3}], ids=["no class token", "no layers"]
)
def test_a_network_that_cannot_be_built_says_why(changes):
    with pytest.raises(UserError, match=r"pool=mean|fusion=3"):
        ctp.CTP(ctp.CTPConfig(**SIZES | changes), RunAssets(None, None))


# -------------------------------------------------------------------------------------------------- streams


def test_the_parts_of_the_world_have_no_concept_in_common():
    parts = [set(open_source(f"world:part={n}/9").classes) for n in range(1, 10)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 192
    assert open_source("world:part=2/9").fingerprint() != open_source("world:part=3/9").fingerprint()
    for wrong in ("0/9", "10/9", "x", "1/23"):
        with pytest.raises(UserError, match="part="):
            open_source(f"world:part={wrong}")


def test_replay_keeps_an_equal_share_of_what_was_seen_and_never_more(tasks, tmp_path):
    recipe = recipes.change(
        recipes.preset(catalog.load("ctp"), "ctp", "tiny"),
        [*SMALL, f"data.sources={json.dumps(tasks)}", "stages.0.replay=24"],
    )
    pools = plan.open_pools(recipe)
    ids = [
        [[source[i]["id"] for i in range(len(source))] for source in plan.stage_pool(recipe, pools, n).train]
        for n in range(3)
    ]
    assert [list(map(len, each)) for each in ids] == [[36], [36, 24], [36, 12, 12]]
    assert set(ids[2][1]) <= set(ids[1][1]) <= set(ids[0][0])


@pytest.fixture(scope="module")
def whole(tasks, tmp_path_factory):
    return train(tasks, tmp_path_factory.mktemp("ctp") / "whole")


def test_at_the_end_of_a_task_the_model_is_kept(whole):
    """Stages end at steps 4, 8 and 12; each is evaluated on all tasks, with records."""
    assert [line["step"] for line in read_lines(whole.evaluations)] == [4, 8, 12]
    found = stream.of(whole.records)
    assert found is not None
    assert len(found.recall) == len(found.tasks) == 3
    weights = checkpoint.tensors(checkpoint.latest(whole), "weights")
    assert int(weights["tasks"]) == 2, "nothing is kept after the last task"
    assert any("topology" in name for line in read_lines(whole.metrics) for name in line if line["step"] > 4)
    assert not any(
        "topology" in name for line in read_lines(whole.metrics) for name in line if line["step"] <= 4
    )


def test_the_page_has_the_matrix_of_the_stream(whole):
    shown = report_stream.section(whole.records)
    assert [len(cells) for _, cells in shown["rows"]] == [3, 3, 3]
    assert [[cell["kind"] for cell in cells] for _, cells in shown["rows"]] == [
        ["own", "unseen", "unseen"], ["seen", "own", "unseen"], ["seen", "seen", "own"],
    ]  # fmt: skip
    page = write_report(whole.path).read_text(encoding="utf-8")
    assert page.count("after task") == 3
    assert "backward transfer" in page


@pytest.mark.parametrize(
    "changes", [[], ['keep=["elastic"]'], ['keep=["response"]', "stages.0.replay=10"]], ids=str
)
def test_stopped_while_a_task_is_closed_it_goes_on_to_the_bit(tasks, tmp_path, changes, monkeypatch):
    wanted = train(tasks, tmp_path / "whole", *changes)
    original = ctp.CTP.after_stage

    def stops(self, stage, stages, batches):
        original(self, stage, stages, batches)
        if stage == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ctp.CTP, "after_stage", stops)
        with pytest.raises(KeyboardInterrupt):
            train(tasks, tmp_path / "run", *changes)
    assert checkpoint.state(checkpoint.latest(RunFolder(tmp_path / "run")))["step"] == 5
    assert_same_to_the_bit(runs.resume(tmp_path / "run", quiet=True), wanted)


def test_a_stream_names_no_source_twice(tasks, tmp_path):
    with pytest.raises(UserError, match="each of them once"):
        train([tasks[0], tasks[0]], tmp_path / "run")


# -------------------------------------------------------------------------------------------------- learning


def coloured(folder, colours, count=96):
    """Noisy squares of the named colours, whose captions name them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(colours[0]))
    rows = ["image,caption"]
    for index in range(count):
        name = colours[index % len(colours)]
        pixels = np.clip(np.array(COLOURS[name]) + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        rows.append(f"{index}.png,a {name} square")
    (folder / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """(run, folder of the data): four colours and then four others, each for 100 updates."""
    folder = tmp_path_factory.mktemp("colours")
    data = [
        coloured(folder / part, tuple(COLOURS)[at : at + 4]) for part, at in (("first", 0), ("second", 4))
    ]
    changes = ["optimizer.lr=2e-3", "text_dropout=0.0", "data.holdout=0.25", "checkpoint.every=500"]
    return train(data, folder / "run", *changes, budget="200steps"), folder


def test_it_learns_a_task_and_still_knows_the_one_before(learnt, evidence):
    """Of a task's 24 held-out squares a text fits a quarter, and so chance finds one in four."""
    found = stream.of(learnt[0].records)
    assert found is not None
    assert found.recall[0][0].value >= 0.9
    assert found.final_recall.low > 0.45
    evidence("ctp", "learning", task="4 colours, then 4 others, 100 steps of 16 each; recall at 1, chance 0.25",
             first_after_its_own=asdict(found.recall[0][0]), final_recall=asdict(found.final_recall))  # fmt: skip


def test_what_it_learnt_is_found_again_and_used(learnt, tmp_path, evidence):
    """Reloaded it scores as it did; a text finds its pictures; the command line writes its embeddings."""
    run, folder = learnt
    before = list(read_lines(run.evaluations))[-1]["metrics"]
    after = runs.evaluate(run.path)["metrics"]
    again = {name: value for name, value in before.items() if "text_to_image" in name}
    assert {name: after[name]["value"] for name in again} == {
        name: value["value"] for name, value in again.items()
    }
    assert embeddings.index(run.path, str(folder / "second"), tmp_path / "index") == 96
    right = 0
    for number, colour in enumerate(tuple(COLOURS)[4:]):
        hits = embeddings.search(tmp_path / "index", f"A {colour} square.", 20)
        right += sum(int(Path(hit["id"]).stem) % 4 == number for hit in hits)
    assert right >= 50  # 20 by chance
    main(["embed", str(run.path), "--images", str(folder / "second"), "-o", str(tmp_path / "e.parquet")])
    vectors = np.stack(pq.read_table(tmp_path / "e.parquet")["embedding"].to_numpy(zero_copy_only=False))
    assert vectors.shape == (96, 16)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(96), abs=1e-3)
    evidence("ctp", "usable", search=f"{right} of 80 right: the 20 best of 96 for each of four texts; 20 by chance",
             reloaded="scores equal those at the end of training",
             embeddings="96 of unit norm by the command line")  # fmt: skip


def as_p9d(photos, folder):
    """Real photos and their first captions in P9D's layout: json/train.json by industry, pictures in train_images/."""
    chosen = {}
    for line in csv.DictReader((photos / "captions.csv").open(encoding="utf-8")):
        chosen.setdefault(line["image"], line["caption"])
    tree = {"dogs": {}, "people": {}}
    (folder / "json").mkdir(parents=True)
    (folder / "train_images").mkdir()
    for name, title in chosen.items():
        item = Path(name).stem
        industry = "dogs" if re.search(r"\b(dogs?|puppy|puppies)\b", title.lower()) else "people"
        tree[industry][item] = {"title": title, "cate_name": industry}
        shutil.copy(next(photos.rglob(Path(name).name)), folder / "train_images" / f"{item}.jpg")
    (folder / "json" / "train.json").write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
    return [f"{folder}/json/train.json#{industry}" for industry in tree]


def test_it_learns_from_real_products_files(real_data, tmp_path, evidence):
    """For the record with enough steps that held-out photos of both tasks are found by their titles, beyond chance."""
    data = as_p9d(real_data / "flickr8k_thumbs", tmp_path / "p9d")
    budget = "600steps" if evidence.recording else "6steps"
    changes = ["batch=32", "data.workers=0", "data.holdout=0.2", "evaluation.on=[]", "image_size=48", "crop=[0.5,1.0]",
               "flip=0.5", "optimizer.lr=1e-3", "logging.every=2"]  # fmt: skip
    run = runs.train("ctp", data=data, out=tmp_path / "run", budget=budget, changes=changes, quiet=True)
    found = list(read_lines(run.evaluations))[-1]["metrics"]
    sizes = {
        name.split("/")[0]: value["n"] for name, value in found.items() if name.endswith("text_to_image_r10")
    }
    assert len(sizes) == 2
    assert 130 <= sum(sizes.values()) <= 150
    if evidence.recording:
        kept = {name: value for name, value in found.items() if "text_to_image_r" in name or "chance" in name}
        summed = stream.of(run.records)
        assert summed is not None
        evidence("ctp", "real_data", data="Flickr8k: 700 photos, two tasks in P9D's files, a fifth held out",
                 budget=f"{budget} of 32", final_recall=asdict(summed.final_recall), **kept)  # fmt: skip


# ------------------------------------------------------------------------------------------------- matrices


def table(stage_right, n=50):
    """Records of one stage: ``stage_right`` gives the share of right answers of each task."""
    columns = {name: [] for name in ("set", "item", "cluster", "prompt", "status")}
    for task, share in stage_right.items():
        for way in ("image_to_text", "text_to_image"):
            for item in range(n):
                values = (task, f"{item}{way}", str(item), way, "right" if item < share * n else "wrong")
                for name, value in zip(columns, values, strict=True):
                    columns[name].append(value)
    return Table.of(
        **columns, task="retrieval", model="", control="", output="", parsed="", truth="", score=1.0
    )


def test_recall_forgetting_and_transfer_by_their_definitions():
    shares = [{"a": 0.8, "b": 0.2, "c": 0.0}, {"a": 0.6, "b": 0.7, "c": 0.2}, {"a": 0.4, "b": 0.9, "c": 0.6}]
    found = stream.measure([table(each) for each in shares])
    assert [[e.value for e in line] for line in found.recall] == [
        pytest.approx(list(each.values())) for each in shares
    ]
    assert found.final_recall.value == pytest.approx((0.4 + 0.9 + 0.6) / 3)
    assert found.forgetting.value == pytest.approx(((0.8 - 0.4) + (0.7 - 0.9)) / 2)
    assert found.backward_transfer.value == pytest.approx(((0.4 - 0.8) + (0.9 - 0.7)) / 2)
    assert found.backward_transfer.low < found.backward_transfer.value < found.backward_transfer.high
    assert stream.measure([table(shares[0])]) is None


# ---------------------------------------------------------------------------------------------- the authors'

AUTHORS = {
    "ctp": ({}, ("contrastive", "momentum_contrast", "topology"), ("words", "word_distillation")),
    "lwf": ({"keep": ("response",)}, ("contrastive", "response"), ("words", "word_distillation")),
    "ewc": ({"keep": ("elastic",)}, ("contrastive", "elastic"), ("words",)),
}
"""Each of their methods: what is set here, and which losses their matching and word losses and penalties are."""
SIZES = {"image_size": 16, "patch": 8, "width": 32, "layers": (2,), "heads": 2, "embedding": 16, "text_width": 48,
         "text_layers": 3, "fusion": 2, "text_heads": 2, "text_dropout": 0.0, "vocabulary": 50, "positions": 12,
         "context": 10, "mask": 49, "queue": 8}  # fmt: skip


@pytest.fixture(scope="module")
def golden():
    """What the authors' model makes of given weights, pictures and texts; provenance is in the file."""
    return dict(np.load(GOLDEN))


def given(golden, number):
    """One of the authors' batches of four pairs."""
    lengths = torch.from_numpy(golden["lengths"][number])
    texts = {
        ours: Ragged(torch.from_numpy(golden[theirs][number]).long()[:, : int(lengths.max())], lengths)
        for ours, theirs in (("tokens", "tokens"), ("masked", "masked"), ("hidden", "hidden"))
    }
    return {"image": torch.from_numpy(golden["images"][number]), **texts}


def begun(golden, **changes):
    """The system with the authors' weights, as it was built."""
    system = ctp.CTP(ctp.CTPConfig(**SIZES | changes), RunAssets(None, None))
    weights = golden_weights(system.network.state_dict())
    system.network.load_state_dict(weights)
    for module in system.modules():
        if isinstance(module, Teacher) and hasattr(module, "network"):
            module.network.load_state_dict(weights)
    if "elastic" in changes.get("keep", ()):  # which counts nothing yet
        for value in system.keep["elastic"].importance.buffers():
            value.zero_()
    if "keep" not in changes:
        system.keep["momentum"].images.rows.copy_(torch.from_numpy(golden["image_queue"]))
        system.keep["momentum"].texts.rows.copy_(torch.from_numpy(golden["text_queue"]))
    return system.train()


def updates(system, golden):
    """Losses of two tasks of three batches each, after each of which the weights take a step."""
    optimizer = torch.optim.SGD(system.network.parameters(), float(golden["rate"]))
    for number in range(6):
        batch = given(golden, number)
        encoded = system.encode(batch)
        rows, items = len(batch["image"]), system.items(batch)
        losses = {
            name: system.loss_weights().get(name, 1.0)
            * value.sum()
            / (items.get(name, rows) if value.ndim else 1)
            for name, value in system.losses(Features(encoded), batch).items()
        }
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        system.after_step(number, 6)
        if number == 2:
            system.after_stage(0, 2, [given(golden, n) for n in range(3)])
        yield {name: float(value.detach()) for name, value in losses.items()}


def answers(network, batch):
    """Vectors of pictures and texts, and words, as the network predicts them."""
    with torch.no_grad():
        found = network.eval()(batch)
    return {"image": found.image, "text": found.text, "words": found.words}


def test_the_network_is_the_authors(golden, evidence):
    """Image tower, text encoder with and without the image, word head, projections."""
    network = begun(golden).network
    wanted = {name: golden[f"fresh_{name}"] for name in ("image", "text", "words")}
    found = errors(wanted, answers(network, given(golden, 6)))
    evidence("ctp", "golden", peer=str(golden["provenance"]), max_abs_error=found)


@pytest.mark.parametrize("method", AUTHORS)
def test_two_tasks_go_as_the_authors(method, golden, evidence):
    """Losses of every step, momentum model, queues and network at the end; of EWC with the importance of the weights."""
    changes, matching, words = AUTHORS[method]
    system = begun(golden, **changes)
    apart = 0.0
    for number, losses in enumerate(updates(system, golden)):
        theirs = golden[f"{method}_losses"][number]
        later = number > 2 or method != "ctp"  # in the first task the authors add all of CTP's up as two
        split = [matching[:1], words[:1], matching[1:], words[1:]] if later else [matching, words]
        ours = [sum(losses.get(name, 0.0) for name in names) for names in split]
        apart = max(apart, float(np.abs(np.array(ours) - theirs[: len(ours)]).max()))
    batch = given(golden, 6)
    got = {f"{method}_{name}": value for name, value in answers(system.network, batch).items()}
    if method == "ctp":
        momentum = system.keep["momentum"]
        slow = answers(momentum.model.network, batch)
        got |= {f"ctp_slow_{name}": slow[name] for name in ("image", "text")}
        got |= {"ctp_image_queue": momentum.images.rows, "ctp_text_queue": momentum.texts.rows}
    found = errors(golden, got)
    assert apart < 1e-4
    evidence("ctp", "golden", peer=str(golden["provenance"]), max_abs_error={"losses": apart, **found})


def test_weights_matter_as_the_authors_measure_it(golden):
    system = begun(golden, keep=("elastic",))
    for _ in zip(range(3), updates(system, golden), strict=False):
        pass
    system.after_stage(0, 2, [given(golden, n) for n in range(3)])
    names = (
        "image.positions",
        "image_projection.weight",
        "text.words.weight",
        "text.layers.2.cross.q.weight",
        "text.bias",
    )
    found = system.keep["elastic"].importance.of
    got = [float(found.get_buffer(f"network.{name}").double().sum()) for name in names]
    assert got == pytest.approx(golden["ewc_fisher"].tolist(), rel=1e-4)
