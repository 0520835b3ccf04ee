"""LLaVA and MiniGPT-4: sequences and targets as the authors', exact under micro-batches, and they learn to answer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lightning_fabric import Fabric
from tokenizers import Tokenizer as Backend

from oculex import catalog, runs
from oculex.contracts import Answers, BadSample, Features, UserError
from oculex.data.assets import RunAssets
from oculex.data.chat import IMAGE, ChatFormat, Turn
from oculex.data.collate import collate
from oculex.data.text import BytePair
from oculex.evaluation.protocol import evaluate
from oculex.evaluation.task import EvalSet
from oculex.nn.connectors import ConnectorConfig, connector
from oculex.systems.baselines.llava import LLaVA, LLaVAConfig
from oculex.systems.generative.minigpt4 import TEMPLATE, MiniGPT4, MiniGPT4Config
from oculex.training.folder import read_lines
from oculex.training.foundations import load
from oculex.training.step import Trainee, backward
from tests import toys

GOLDEN = Path(__file__).parents[1] / "golden" / "minigpt4.npz"
SIZES = {"image_size": 16, "patch": 8, "width": 32, "layers": (1,), "heads": 2, "language": "llama",
         "language_width": 48, "language_layers": 2, "language_heads": 2, "context": 96, "vocabulary": 320,
         "tokenizer": "corpus:320"}  # fmt: skip
QUERY = {"queries": 3, "query_width": 32, "query_layers": 2, "query_heads": 2}
TEXTS = [
    *(text.format(name) for text in toys.CAPTIONS for name in toys.COLOURS),
    "Which colour is it? Human: Assistant:",
]


class Fixed(RunAssets):
    """Byte pairs of the toys' captions."""

    def __init__(self):
        super().__init__(None, lambda: TEXTS)


def model(kind=LLaVA, **changes):
    torch.manual_seed(0)
    configs = {LLaVA: LLaVAConfig(**SIZES), MiniGPT4: MiniGPT4Config(**SIZES, **QUERY)}
    return kind(replace(configs[kind], **changes), Fixed())


def samples(count=8):
    """Squares of a colour, some with a question after it."""
    rng = np.random.default_rng(0)
    names = list(toys.COLOURS)
    for n in range(count):
        colour = names[n % len(names)]
        pixels = np.clip(np.array(toys.COLOURS[colour]) + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(
            np.uint8
        )
        asked = {"question": "Which colour is it?", "answer": colour, "kind": "colour"}
        yield {"id": f"s{n}", "image": pixels, "caption": toys.CAPTIONS[n % 4].format(colour),
               "questions": [asked] if n % 3 else []}  # fmt: skip


def test_sequences_and_targets_are_the_authors():
    """Ids, places of the image's vectors (negative there) and targets, as their code hands them to the language model."""
    golden = np.load(GOLDEN)
    backend = Backend.from_str(str(golden["tokenizer"]))
    from tokenizers import processors

    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A ###", special_tokens=[(t, backend.token_to_id(t)) for t in ("<s>", "###")]
    )
    chat = ChatFormat(BytePair(backend), TEMPLATE)
    for n, answer in enumerate(golden["answers"].tolist()):
        length = int(golden["mask"][n].sum())
        asked = Turn("user", ("<Img>", IMAGE, "</Img> Describe this image in detail."))
        got = chat.encode([asked, Turn("assistant", (answer,))], [4], "x")
        assert len(got) == length
        theirs = golden["sequence"][n][:length].tolist()
        assert [t if not v else None for t, v in zip(got.tokens, got.visual, strict=True)] == [
            t if t >= 0 else None for t in theirs
        ]
        learnt = [t if m else -100 for t, m in zip(got.tokens, got.trained, strict=True)]
        assert learnt == golden["targets"][n][:length].tolist()


@pytest.mark.parametrize("kind", [LLaVA, MiniGPT4])
def test_micro_batches_change_nothing_and_what_is_trained_is_trained(kind):
    """Conversations of different lengths: a mean of means would weigh the tokens of short micro-batches more."""
    fabric = Fabric(accelerator="cpu", devices=1)
    gradients = []
    for accumulate in (1, 3):
        system = model(kind)
        for name, parameter in system.named_parameters():
            parameter.requires_grad_(kind is LLaVA or name.startswith("connector.projection."))
        views = [system.view(s, np.random.default_rng(n)) for n, s in enumerate(samples(7))]
        backward(fabric, fabric.setup(Trainee(system)), collate(views), accumulate=accumulate, seed=0, step=0)
        gradients.append({n: p.grad for n, p in system.named_parameters() if p.requires_grad})
    idle = {"image.norm_post.weight", "image.norm_post.bias"}  # of the pooled vector, which nobody asks for
    assert {name for name, value in gradients[0].items() if value is None} <= idle
    for name, value in gradients[0].items():
        if value is not None:
            torch.testing.assert_close(
                gradients[1][name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_views_hold_all_questions_and_evaluation_asks_one():
    system = model()
    asked = {"question": "Which colour is it?", "answer": "red", "kind": "colour"}
    sample = {
        "id": "a",
        "image": np.zeros((16, 16, 3), np.uint8),
        "caption": "a red ball",
        "questions": [asked],
    }
    view = system.view(sample, np.random.default_rng(0))
    assert sum(view["visual"]) == system.visual == 4
    ends = [
        t for t, m in zip(view["tokens"], view["trained"], strict=True) if m and t == system.tokenizer.end
    ]
    assert len(ends) == 2
    shown = system.chat.shown(system.chat.encode(
        [Turn("user", (IMAGE, "\n", "Which colour is it?")), Turn("assistant", ("red",))], [4], "a"))  # fmt: skip
    assert "▣4" in shown
    prompt = system.view({"id": "a", "image": sample["image"], "question": "what?"}, None)
    assert "trained" not in prompt
    blind = system.view({"id": "a", "question": "what?"}, None)
    assert not any(blind["visual"])
    assert set(blind) == {"tokens", "visual"}
    with pytest.raises(BadSample, match="neither captions nor questions"):
        system.view({"id": "b", "image": sample["image"]}, np.random.default_rng(0))
    with pytest.raises(UserError, match="takes 4 tokens, more than context=4"):
        model(context=4)
    with pytest.raises(UserError, match="the model vocabulary=64"):
        model(vocabulary=64).view(sample, None)


class Squares:
    classes: tuple[str, ...] = ()
    name = "squares"

    def __init__(self, items):
        self.items = [{**s, "questions": s["questions"] or [{"question": "Which colour is it?",
                       "answer": list(toys.COLOURS)[n % 8], "kind": "colour"}]} for n, s in enumerate(items)]  # fmt: skip

    def fingerprint(self):
        return f"squares-{len(self.items)}"

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_it_learns_to_answer_by_looking():
    """From scratch, everything trained: eight colours are told and described, and not without the picture."""
    system = model()
    data = list(samples(160))
    optimizer = torch.optim.AdamW(system.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    for _ in range(120):
        views = [system.view(data[int(n)], rng) for n in rng.integers(len(data), size=32)]
        batch = collate(views)
        loss = system.losses(Features(system.encode(batch)), batch)["answers"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    system.eval()
    assert isinstance(system, Answers)
    metrics = evaluate(
        system, {"s": EvalSet("s", Squares(list(samples(64))))}, tasks=("vqa", "captioning")
    ).metrics
    assert metrics["s/vqa/accuracy"].value >= 0.95
    assert metrics["s/vqa/unparsed"].value == 0
    assert metrics["s/vqa/no_image_accuracy"].value <= 0.3
    assert metrics["s/vqa/wrong_image_accuracy"].value <= 0.3
    assert metrics["s/captioning/cider"].value > 2 * metrics["s/captioning/wrong_image_cider"].value


CHANGES = {
    **SIZES, "layers": [1], "vision_foundation": "", "language_foundation": "", "batch": 32, "precision": "32-true",
    "logging.every": 20, "data.workers": 0, "data.holdout": 0.25, "optimizer.lr": 3e-3,
    "evaluation.tasks": ["captioning"],
}  # fmt: skip


def named_squares(folder):
    """The toys' squares, whose captions begin with the colour and differ in nothing else."""
    path = toys.squares(folder)
    table = pq.read_table(path)
    texts = [f"{list(toys.COLOURS)[label]} square" for label in table["label"].to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("caption"), "caption", [texts]), path)
    return [str(path)]


def trained(name, data, out, **changes):
    """(rouge_l, wrong_image_rouge_l) at the end of a run, and its folder."""
    folder = runs.train(
        name, out=out, budget="240steps", changes=CHANGES | {"data.sources": data} | changes, quiet=True
    )
    found = list(read_lines(folder.evaluations))[-1]["metrics"]
    return [found[f"squares.parquet/captioning/{m}rouge_l"] for m in ("", "wrong_image_")], folder


def test_llava_runs_from_captions_to_answers(tmp_path, evidence):
    """Each stage trains what it names; the finished run answers from its folder."""
    (rouge, wrong), folder = trained("llava", named_squares(tmp_path / "data"), tmp_path / "run",
                                     tokenizer="corpus:300")  # fmt: skip
    assert rouge["n"] == 60
    assert rouge["low"] > wrong["high"]
    again = runs.evaluate(folder.path)["metrics"]["squares.parquet/captioning/rouge_l"]
    assert again["value"] == pytest.approx(rouge["value"])
    evidence(
        "llava", "learning", task="captions of 8 colours, 240 steps of 32", rouge_l=rouge, wrong_image=wrong
    )


BARE = (
    "{{ bos_token }}{% for m in messages %}{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


def test_minigpt4_teaches_a_frozen_language_model_to_see(tmp_path, evidence):
    """Image tower and language model are foundations; no weight of them moves."""
    data = named_squares(tmp_path / "data")
    names = ("language", "language_width", "language_layers", "language_heads", "context", "vocabulary")
    text = {name: SIZES[name] for name in names} | {"tokenizer": "corpus:300", "optimizer.lr": 3e-3, "batch": 32,
            "precision": "32-true", "data.workers": 0}  # fmt: skip
    gpt = runs.train("gpt", data=data, out=tmp_path / "gpt", budget="120steps", changes=text, quiet=True)
    seen = {**toys.SMALL, **toys.TEXT, "embedding": 32, "evaluation.tasks": ["knn"]}
    clip = runs.train("clip", data=data, out=tmp_path / "clip", budget="150steps", changes=seen, quiet=True)
    stages = catalog.load("minigpt4").presets["tiny"]().stages
    own = {f"stages.{n}.sources": data for n, stage in enumerate(stages) if stage.sources}
    (rouge, wrong), folder = trained("minigpt4", data, tmp_path / "run", **own, **QUERY, template=BARE,
                                     vision_foundation=str(clip.path), language_foundation=str(gpt.path),
                                     tokenizer=f"from:{gpt.path}", before_image="", after_image="",
                                     instructions=[""])  # fmt: skip
    after = load(folder).state_dict()
    for part, base in (("language.", gpt), ("image.", clip)):
        before = load(base).state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items() if name.startswith(part))
    assert rouge["low"] > wrong["high"]
    evidence("minigpt4", "learning", task="captions of 8 colours by a frozen language model, 240 steps of 32",
             rouge_l=rouge, wrong_image=wrong)  # fmt: skip


def test_the_papers_sizes():
    with torch.device("meta"):
        made = connector(ConnectorConfig(), 1408, 4096)
    assert sum(p.numel() for p in made.projection.parameters()) == 768 * 4096 + 4096
    preset = catalog.load("minigpt4").presets["vicuna_7b"]()
    assert all(stage.trainable == ("connector.projection.*",) for stage in preset.stages)
    for name in ("minigpt4", "llava"):
        plugin = catalog.load(name)
        assert {"tiny"} < set(plugin.presets)
        for make in plugin.presets.values():
            assert abs(sum(stage.share for stage in make().stages) - 1) < 1e-9
