"""TinyViT against its authors' code (golden numbers) and timm's, its published sizes, and what any backbone must do."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from oculex.nn.image.backbones.parts import drop_path, offset_bias, resized_offsets, unwindows, windows
from oculex.nn.image.backbones.tinyvit import SIZES, Size, TinyViT
from oculex.nn.published import names
from oculex.nn.published.tinyvit import AUTHORS, TIMM, ours
from oculex.objectives.distillation import sparse_distillation

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "tinyvit.npz")
SMALL = Size((32, 64, 96, 160), (3, 5, 2), (1, 1, 2, 1))
PUBLISHED = {  # parameters with 1,000 classes; 10^9 multiply-adds; pixels a side
    "tinyvit_5m": (5_392_764, 1.3, 224),
    "tinyvit_11m": (10_996_972, 2.0, 224),
    "tinyvit_21m": (21_198_568, 4.3, 224),
    "tinyvit_21m_384": (21_230_488, 13.8, 384),
    "tinyvit_21m_512": (21_268_120, 27.0, 512),
}


def drawn(name, shape):
    """Numbers that depend on a weight's name alone, the same wherever they are made."""
    at = torch.arange(int(np.prod(shape)) if len(shape) else 1, dtype=torch.float64)
    wave = torch.sin(at * 0.7 + zlib.crc32(name.encode()) % 1000).reshape(shape)
    if name.endswith("running_var"):
        return 1 + 0.3 * wave
    if name.endswith("bn.weight") or ("norm" in name and name.endswith("weight")):
        return 1 + 0.2 * wave
    return 0.25 * wave / (shape[-1] if len(shape) == 2 and "biases" not in name else 1) ** 0.25


def golden_model():
    """Our backbone and classifier with the weights that the golden numbers were made with, by the authors' names."""
    backbone, head = TinyViT(SMALL).double(), nn.Linear(160, 11).double()
    both = nn.ModuleDict({"backbone": backbone, "head": head})
    shapes = {**backbone.state_dict(), **{f"head.{n}": p for n, p in head.state_dict().items()}}
    theirs = names.theirs(shapes, AUTHORS)
    weights = ours({n: drawn(n, v.shape) if v.is_floating_point() else v for n, v in theirs.items()}, AUTHORS)
    backbone.load_state_dict({n: v for n, v in weights.items() if not n.startswith("head.")})
    head.load_state_dict({n[5:]: v for n, v in weights.items() if n.startswith("head.")})
    return both


def farthest(got, wanted):
    return float(np.abs(np.asarray(got) - wanted).max())


def test_logits_and_maps_are_the_authors_also_where_windows_are_padded(evidence):
    model, image = golden_model().eval(), drawn("image", (2, 3, 64, 96)) * 4
    with torch.no_grad():
        error = {"logits": farthest(model["head"](model["backbone"](image)), GOLDEN["logits"])}
        for n, each in enumerate(model["backbone"].pyramid(image)):
            error[f"map{n}"] = farthest(each[:, ::7, ::3, ::3], GOLDEN[f"map{n}"])
    assert error["logits"] < 1e-12
    assert max(error.values()) < 1e-5, error  # the maps are kept in float32
    evidence("tinyvit", "golden", peer=str(GOLDEN["provenance"]), max_abs_error=error)


def test_distillation_loss_and_gradients_are_the_authors(evidence):
    model, image = golden_model().train(), drawn("image", (2, 3, 64, 96)) * 4
    logits = model["head"](model["backbone"](image))
    np.testing.assert_allclose(logits.detach().numpy(), GOLDEN["train_logits"], atol=1e-12)
    classes, probabilities = (torch.from_numpy(GOLDEN[f"teacher_{n}"]) for n in ("classes", "probabilities"))
    loss = sparse_distillation(logits, classes, probabilities).mean()
    np.testing.assert_allclose(loss.item(), GOLDEN["loss"], rtol=1e-6)
    error = {
        "logits": farthest(logits.detach(), GOLDEN["train_logits"]),
        "loss": farthest(loss.item(), GOLDEN["loss"]),
    }
    loss.backward()
    grads = {n: p.grad for n, p in model["backbone"].named_parameters()}
    theirs = names.theirs(grads | {f"head.{n}": p.grad for n, p in model["head"].named_parameters()}, AUTHORS)
    checked = [n.removeprefix("grad:") for n in GOLDEN.files if n.startswith("grad:")]
    assert len(checked) == 8
    for name in checked:
        found = theirs[name].flatten()[:64].numpy()
        np.testing.assert_allclose(found, GOLDEN[f"grad:{name}"], atol=1e-7, rtol=1e-5, err_msg=name)
        error[f"gradient of {name}"] = farthest(found, GOLDEN[f"grad:{name}"])
    evidence("tinyvit", "golden", peer=str(GOLDEN["provenance"]), max_abs_error=error)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_operations_are_the_published_ones(name, evidence):
    count, billions, pixels = PUBLISHED[name]
    with torch.device("meta"):
        backbone, image = TinyViT(SIZES[name]).eval(), torch.empty(1, 3, pixels, pixels)
        head = nn.Linear(backbone.width, 1000)
        with FlopCounterMode(display=False) as counter:
            head(backbone(image))
    found = sum(p.numel() for module in (backbone, head) for p in module.parameters())
    operations = counter.get_total_flops() / 2e9
    assert found == count
    assert operations == pytest.approx(billions, rel=0.01, abs=0.05)  # the authors round to a tenth
    evidence("tinyvit", "preset", parameters=found, classes=1000, pixels=pixels,
             multiply_adds=f"{operations:.2f} G", published=f"{billions} G")  # fmt: skip


@pytest.mark.parametrize("name", ["tinyvit_5m", "tinyvit_11m"])
def test_timms_weights_load_with_equal_logits_and_gradients(name, evidence):
    timm = pytest.importorskip("timm")
    peer = timm.models.tiny_vit
    torch.manual_seed(0)
    theirs = getattr(peer, name.replace("tinyvit", "tiny_vit") + "_224")(num_classes=7, drop_path_rate=0.0)
    theirs = theirs.double()
    for (
        key,
        value,
    ) in theirs.state_dict().items():  # also what starts at 0 or 1, so that swapped names would show
        if value.is_floating_point():
            value += 0.05 * torch.rand_like(value) if "var" in key else 0.05 * torch.randn_like(value)
    weights = ours(theirs.state_dict(), TIMM)
    model, head = TinyViT(SIZES[name]).double(), nn.Linear(theirs.num_features, 7).double()
    model.load_state_dict({n: v for n, v in weights.items() if not n.startswith("head.")})
    head.load_state_dict({n[5:]: v for n, v in weights.items() if n.startswith("head.")})
    image = torch.randn(
        2, 3, 72, 100, dtype=torch.float64
    )  # neither a multiple of the window nor of the stride
    with torch.no_grad():
        mine, other = head(model.eval()(image)), theirs.eval()(image)
        torch.testing.assert_close(mine, other, atol=1e-10, rtol=0)
        error = {"logits": farthest(mine, other.numpy())}
        peer_maps = theirs.forward_intermediates(image, intermediates_only=True)
        for n, (mine, other) in enumerate(zip(model.pyramid(image), peer_maps, strict=True)):
            torch.testing.assert_close(mine, other, atol=1e-10, rtol=0)
            error[f"map{n}"] = farthest(mine, other.numpy())
    evidence(
        "tinyvit", "golden", peer=f"timm {timm.__version__} {theirs.__class__.__name__}", max_abs_error=error
    )
    if name == "tinyvit_5m":
        head(model.train()(image)).square().mean().backward()
        theirs.train()(image).square().mean().backward()
        mine = names.theirs({n: p.grad for n, p in model.named_parameters()}, TIMM)
        for key, parameter in theirs.named_parameters():
            if key in mine:
                torch.testing.assert_close(
                    mine[key], parameter.grad, atol=1e-9, rtol=0, msg=lambda m, k=key: f"{k}: {m}"
                )


@pytest.mark.parametrize("size", [(64, 64), (65, 40), (97, 33), (33, 130)])
def test_any_input_size_gives_a_pyramid_of_its_strides(size):
    model = TinyViT(SMALL).eval()
    maps = model.pyramid(torch.randn(2, 3, *size))
    expected = [tuple(-(-side // stride) for side in size) for stride in model.strides]
    assert [tuple(each.shape[2:]) for each in maps] == expected
    assert [each.shape[1] for each in maps] == list(model.channels)
    tokens, grid = model.tokens(torch.randn(2, 3, *size))
    assert (tokens.shape, grid) == ((2, expected[-1][0] * expected[-1][1], 160), expected[-1])


def test_other_channels_and_one_position():
    model = TinyViT(SIZES["tinyvit_nano"], channels=5).eval()
    assert model(torch.randn(1, 5, 1, 1)).shape == (1, 96)


def test_a_sample_does_not_depend_on_the_others_in_evaluation():
    model, image = TinyViT(SMALL).eval(), torch.randn(4, 3, 50, 70)
    torch.testing.assert_close(model(image)[2:3], model(image[2:3]), atol=1e-5, rtol=1e-4)


def test_nothing_is_saved_beside_weights_and_statistics():
    model = TinyViT(SMALL)
    model.eval()(torch.randn(1, 3, 64, 64))
    kinds = {name.rpartition(".")[2] for name in model.state_dict()}
    assert kinds == {"weight", "bias", "biases", "running_mean", "running_var", "num_batches_tracked"}


# ------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("window", [(2, 3), (5, 4), (7, 7)])
def test_windows_come_back_and_hold_neighbours(window):
    x = torch.arange(2 * 5 * 7 * 3.0).reshape(2, 5, 7, 3) + 1
    cut = windows(x, *window)
    torch.testing.assert_close(unwindows(cut, *window, (5, 7)), x)
    rows, columns = min(window[0], 5), min(window[1], 7)
    first = cut[0].reshape(*window, 3)
    torch.testing.assert_close(first[:rows, :columns], x[0, :rows, :columns])
    assert (first[rows:] == 0).all()


def test_a_bias_belongs_to_the_absolute_offset_of_its_pair():
    table = torch.randn(2, 16)
    bias = offset_bias(table, 4)
    for a in range(16):
        for b in range(16):
            down, across = abs(a // 4 - b // 4), abs(a % 4 - b % 4)
            assert torch.equal(bias[:, a, b], table[:, down * 4 + across])


def test_tables_are_resized_as_the_authors_do():
    table = drawn("table", (3, 49)).float()
    np.testing.assert_allclose(resized_offsets(table, 12).numpy(), GOLDEN["resized"], atol=1e-6)
    assert resized_offsets(table, 7) is table


def test_drop_path_leaves_out_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    kept = drop_path(torch.ones(4000, 3, 2), 0.25, True)
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (kept.flatten(1).std(dim=1) == 0).all()
    assert kept.mean() == pytest.approx(1, abs=0.05)
    assert (drop_path(torch.ones(8, 1), 0.9, False) == 1).all()


# -------------------------------------------------------------------------------------------------- loss


def dense(logits, classes, probabilities):
    """The slow, obvious way: equation 3 written out, then the cross-entropy with every class."""
    count, k = logits.shape[1], classes.shape[1]
    target = torch.zeros_like(logits)
    for row in range(len(logits)):
        if count > k:
            target[row] = (1 - probabilities[row].sum()) / (count - k)
        target[row, classes[row]] = probabilities[row]
    return -(target * logits.log_softmax(1)).sum(1)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_the_sparse_loss_is_the_dense_one_with_its_gradient(k):
    torch.manual_seed(k)
    logits = (3 * torch.randn(5, 9)).requires_grad_()
    probabilities, classes = (2 * torch.randn(5, 9)).softmax(1).topk(k)
    sparse = sparse_distillation(logits, classes, probabilities)
    torch.testing.assert_close(sparse, dense(logits, classes, probabilities))
    mine, theirs = (
        torch.autograd.grad(f(logits, classes, probabilities).sum(), logits)[0]
        for f in (sparse_distillation, dense)
    )
    torch.testing.assert_close(mine, theirs)


def test_a_sum_rounded_above_one_leaves_nothing_for_the_others():
    logits, classes = torch.randn(1, 4), torch.tensor([[2, 0]])
    loss = sparse_distillation(logits, classes, torch.tensor([[0.9, 0.1001]]).half())
    log = logits.log_softmax(1)[0]
    probabilities = torch.tensor([0.9, 0.1001]).half().float()
    torch.testing.assert_close(loss[0], -(probabilities * log[[2, 0]]).sum())
