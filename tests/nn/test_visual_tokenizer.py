"""LaVIT's tokenizer: as the authors', patches that are left out speak through the others, codes follow what they name."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from oculex.contracts import UserError
from oculex.nn.published.lavit import from_lavit
from oculex.nn.tokens.visual_tokenizer import Codebook, TokenAttention, TokenSelector, VisualTokenizer, padded
from oculex.objectives.tokenization import cosine_error, length_error

GOLDEN = Path(__file__).parents[1] / "golden" / "lavit.npz"
SIZES = {"width": 48, "patches": 16, "layers": 2, "heads": 3, "hidden": 209, "codes": 40, "code_width": 8}


def fixed(shapes):
    """Weights that depend on names and shapes alone."""
    weights = {}
    for name, shape in shapes.items():
        phase = sum(ord(letter) * (i + 1) for i, letter in enumerate(name)) % 1000
        wave = torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase)
        spread = 0.3 if len(shape) < 2 else 1.5 / math.sqrt(shape[-1])
        gain = len(shape) == 1 and name.endswith("weight")
        weights[name] = (wave * spread + gain).float().view(shape)
    return weights


@pytest.fixture(scope="module")
def golden():
    found = np.load(GOLDEN)
    return {name: found[name].item() if found[name].dtype.kind == "U" else torch.from_numpy(found[name])
            for name in found.files if not name.startswith("shape/")}, {
                name: tuple(found[name].tolist()) for name in found.files if name.startswith("shape/")}  # fmt: skip


@pytest.fixture(scope="module")
def model(golden):
    found, shapes = golden
    weights = fixed({name.removeprefix("shape/"): shape for name, shape in shapes.items()})
    weights["encoder/quantize.embedding.weight"] = found["codes"]
    weights["encoder/encode_task_layer.2.weight"] = found["narrow"]
    encoder, decoder = (
        {
            name.removeprefix(f"{part}/"): value
            for name, value in weights.items()
            if name.startswith(f"{part}/")
        }
        for part in ("encoder", "decoder")
    )
    model = VisualTokenizer(**SIZES).eval()
    lacking = model.load_state_dict(from_lavit(encoder, decoder), strict=False)
    assert set(lacking.missing_keys) == {"codebook.usage", "codebook.begun"}
    assert not lacking.unexpected_keys
    return model


def test_the_tokenizer_is_the_authors(golden, model, evidence):
    found, _ = golden
    with torch.no_grad():
        log_p = model.selector(found["features"])
        merged = model.merger(found["features"], found["kept"])
        vectors = model.narrow(merged[found["kept"].bool()])
        codes, index, _ = model.codebook(vectors)
        rebuilt = model.decoder(*padded(codes, found["kept"].sum(1).long()))
    assert torch.equal(index, found["index"])
    got = {"log_p": log_p, "merged": merged, "rebuilt": rebuilt}
    errors = {name: float((value - found[name]).abs().max()) for name, value in got.items()}
    assert max(errors.values()) < 1e-4, errors
    assert found["rebuilt"].std() > 0.1
    evidence("lavit", "golden", peer=found["provenance"], max_abs_error=errors)


def test_weights_of_something_else_are_refused():
    with pytest.raises(UserError, match=r"head\.weight"):
        from_lavit({"head.weight": torch.zeros(3)}, {})


# -------------------------------------------------------------------------------------------------- selector


def test_a_drawn_choice_follows_its_odds_and_has_their_gradient():
    odds = torch.tensor([-2.0, 0.0, 2.0]).expand(1, 3).clone().requires_grad_()
    log_p = torch.stack([odds, torch.zeros_like(odds)], -1).log_softmax(-1)
    torch.manual_seed(0)
    drawn = TokenSelector.choose(log_p.expand(2000, -1, -1), torch.rand(2000, 3, 2))
    assert torch.allclose(drawn.mean(0), torch.tensor([-2.0, 0.0, 2.0]).sigmoid(), atol=0.06)
    drawn.mean().backward()
    assert (odds.grad > 0).all()


def test_no_image_is_empty_and_a_count_is_kept():
    odds = torch.tensor([[3.0, -1.0, 0.5], [-9.0, -7.0, -8.0]])
    log_p = torch.stack([odds, torch.zeros_like(odds)], -1).log_softmax(-1)
    even = torch.full((1, 3, 2), 0.5)
    assert TokenSelector.choose(log_p, even).round().tolist() == [[1, 0, 1], [0, 1, 0]]
    assert TokenSelector.choose(log_p, even, count=2).round().tolist() == [[1, 0, 1], [0, 1, 1]]
    torch.manual_seed(0)
    assert (TokenSelector.choose(log_p, torch.rand(2, 3, 2), count=2).round().sum(1) == 2).all()


def test_the_length_is_led_to_its_rate():
    kept = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]])
    assert length_error(kept, 0.25).tolist() == [0.0625, 0.0]
    x = torch.randn(2, 3, 5)
    assert torch.allclose(cosine_error(3 * x, x), torch.zeros(2), atol=1e-6)
    assert torch.allclose(cosine_error(-x, x), torch.full((2,), 2.0))


# ---------------------------------------------------------------------------------------------------- merger


def test_the_choice_of_keys_has_the_gradient_of_a_weight():
    torch.manual_seed(0)
    attention = TokenAttention(8, 2)
    x, policy = torch.randn(1, 4, 8), torch.ones(1, 1, 4, requires_grad=True)
    whole = attention(x, x, policy)
    assert torch.allclose(whole, attention(x, x), atol=1e-5)
    (grad,) = torch.autograd.grad(whole.square().sum(), policy)
    h = torch.zeros_like(policy)
    h[0, 0, 2] = 1e-2
    with torch.no_grad():
        slope = (
            attention(x, x, policy + h).square().sum() - attention(x, x, policy - h).square().sum()
        ) / 2e-2
    assert torch.isclose(grad[0, 0, 2], slope, rtol=2e-2)


def test_a_kept_token_knows_the_kept_ones_before_it_and_all_that_are_left_out():
    """To the weight that is spread over all keys: with wild scores that weight counts, in the authors' code too."""
    torch.manual_seed(0)
    model, features, kept = VisualTokenizer(**SIZES), torch.randn(1, 16, 48), torch.zeros(1, 16)
    kept[0, [2, 5, 9]] = 1

    def change(at):
        other = features.clone()
        other[0, at] = torch.randn(48)
        with torch.no_grad():
            return (model.merger(other, kept) - model.merger(features, kept)).abs().amax(2)[0] > 1e-3

    assert change(9)[[2, 5, 9]].tolist() == [False, False, True]
    assert change(2)[[2, 5, 9]].tolist() == [True, True, True]
    assert change(12)[[2, 5, 9]].tolist() == [True, True, True]


def test_padding_is_not_looked_at(model):
    torch.manual_seed(0)
    codes = F.normalize(torch.randn(7, 8), dim=-1)
    both = model.decoder(*padded(codes, torch.tensor([5, 2])))
    alone = model.decoder(*padded(codes[5:], torch.tensor([2])))
    assert torch.allclose(both[1:], alone, atol=1e-5)
    assert padded(codes[:0], torch.tensor([0, 0]))[1].tolist() == [[True], [True]]


def test_an_image_has_one_name_unless_it_is_drawn(model):
    torch.manual_seed(0)
    features = torch.randn(4, 16, 48)
    assert model.words(features) == model.words(features)
    assert model.words(features[2:3]) == model.words(features)[2:3]
    assert model.words(features, draw=True) != model.words(features, draw=True)


def test_words_give_features_back_whatever_their_number(model):
    with torch.no_grad():
        words = model.words(torch.randn(3, 16, 48))
        assert [len(each) for each in model.words(torch.randn(3, 16, 48), count=4)] == [4, 4, 4]
        assert model.features(words).shape == (3, 16, 48)
        assert model.features([[], [1] * 40]).shape == (2, 16, 48)


# -------------------------------------------------------------------------------------------------- codebook


def clusters(count=400, groups=4):
    torch.manual_seed(0)
    centres = torch.eye(8)[:groups]
    return centres, centres[torch.arange(count) % groups] + 0.05 * torch.randn(count, 8)


def test_codes_go_where_the_vectors_are_and_none_stays_unused():
    centres, x = clusters()
    book = Codebook(8, 8, decay=0.9, dead=0.2)
    for _ in range(60):
        _, index, _ = book(x)
        book.collect(x, index)
        book.update()
    near = (F.normalize(book.codes, dim=-1) @ centres.T).max(1).values
    assert (near > 0.97).all()  # each lies in a group
    _, index, distance = book(x)
    assert len(index.unique()) == 8
    assert distance.mean() < 0.002
    assert torch.allclose(book.codes.norm(dim=1), torch.ones(8), atol=1e-5)
    assert book.usage.sum() == pytest.approx(1, abs=0.15)


def test_a_code_passes_its_gradient_to_the_vector():
    book = Codebook(8, 8)
    x = torch.randn(5, 8, requires_grad=True)
    code, index, distance = book(x)
    assert torch.equal(code.detach(), book.codes[index]) or torch.allclose(
        code.detach(), book.codes[index], atol=1e-6
    )
    weight = torch.randn(5, 8)
    (through,) = torch.autograd.grad((code * weight).sum(), x, retain_graph=True)
    (direct,) = torch.autograd.grad((F.normalize(x, dim=-1) * weight).sum(), x)
    assert torch.allclose(through, direct, atol=1e-6)
    assert distance.requires_grad


def test_micro_batches_move_the_codes_alike():
    _, x = clusters(64)
    whole, parts = Codebook(8, 8), Codebook(8, 8)
    parts.load_state_dict(whole.state_dict())
    for _ in range(3):
        for book, pieces in ((whole, [x]), (parts, x.split(16))):
            for piece in pieces:
                book.collect(piece, book(piece)[1])
            torch.manual_seed(1)
            book.update()
    assert torch.allclose(whole.codes, parts.codes, atol=1e-6)
    with pytest.raises(RuntimeError, match="nothing was collected"):
        whole.update()


def on_ranks(rank, x):
    ranks = dist.get_world_size()
    book = Codebook(8, 8)
    torch.manual_seed(3)
    book.codes.copy_(F.normalize(torch.randn(8, 8), dim=-1))
    for _ in range(3):
        own = x.chunk(ranks)[rank]
        book.collect(own, book(own)[1])
        torch.manual_seed(1)
        book.update()
    others = [torch.empty_like(book.codes) for _ in range(ranks)]
    dist.all_gather(others, book.codes)
    assert all(torch.equal(each, book.codes) for each in others)
    return book.codes


def test_ranks_move_the_codes_alike(pool):
    _, x = clusters(64)
    codes = pool.run(on_ranks, x)[0]
    alone = Codebook(8, 8)
    torch.manual_seed(3)
    alone.codes.copy_(F.normalize(torch.randn(8, 8), dim=-1))
    for _ in range(3):
        alone.collect(x, alone(x)[1])
        torch.manual_seed(1)
        alone.update()
    assert torch.allclose(codes, alone.codes, atol=1e-6)


def test_an_image_in_use_keeps_its_likeliest_patches():
    p = torch.tensor([[0.9, 0.2, 0.8, 0.3], [0.1, 0.05, 0.02, 0.2], [0.6, 0.6, 0.6, 0.6]])
    log_p = torch.stack([p, 1 - p], -1).log()
    assert TokenSelector.likeliest(log_p).tolist() == [[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0]]
    assert TokenSelector.likeliest(log_p, 3).tolist() == [[1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]
