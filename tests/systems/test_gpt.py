"""The language-model arm: its loss is transformers' own, its sizes the published ones, and it learns."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from oculex import runs
from oculex.contracts import Features, UserError
from oculex.data.assets import RunAssets
from oculex.data.collate import Ragged
from oculex.nn.language.causal import LanguageConfig, language_model
from oculex.systems.baselines.gpt import GPT, SYSTEM, GPTConfig
from oculex.training.folder import read_lines

SMALL = GPTConfig(language_width=32, language_layers=2, language_heads=2, context=12, vocabulary=60)
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "gpt2_xl": 1_557_611_200,
}


def model(config=SMALL):
    torch.manual_seed(0)
    return GPT(config, RunAssets(None, None))


@pytest.mark.parametrize("preset", PUBLISHED)
def test_parameter_counts_are_the_published_ones(preset):
    with torch.device("meta"):
        assert sum(p.numel() for p in model(SYSTEM.presets[preset]().model).parameters()) == PUBLISHED[preset]


@pytest.mark.parametrize("language", ["gpt2", "llama"])
def test_the_loss_is_transformers_and_padding_changes_nothing(language):
    system = model(replace(SMALL, language=language)).eval()
    texts = [[1, 5, 7, 9, 2], [1, 30, 2], [1, 8, 8, 8, 8, 8, 2]]
    batch = {"tokens": Ragged.of(texts)}
    losses = system.losses(Features({}), batch)["next_token"]
    alone = []
    for text in texts:  # transformers' own loss, one text at a time
        ids = torch.tensor([text])
        alone.append(system.language(input_ids=ids, labels=ids).loss * (len(text) - 1))
    assert len(losses) == system.items(batch)["next_token"] == sum(len(t) - 1 for t in texts)
    torch.testing.assert_close(losses.sum(), sum(alone), atol=1e-4, rtol=1e-5)
    log_p = system.log_likelihood(batch)
    torch.testing.assert_close(-log_p[:, 0], torch.stack(alone), atol=1e-4, rtol=1e-5)
    assert log_p[:, 1].tolist() == [4, 2, 6]


def test_a_text_stands_before_what_is_said_in_training():
    texts = ["a red ball", "a green mug"]
    assets = RunAssets(None, lambda: texts * 9)
    system = GPT(replace(SMALL, told=True, tokenizer="corpus:300", vocabulary=300, context=90), assets)
    asked = [{"question": "which mug?", "answer": "green", "kind": "colour"}]
    sample = {"id": "a", "captions": texts, "questions": asked}

    def shown(rng):
        return system.tokenizer.backend.decode(system.view(sample, rng)["tokens"], skip_special_tokens=False)

    seen = {shown(np.random.default_rng(n)) for n in range(60)}
    start, end = "<start_of_text> ", "<end_of_text>"
    said = {f"{start}{a}{end} {b}{end}" for a in texts for b in texts}
    assert seen == said | {f"{start}{a} which mug?{end} green{end}" for a in texts}
    assert shown(None) == f"{start}{texts[0]}{end}"
    del sample["questions"]
    assert {shown(np.random.default_rng(n)) for n in range(40)} == said


def test_fresh_weights_have_the_deviation_that_is_asked_for():
    """A narrow model with a wide one's hardly learns to look back."""
    for std in (0.02, 0.125):
        weights = model(replace(SMALL, language="llama", language_std=std)).language.model.layers[0]
        for part in (weights.self_attn.q_proj, weights.mlp.up_proj):
            assert float(part.weight.detach().std()) == pytest.approx(std, rel=0.1)


def test_long_texts_are_seen_through_windows():
    class Counting:
        size, end = 60, 59

        def encode(self, text, context):
            return [0, *range(1, len(text.split()) + 1), 59][:context]

    system = model()
    system._assets = type("Fixed", (), {"tokenizer": lambda self, spec: Counting()})()
    sample = {"id": "x", "caption": " ".join("w" * 40)}
    assert system.view(sample, None)["tokens"] == list(range(12))
    starts = {system.view(sample, np.random.default_rng(n))["tokens"][0] for n in range(300)}
    assert starts == set(range(31))  # the first window holds the start, the last the end
    assert len(system.view({"id": "y", "caption": "a b"}, None)["tokens"]) == 4


def test_it_learns_a_language_of_cycles(tmp_path, evidence):
    """Each text goes round six words in one order: after the first word nothing is left to guess."""
    words = ["ant", "bee", "cat", "dog", "elk", "fox"]
    rng = np.random.default_rng(0)
    lines = [" ".join((words * 3)[at : at + 8]) for at in rng.integers(6, size=400)]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    changes = ["tokenizer=corpus:300", "vocabulary=300", "context=24", "language_width=32", "language_layers=2",
               "language_heads=2", "batch=32", "precision=32-true", "data.workers=0", "optimizer.lr=5e-3"]  # fmt: skip
    run = runs.train("gpt", data=[str(tmp_path / "texts.txt")], out=tmp_path / "run", budget="120steps",
                     changes=changes, quiet=True)  # fmt: skip
    found = list(read_lines(run.evaluations))[-1]["metrics"]["texts.txt/language/nats_per_token"]
    floor = math.log(6) / 9  # eight words and the end
    assert found["n"] == 40
    assert floor - 0.05 < found["low"] <= found["high"] < floor + 0.1
    evidence("gpt", "learning", task="words in a cycle, 120 steps of 32", nats_per_token=found, least=floor)


def test_a_published_model_is_opened_from_its_folder(tmp_path):
    made = language_model(LanguageConfig(language="llama", language_width=32, language_layers=1, language_heads=2,
                                         context=16, vocabulary=50))  # fmt: skip
    made.save_pretrained(tmp_path / "lm", safe_serialization=True)
    spec = LanguageConfig(language=str(tmp_path / "lm"), context=16, vocabulary=50)
    opened = language_model(spec)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), opened.parameters(), strict=True))
    with pytest.raises(UserError, match=r"50 tokens and a context of 16"):
        language_model(LanguageConfig(language=str(tmp_path / "lm"), context=16, vocabulary=51))
    with pytest.raises(UserError, match="neither a model type"):
        language_model(LanguageConfig(language="no/such-model-anywhere"))


# ---------------------------------------------------------------------------------------- published tokenizers

END_OF_TEXT = "<|endoftext|>"
TEXTS = ["a red ball on a table", "two blue cubes", "a ball beside a cube"]


def hub_folder(path, **special):
    """A byte-level tokenizer such as GPT-2's, as transformers saves one; it asks for truncation."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=[END_OF_TEXT, "<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(TEXTS, trainer)
    backend.enable_truncation(4)
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(path)
    return backend


@pytest.mark.parametrize(
    ("special", "around"),
    [({"eos_token": END_OF_TEXT}, (0, 0)), ({"bos_token": "<s>", "eos_token": END_OF_TEXT}, (1, 0))],
)
def test_a_published_tokenizer_is_read_and_kept_in_the_run(special, around, tmp_path):
    backend = hub_folder(tmp_path / "tok", **special)
    backend.no_truncation()
    text = "a red Ball on 3 tables — ünicode"
    spec = f"hub:{tmp_path / 'tok'}"
    ours = RunAssets(tmp_path / "run", None).tokenizer(spec)
    ids = ours.encode(text, 100)
    assert ids == [around[0], *backend.encode(text).ids, around[1]]
    assert ours.decode(ids) == text
    assert ours.encode(text, 6) == [*ids[:5], around[1]]
    assert ours.size == backend.get_vocab_size()
    (tmp_path / "tok").rename(tmp_path / "gone")
    kept = RunAssets(tmp_path / "run", None).tokenizer(spec)
    assert kept.encode(text, 100) == ids
    by_path = RunAssets(None, None).tokenizer(str(tmp_path / "run" / "tokenizer.json"))
    assert by_path.encode(text, 100) == ids


def test_a_tokenizer_that_brings_code_or_has_no_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub_folder(tmp_path / "endless")
    with pytest.raises(UserError, match="has no end-of-text token"):
        RunAssets(None, None).tokenizer(f"hub:{tmp_path / 'endless'}")
    with pytest.raises(
        UserError, match=r"neither a folder with a tokenizer\.json nor a tokenizer on the hub"
    ):
        RunAssets(None, None).tokenizer(f"hub:{tmp_path / 'nothing'}")
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    settings = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["code.Evil", "code.Evil"]}}
    (evil / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="evil"):
        RunAssets(None, None).tokenizer(f"hub:{evil}")
    assert not (tmp_path / "ran").exists()


def test_a_run_with_a_published_tokenizer_needs_only_its_folder_afterwards(tmp_path):
    hub_folder(tmp_path / "tok", eos_token=END_OF_TEXT)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS * 10))
    changes = [f"tokenizer=hub:{tmp_path / 'tok'}", "context=24", "language_width=32", "language_layers=1",
               "language_heads=2", "batch=4", "precision=32-true", "data.workers=0",
               "optimizer.part=sgd_sai"]  # fmt: skip

    def run(out, vocabulary):
        return runs.train("gpt", data=[str(tmp_path / "texts.txt")], out=tmp_path / out, budget="2steps",
                          changes=[*changes, f"vocabulary={vocabulary}"], quiet=True)  # fmt: skip

    with pytest.raises(UserError, match=r"has 280 tokens, the model vocabulary=64; set vocabulary=280"):
        run("small", 64)
    folder = run("run", 280)
    trained = list(read_lines(folder.evaluations))[-1]["metrics"]["texts.txt/language/nats_per_token"]
    (tmp_path / "tok").rename(tmp_path / "gone")
    found = runs.evaluate(folder.path, on=[str(tmp_path / "texts.txt")])["metrics"]
    assert found["texts.txt/language/nats_per_token"]["value"] == pytest.approx(trained["value"], rel=0.2)
