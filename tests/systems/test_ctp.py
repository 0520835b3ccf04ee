"""CTP: its losses against plain references, what it keeps at the end of a task, and streams that are resumed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from oculex import catalog, runs
from oculex.contracts import Features, UserError
from oculex.data.assets import RunAssets
from oculex.data.collate import Ragged
from oculex.data.masked_text import hide_words
from oculex.data.sources import open_source
from oculex.evaluation import stream
from oculex.evaluation.records import Table
from oculex.nn.continual import Queue
from oculex.nn.fusion import Reading
from oculex.nn.teacher import Teacher
from oculex.objectives.continual import momentum_contrast, topology
from oculex.report import stream as report_stream
from oculex.report.page import write_report
from oculex.systems.continual import ctp
from oculex.training import checkpoint, plan, recipes
from oculex.training.folder import RunFolder, read_lines
from tests.training.small import assert_same_to_the_bit, squares

GOLDEN = Path(__file__).parents[1] / "golden" / "ctp.npz"
SMALL = ["image_size=16", "patch=8", "width=32", "layers=[1]", "heads=2", "embedding=16", "text_layers=2", "fusion=1",
         "text_heads=2", "tokenizer=corpus:299", "vocabulary=300", "mask=299", "positions=32", "queue=24", "batch=16",
         "precision=32-true", "data.workers=0", "checkpoint.every=5", "logging.every=1",
         'evaluation.tasks=["retrieval"]']  # fmt: skip


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


def test_the_papers_network_has_the_authors_number_of_weights():
    """ViT-B/16, BERT-base with six layers that attend to the image, word head, two projections to 256."""
    recipe = recipes.preset(catalog.load("ctp"), "ctp", "p9d")
    with torch.device("meta"):
        system = ctp.CTP.build(recipe.model, RunAssets(None, None))
    assert sum(p.numel() for p in system.parameters()) == pytest.approx(202_666_120, rel=0.001)


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


@pytest.fixture(scope="module")
def golden():
    """Their losses on given features and logits; provenance is in the file."""
    return {k: torch.from_numpy(v) for k, v in np.load(GOLDEN).items() if k != "provenance"}


def their_losses(keep, golden):
    """Our system's losses in the second task, with the towers replaced by the given features."""

    def reading(who):
        words = golden[f"{who}_logits"][golden["hidden"]]
        return lambda batch: Reading(golden[f"{who}_image"], golden[f"{who}_text"], words)

    changes = [*SMALL, "embedding=8", "queue=8", f"keep={json.dumps(keep)}"]
    recipe = recipes.change(recipes.preset(catalog.load("ctp"), "ctp", "tiny"), changes)
    system = ctp.CTP(recipe.model, RunAssets(None, None))
    system.tasks += 1
    system.network.forward, system.previous.network.forward = reading("own"), reading("old")
    if "momentum" in keep:
        system.keep["momentum"].model.network.forward = reading("slow")
        system.keep["momentum"].images.rows.copy_(golden["image_queue"])
        system.keep["momentum"].texts.rows.copy_(golden["text_queue"])
    lengths = torch.full((4,), 6)
    batch = {"tokens": Ragged(golden["labels"], lengths), "hidden": Ragged(golden["hidden"].long(), lengths)}
    losses = system.losses(Features(system.encode(batch)), batch)
    hidden = int(golden["hidden"].sum())
    return {k: float(v.sum()) / (hidden if k in system.items(batch) else 4) for k, v in losses.items()}


def test_losses_are_the_authors(golden):
    ours = their_losses(["momentum", "topology"], golden)
    matched, words, kept, taught = golden["ctp"].tolist()
    assert ours["contrastive"] == pytest.approx(matched, abs=1e-4)
    assert ours["words"] == pytest.approx(words, abs=1e-4)
    assert ours["momentum_contrast"] + ours["topology"] == pytest.approx(kept, abs=1e-4)
    assert ours["word_distillation"] == pytest.approx(taught, abs=1e-4)
    first = golden["init"].tolist()
    assert ours["contrastive"] + ours["momentum_contrast"] == pytest.approx(first[0], abs=1e-4)
    assert ours["words"] + ours["word_distillation"] == pytest.approx(first[1], abs=1e-4)
    ours = their_losses(["response"], golden)
    assert [ours["response"], ours["word_distillation"]] == pytest.approx(
        golden["lwf"].tolist()[2:], abs=1e-4
    )


def test_the_momentum_model_goes_where_the_authors_does(golden):
    def layer(name):
        made = torch.nn.Linear(3, 2)
        with torch.no_grad():
            for n, weight in enumerate(made.parameters()):
                weight.copy_(golden[f"{name}_{n}"])
        return made

    network = layer("before")
    slow = Teacher(network=network)
    beside = Teacher(network=layer("beside"))
    network.load_state_dict(layer("network").state_dict())
    slow.follow(0.9, beside)
    for n, name in enumerate(("weight", "bias")):
        assert getattr(slow.network, name).allclose(golden[f"after_{n}"], atol=1e-6)
