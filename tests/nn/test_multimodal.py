"""Packed and unpacked sequences, images included, give one loss and one gradient; answers are transformers' own."""

import sys
from itertools import chain

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oculex.contracts import UserError
from oculex.data.collate import Ragged
from oculex.data.packing import Rows, lay
from oculex.nn.joint.multimodal import answer_losses, answers, interleave
from oculex.nn.language.causal import LanguageConfig, language_model
from oculex.nn.language.generate import Choice, generate

END, WIDTH, VISUAL = 0, 32, 3


def model(language="llama", context=64):
    torch.manual_seed(0)
    made = language_model(LanguageConfig(language=language, language_width=WIDTH, language_layers=2, language_heads=2,
                                         context=context, vocabulary=60))  # fmt: skip
    for parameter in made.parameters():  # sharper than at the start, so that ties are out of the question
        parameter.data += 0.2 * torch.randn_like(parameter)
    return made.eval()


def conversations(g):
    """Texts with one, none and two images of three visual tokens each, of unequal lengths."""
    layout = [[2, "v", 4], [5], [1, "v", 1, "v", 9], [3, "v", 2], [2], [7, "v", 6]]
    tokens, trained, visual = [], [], []
    for parts in layout:
        ids, seen = [], []
        for part in parts:
            n = VISUAL if part == "v" else part
            ids += [0] * n if part == "v" else torch.randint(1, 60, (n,), generator=g).tolist()
            seen += [int(part == "v")] * n
        learnt = (torch.rand(len(ids), generator=g) < 0.6).int().tolist()
        tokens.append(ids)
        visual.append(seen)
        trained.append(
            [int(n == 0 or (a and not b)) for n, (a, b) in enumerate(zip(learnt, seen, strict=True))]
        )
    return tokens, trained, visual


@pytest.mark.parametrize("language", ["llama", "gpt2"])
@pytest.mark.parametrize("most", [None, 30, 64])
def test_packing_changes_neither_loss_nor_gradient(language, most):
    lm = model(language).double()
    g = torch.Generator().manual_seed(1)
    tokens, trained, visual = conversations(g)
    images = sum(map(sum, visual)) // VISUAL
    connector = nn.Linear(5, WIDTH).double()
    features = torch.randn(images, VISUAL, 5, generator=g, dtype=torch.float64)

    def gradients(loss):
        for p in [*lm.parameters(), *connector.parameters()]:
            p.grad = None
        loss.backward()
        return {n: p.grad for n, p in [*lm.named_parameters(), *connector.named_parameters()]}

    text, learnt, seen = Ragged.of(tokens), Ragged.of(trained), Ragged.of(visual)
    words = lm.get_input_embeddings()(text.values)
    packed = answer_losses(lm, interleave(words, seen.values.bool(), connector(features)), text, learnt, most)
    assert len(packed) == answers(learnt)
    theirs = gradients(packed.sum())

    total, at = 0.0, 0  # slowly: one sequence at a time, by transformers' own loss
    for ids, marks, places in zip(tokens, trained, visual, strict=True):
        x = lm.get_input_embeddings()(torch.tensor([ids])).clone()
        n = sum(places) // VISUAL
        x[0, torch.tensor(places).bool()] = connector(features[at : at + n]).flatten(0, 1)
        at += n
        labels = torch.tensor([[i if m else -100 for i, m in zip(ids, marks, strict=True)]])
        if sum(marks[1:]):
            total = total + lm(inputs_embeds=x, labels=labels).loss.double() * sum(marks[1:])
    torch.testing.assert_close(packed.sum().double(), total, atol=1e-5, rtol=1e-6)  # losses are in float32
    for name, value in gradients(total).items():
        torch.testing.assert_close(
            theirs[name], value, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_rows_hold_each_token_once_and_keep_to_their_bound():
    lengths = [5, 9, 2, 2, 7, 1, 3]
    rows = Rows.of(lengths, 11, 10)
    assert rows.source.shape[1] <= 10
    assert len(rows.source) == 3  # 29 tokens; the fewest
    there = rows.source[rows.real].tolist()
    assert sorted(there) == [n * 11 + t for n, length in enumerate(lengths) for t in range(length)]
    assert all(rows.positions[rows.real][i] == place % 11 for i, place in enumerate(there))
    assert int(rows.follows().sum()) <= sum(lengths) - len(lengths)
    assert lay([4, 4, 4], 8) == [[0, 1], [2]]
    with pytest.raises(ValueError, match="does not fit"):
        Rows.of(lengths, 11, 8)


def test_images_and_places_must_agree():
    words, visual = torch.zeros(1, 4, 2), torch.tensor([[False, True, True, False]])
    merged = interleave(words, visual, torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    assert merged[0, :, 0].tolist() == [0, 1, 3, 0]
    with pytest.raises(ValueError, match="4 visual tokens were given for 2 places"):
        interleave(words, visual, torch.zeros(2, 2, 2))


@pytest.mark.parametrize("language", ["llama", "gpt2"])
def test_greedy_answers_are_transformers_own(language):
    lm = model(language)
    g = torch.Generator().manual_seed(2)
    prompts = [torch.randint(1, 60, (n,), generator=g).tolist() for n in (7, 2, 12, 5, 1, 9)]
    text = Ragged.of(prompts)
    free = generate(lm, lm.get_input_embeddings()(text.values), text.lengths, -1, 20)
    end = max(set(chain(*free)), key=lambda t: sum(t in f for f in free))  # a token that stops some of them
    ours = generate(lm, lm.get_input_embeddings()(text.values), text.lengths, end, 20)
    assert len({len(o) for o in ours}) > 1  # some have ended before others
    for prompt, own in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        whole = lm.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20,
                            eos_token_id=end, pad_token_id=end)[0, len(prompt):].tolist()  # fmt: skip
        assert own == whole[: whole.index(end) if end in whole else None]


def test_without_transformers_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'oculex\[transformers\]'"):
        language_model(LanguageConfig(language="llama"))


def test_draws_follow_the_models_probabilities():
    lm = model()
    x = lm.get_input_embeddings()(torch.tensor([[5, 9]]))
    p = F.softmax(lm(inputs_embeds=x).logits[0, -1] / 2.0, -1)
    g = torch.Generator().manual_seed(0)
    drawn = generate(lm, x.expand(4000, -1, -1), torch.full((4000,), 2), -1, 1, Choice(2.0, g))
    share = torch.bincount(torch.tensor(drawn)[:, 0], minlength=60) / 4000
    torch.testing.assert_close(share, p, atol=0.03, rtol=0)
    with pytest.raises(ValueError, match="exceed the 64 positions"):
        generate(lm, x, torch.tensor([2]), -1, 63)
