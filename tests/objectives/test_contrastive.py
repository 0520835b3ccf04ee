"""The contrastive loss against a slow, obvious one; and that it never holds the whole matrix of logits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from oculex.objectives import contrastive as module
from oculex.objectives.contrastive import contrastive, cross_entropy, negatives


def unit(rows, width, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=dtype), dim=1).requires_grad_()


def slow(rows, columns, scale, truth):
    """One value per row, a term at a time."""
    values = []
    for i, right in enumerate(truth.tolist()):
        logits = [scale * sum(a * b for a, b in zip(rows[i], column, strict=True)) for column in columns]
        values.append(sum((logit - logits[right]).exp() for logit in logits).log())
    return torch.stack(values)


def gradients(value, *inputs):
    weights = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype)
    return torch.autograd.grad((weights * value).sum(), inputs)


sizes = st.integers(1, 9)


@settings(max_examples=30, deadline=None)
@given(
    rows=sizes,
    before=st.integers(0, 4),
    after=st.integers(0, 4),
    tile=st.integers(1, 12),
    width=st.integers(1, 4),
)
def test_own_rows_of_a_gathered_batch_equal_the_slow_loss(rows, before, after, tile, width):
    n = before + rows + after
    all_image, all_text = unit(n, width, 1), unit(n, width, 2)
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    own = slice(before, before + rows)
    truth = torch.arange(before, before + rows)
    wanted = (slow(all_image[own], all_text, scale, truth) + slow(all_text[own], all_image, scale, truth)) / 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE", tile)
        got = contrastive(all_image[own], all_text[own], scale, all_image, all_text, before)
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=1e-9)
    inputs = all_image, all_text, scale
    torch.testing.assert_close(gradients(got, *inputs), gradients(wanted, *inputs), atol=1e-11, rtol=1e-8)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 13), tile=st.integers(1, 13), width=st.integers(1, 4))
def test_one_process_equals_the_slow_loss(n, tile, width):
    image, text, scale = (
        unit(n, width, 1),
        unit(n, width, 2),
        torch.tensor(7.0, dtype=torch.float64).requires_grad_(),
    )
    truth = torch.arange(n)
    wanted = (slow(image, text, scale, truth) + slow(text, image, scale, truth)) / 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE", tile)
        got = contrastive(image, text, scale)
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=1e-9)
    inputs = image, text, scale
    torch.testing.assert_close(gradients(got, *inputs), gradients(wanted, *inputs), atol=1e-11, rtol=1e-8)


@settings(max_examples=30, deadline=None)
@given(
    rows=sizes,
    before=st.integers(0, 4),
    after=st.integers(0, 4),
    extra=st.integers(0, 9),
    tile=st.integers(1, 12),
)
def test_wrong_texts_are_read_by_images_and_look_for_none(rows, before, after, extra, tile):
    """On one rank among others, and (before = after = 0) in one process that holds both directions."""
    n, own = before + rows + after, slice(before, before + rows)
    image, text, wrong = unit(n, 3, 1), unit(n, 3, 2), unit(extra, 3, 3)
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    truth = torch.arange(before, before + rows)
    read = torch.cat([text, wrong])
    wanted = (slow(image[own], read, scale, truth) + slow(text[own], image, scale, truth)) / 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE", tile)
        parts = (
            (image[own], text[own], scale, image, text, before) if before + after else (image, text, scale)
        )
        got = contrastive(*parts, wrong=wrong)
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=1e-9)
    inputs = image, text, wrong, scale
    torch.testing.assert_close(gradients(got, *inputs), gradients(wanted, *inputs), atol=1e-11, rtol=1e-8)


@settings(max_examples=20, deadline=None)
@given(rows=sizes, extra=sizes, tile=st.integers(1, 12), data=st.data())
def test_columns_without_a_row_are_negatives(rows, extra, tile, data):
    """Any column may be the right one, columns may outnumber rows, and several rows may share one."""
    columns = unit(rows + extra, 3, 2)
    own, scale = unit(rows, 3, 1), torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    truth = torch.tensor(data.draw(st.lists(st.integers(0, rows + extra - 1), min_size=rows, max_size=rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE", tile)
        got, none = cross_entropy(own, columns, scale, truth)
    wanted = slow(own, columns, scale, truth)
    assert none.numel() == 0
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=1e-9)
    inputs = own, columns, scale
    torch.testing.assert_close(gradients(got, *inputs), gradients(wanted, *inputs), atol=1e-11, rtol=1e-8)


@pytest.mark.parametrize("both", [False, True])
def test_the_tiled_gradient_is_the_derivative(both, monkeypatch):
    monkeypatch.setattr(module, "TILE", 2)
    rows, columns = unit(5, 3, 1), unit(5 if both else 8, 3, 2)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    truth = torch.arange(5)
    assert torch.autograd.gradcheck(
        lambda *inputs: negatives(*inputs, truth, both)[: 1 + both], (rows, columns, scale)
    )


def test_the_order_of_the_pairs_does_not_matter():
    image, text, scale = unit(11, 4, 1), unit(11, 4, 2), torch.tensor(9.0, dtype=torch.float64)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        contrastive(image[order], text[order], scale), contrastive(image, text, scale)[order]
    )
    torch.testing.assert_close(contrastive(text, image, scale), contrastive(image, text, scale))


def test_a_single_pair_has_no_loss_and_no_gradient():
    image, text, scale = (
        unit(1, 4, 1),
        unit(1, 4, 2),
        torch.tensor(9.0, dtype=torch.float64, requires_grad=True),
    )
    loss = contrastive(image, text, scale)
    assert loss.item() == 0
    assert all((each == 0).all() for each in gradients(loss, image, text, scale))


def test_a_small_loss_keeps_its_digits():
    """Pairs that are told apart by a logit of 60: log p rounds to 0 in float32, the loss is n exp(-60)."""
    eye = torch.eye(8)
    loss = contrastive(eye, eye, torch.tensor(60.0))
    torch.testing.assert_close(loss, torch.full((8,), 7 * math.exp(-60.0)), rtol=1e-5, atol=0.0)


def test_bfloat16_autocast_leaves_the_loss_in_float32():
    image, text, scale = unit(16, 8, 1, torch.float32), unit(16, 8, 2, torch.float32), torch.tensor(50.0)
    wanted = contrastive(image, text, scale)
    for tile in (4, 64):
        with torch.autocast("cpu", torch.bfloat16), pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "TILE", tile)
            got = contrastive(image, text, scale)
        found = torch.autograd.grad(got.sum(), image)[0]
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found, torch.autograd.grad(wanted.sum(), image, retain_graph=True)[0],
                                   atol=1e-5, rtol=1e-4)  # fmt: skip


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        found = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.numbers = max(self.numbers, *found, 0)
        return result


@pytest.mark.parametrize("gathered", [False, True])
def test_the_matrix_of_logits_is_never_held(gathered, monkeypatch):
    monkeypatch.setattr(module, "TILE", 16)
    image, text = unit(128, 4, 1), unit(128, 4, 2)
    everyone = (unit(256, 4, 3), unit(256, 4, 4)) if gathered else (None, None)
    with Largest() as largest:
        contrastive(image, text, torch.tensor(5.0), *everyone).sum().backward()
    assert largest.numbers <= 256 * 4


def test_the_measure_of_the_largest_tensor_sees_the_whole_matrix():
    image, text = unit(128, 4, 1), unit(128, 4, 2)
    with Largest() as largest:
        contrastive(image, text, torch.tensor(5.0)).sum().backward()
    assert largest.numbers == 128 * 128
