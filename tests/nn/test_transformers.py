"""Short ways through the transformers give what the long ways give: packed texts, pooled positions, plain attention."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from oculex.data.collate import Ragged
from oculex.nn import blocks
from oculex.nn.blocks import Block, Packing, attend, take
from oculex.nn.image.vit import VisionTransformer
from oculex.nn.language.text import TextTransformer

LENGTHS = [3, 7, 1, 5]


def texts(lengths=LENGTHS):
    return Ragged.of([[1 + (5 * row + place) % 18 for place in range(n)] for row, n in enumerate(lengths)])


def text_tower(layers=2):
    torch.manual_seed(0)
    tower = TextTransformer(20, 8, 12, layers, 3).double()
    for parameter in tower.parameters():  # also those that start at 0 or 1
        parameter.data += 0.1 * torch.randn_like(parameter)
    return tower


def image_tower(**options):
    torch.manual_seed(0)
    return VisionTransformer(8, 4, 12, 2, 3, **options).double()


def both(module, *ways):
    """What each way gives, with the gradients of the module's parameters."""
    results = []
    for way in ways:
        module.zero_grad()
        value = way(module)
        (value * torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view_as(value)).sum().backward()
        results.append(
            (value.detach(), {n: p.grad for n, p in module.named_parameters() if p.grad is not None})
        )
    return results


def same(results):
    first, *others = results
    for other in others:
        torch.testing.assert_close(other, first, atol=1e-10, rtol=1e-8)


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_packing_and_padding_undo_each_other(lengths):
    lengths = torch.tensor(lengths)
    length = max(1, int(lengths.max()))
    packing = Packing.of(lengths, length)
    padded = torch.rand(len(lengths), length, 2) * (torch.arange(length) < lengths[:, None])[..., None]
    packed = packing.pack(padded)
    assert len(packed) == lengths.sum()
    assert torch.equal(packing.pad(packed), padded)
    if lengths.min() > 0:
        last = lengths - 1
        assert torch.equal(take(packed, last, packing), take(padded, last))


def padded_text(tower, text):
    """The text tower written out over padded sequences, every token to the end."""
    x = tower.embedding(text.values) + tower.positions[: text.values.shape[1]]
    for block in tower.blocks:
        x = block(x, causal=True)
    return tower.norm(x)


def test_packed_texts_are_padded_texts():
    text = texts()
    real = (torch.arange(text.values.shape[1]) < text.lengths[:, None])[..., None]
    same(both(text_tower(), lambda t: padded_text(t, text) * real, lambda t: t.tokens(text)))


def test_the_pooled_text_is_the_last_token_of_all():
    text = texts()
    same(both(text_tower(), lambda t: take(padded_text(t, text), text.lengths - 1), lambda t: t(text)))


def test_the_pooled_image_is_the_first_token_of_all():
    image = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    same(both(image_tower(), lambda t: t.norm_post(t.tokens(image)[0][:, 0]), lambda t: t(image)))


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_at_one_position_gives_what_it_gives_there(causal):
    torch.manual_seed(0)
    block, x = Block(12, 3).double(), torch.rand(4, 6, 12, dtype=torch.float64)
    at = torch.tensor([0, 5, 2, 3])
    same(both(block, lambda b: take(b(x, causal), at), lambda b: b(x, causal, at=at)))


def test_stochastic_depth_leaves_out_the_same_texts_packed_and_padded():
    torch.manual_seed(0)
    block, x = Block(12, 3, drop_path=0.5).double(), torch.rand(4, 7, 12, dtype=torch.float64)
    packing = Packing.of(torch.tensor(LENGTHS), 7)

    def padded(b):
        torch.manual_seed(1)
        return packing.pack(b(x, causal=True))

    def packed(b):
        torch.manual_seed(1)
        return b(packing.pack(x), causal=True, packing=packing)

    results = both(block, padded, packed)
    same(results)
    assert (results[0][0] == packing.pack(x)).all(dim=1).any()


def test_padding_costs_nothing():
    tower = text_tower()

    def work(lengths):
        with FlopCounterMode(display=False) as counter:
            tower(texts(lengths))
        return counter.get_flop_counts()["Global"]

    short, long = work([2, 2, 2, 2]), work([2, 2, 2, 8])
    products = {op: flops for op, flops in long.items() if op != torch.ops.aten.bmm}
    assert all(flops < 1.8 * short[op] for op, flops in products.items())  # 14 tokens to 8, not 32 to 8


@pytest.mark.parametrize(("n", "m", "causal"), [(5, 5, False), (5, 5, True), (1, 5, False)])
@pytest.mark.parametrize("hidden", [False, True])
def test_plain_attention_is_torchs(n, m, causal, hidden, monkeypatch):
    if causal and hidden:
        pytest.skip("one kind of mask at a time")
    torch.manual_seed(0)
    q, k, v = (torch.rand(2, 3, size, 4, dtype=torch.float64, requires_grad=True) for size in (n, m, m))
    seen = (torch.arange(m) <= torch.tensor([1, 3])[:, None, None, None]) if hidden else None
    plain = attend(q, k, v, causal, seen)
    monkeypatch.setattr(blocks, "SHORT", 0)
    fused = attend(q, k, v, causal, seen)
    torch.testing.assert_close(plain, fused)
    for a, b in zip(*(torch.autograd.grad(x.square().sum(), (q, k, v)) for x in (plain, fused)), strict=True):
        torch.testing.assert_close(a, b)


class Text(torch.nn.Module):
    def __init__(self, tower):
        super().__init__()
        self.tower = tower

    def forward(self, values, lengths):
        return self.tower(Ragged(values, lengths))


def test_a_traced_tower_is_one_graph_of_any_batch_size():
    rows, length = torch.export.Dim("rows", min=1), torch.export.Dim("length", min=2, max=8)
    text, image = texts(), torch.rand(3, 3, 8, 8, dtype=torch.float64)
    for module, inputs, shapes in (
        (Text(text_tower()), (text.values, text.lengths), ({0: rows, 1: length}, {0: rows})),
        (image_tower(), (image,), ({0: rows},)),
    ):
        traced = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False).module()
        torch.testing.assert_close(traced(*inputs), module(*inputs))
        fewer = tuple(each[:2] for each in inputs)
        torch.testing.assert_close(traced(*fewer), module(*fewer))


def test_recomputed_blocks_give_the_same():
    """As activation checkpointing wraps them."""
    text, image = texts(), torch.rand(3, 3, 8, 8, dtype=torch.float64)
    for tower, inputs in ((text_tower(), text), (image_tower(drop_path=0.5), image)):

        def run(t, inputs=inputs):
            torch.manual_seed(3)
            return t(inputs)

        plain = both(tower, run)
        for block in tower.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        same([*plain, *both(tower, run)])


def test_an_unused_position_takes_no_gradient():
    """Padding beyond the longest text never reaches the table of positions."""
    tower = text_tower()
    tower(texts()).sum().backward()
    assert (tower.positions.grad[7:] == 0).all()
    assert (tower.positions.grad[:7].abs().sum(dim=1) > 0).all()


def test_a_text_beyond_the_context_is_refused():
    with pytest.raises(ValueError, match="9 tokens is longer than the context of 8"):
        text_tower()(texts([9]))


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="width 10 does not divide into 3 heads"):
        Block(10, 3)


def test_quick_gelu_is_its_formula():
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    torch.testing.assert_close(blocks.quick_gelu(x), x / (1 + torch.exp(-1.702 * x)))
    assert not torch.allclose(blocks.quick_gelu(x), F.gelu(x))
