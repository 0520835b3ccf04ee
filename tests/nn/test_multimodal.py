"""Packed and unpacked sequences, images included, give one loss and one gradient; answers are transformers' own."""

import sys
from itertools import chain

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oculex.contracts import UserError
from oculex.data.collate import Ragged
from oculex.nn.joint.multimodal import answer_losses, answers, interleave
from oculex.nn.language.causal import LanguageConfig, language_model
from oculex.nn.language.generate import Choice, generate
from oculex.training.recompute import checkpoint_activations

AutoModelForCausalLM = pytest.importorskip("transformers").AutoModelForCausalLM
unpadded = pytest.importorskip("oculex.nn.language.packed")

END, WIDTH, VISUAL = 0, 32, 3


ODD = {"": {}, "four tokens": {"sliding_window": 4}, "two heads to a key": {"num_key_value_heads": 1},
       "odd scale": {"scale_attn_by_inverse_layer_idx": True}}  # fmt: skip


def model(language="llama", context=64, **odd):
    torch.manual_seed(0)
    if odd:
        shape = model(language, context).config
        shape.update(odd)
        return sharper(unpadded.prepare(AutoModelForCausalLM.from_config(shape)))
    made = language_model(LanguageConfig(language=language, language_width=WIDTH, language_layers=2, language_heads=2,
                                         context=context, vocabulary=60))  # fmt: skip
    return sharper(made)


def sharper(made):
    """Than at the start, so that ties are out of the question."""
    for parameter in made.parameters():
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


LANGUAGES = ["llama", "gpt2", "qwen2", "mistral", "opt", "gpt_neox", "phi", "bloom"]


@pytest.mark.parametrize(
    "language", [*LANGUAGES, "mistral: four tokens", "llama: two heads to a key", "gpt2: odd scale"]
)
def test_packing_changes_neither_loss_nor_gradient(language):
    """Bloom has attention of its own, so it is padded; others look back four tokens, share keys, scale differently."""
    language, _, odd = language.partition(": ")
    lm = model(language, **ODD[odd]).double()
    assert (lm.config._attn_implementation == unpadded.NAME) == (language != "bloom")
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
    packed = answer_losses(lm, interleave(words, seen.values.bool(), connector(features)), text, learnt)
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


@pytest.mark.parametrize("language", ["llama", "gpt2"])
def test_recomputed_layers_give_the_same_gradients(language):
    """They keep their sequences apart in the second pass too."""
    lm = model(language)
    for each in lm.modules():
        if isinstance(each, nn.Dropout):
            each.p = 0.0
    lm.train()
    tokens, trained, _ = conversations(torch.Generator().manual_seed(1))
    passes, gradients = [], []
    layer = next(each for each in lm.modules() if isinstance(each, nn.ModuleList))[0]
    layer.mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    for again in (False, True):
        if again:
            checkpoint_activations(lm)
        lm.zero_grad()
        text = Ragged.of(tokens)
        answer_losses(lm, lm.get_input_embeddings()(text.values), text, Ragged.of(trained)).sum().backward()
        gradients.append([p.grad for p in lm.parameters()])
    assert len(passes) == 3
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_of_attention_keeps_sequences_apart():
    """What one of them says hangs on nothing of the others, dropped or not."""
    lm = model("gpt2").train()
    texts = [[3, 7, 9, 4], [5, 8, 2], [1, 6]]
    words = lm.get_input_embeddings()

    def said(texts):
        torch.manual_seed(0)
        text, learnt = Ragged.of(texts), Ragged.of([[1] * len(each) for each in texts])
        return answer_losses(lm, words(text.values), text, learnt)

    one, other = said(texts), said([[11, 12, 13, 14], *texts[1:]])
    torch.testing.assert_close(one[3:], other[3:])
    assert not torch.allclose(one[:3], other[:3])


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
