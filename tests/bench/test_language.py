"""The benchmarks of language models compare equal work: losses through updates, texts token by token."""

import pytest
import torch
from lightning_fabric import Fabric

from oculex.bench import generate, vlm_step
from oculex.data.collate import Ragged
from oculex.nn.language.causal import LanguageConfig

transformers = pytest.importorskip("transformers")
SMALL = LanguageConfig(
    language="llama", language_width=32, language_layers=2, language_heads=2, context=128, vocabulary=24
)


def test_both_sides_of_vlm_step_make_the_same_updates(monkeypatch):
    """The losses agree at the start and after updates, at a rate at which these move them."""
    monkeypatch.setattr(vlm_step, "OPTIMIZER", vlm_step.contracts.Optimizer(
        lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0))  # fmt: skip
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    ours, theirs, batch = vlm_step.contestants(fabric, vlm_step.SMALL, 12)
    losses = [(ours(), theirs()) for _ in range(4)]
    assert losses[0][0] - losses[3][0] > 0.1
    for mine, peer in losses:
        assert mine == pytest.approx(peer, abs=2e-4)
    sizes = vlm_step.sizes(batch)
    assert sizes["visual"] == 12 * 4
    assert sizes["own"] < sizes["padded"] == 12 * sizes["longest"]


def test_padding_goes_to_the_left():
    ids, mask = generate.flushed(Ragged.of([[1, 2, 3], [4], [5, 6]]))
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4], [0, 5, 6]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]


def test_the_end_is_the_token_that_spreads_the_lengths():
    texts = [[0, 1, 2, 3], [3, 1, 2, 0], [4, 1, 4, 4]]
    assert generate.spreading(texts, 5) == 4  # first in 4 (never), 4, 0; of the others none is as apart


def test_both_write_the_same_texts_whether_they_end_or_not():
    result = generate.run(rounds=1, model=SMALL, texts=8, most=30)
    assert (result["tokens"], result["ended"]) == (8 * 30, 0)
    assert result["ending"]["ended"] >= 2
    assert result["ending"]["tokens"] < 8 * 30


def test_a_text_that_differs_stops_the_benchmark(monkeypatch):
    monkeypatch.setattr(generate, "peers", lambda *_: [[0]] * 8)
    with pytest.raises(RuntimeError, match="text 0 differs"):
        generate.run(rounds=1, model=SMALL, texts=8, most=5)
    assert torch.is_grad_enabled()
