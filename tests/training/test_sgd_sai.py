"""SGD-SaI against the authors' optimizer, whole and sharded, and what every optimizer has to keep."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from oculex.contracts import Optimizer
from oculex.training import memory
from oculex.training.checkpoint import pack_optimizer, unpack_optimizer
from oculex.training.ranks import whole
from oculex.training.sgd_sai import SGDSaI
from tests.doctor import peak

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "sgd_sai.npz")
"""Made by AnonymousAlethiometer/SGD_SaI at e213080: ``SGD_sai``, as its provenance entry says."""
SHAPES = [(3, 4), (5,), (2, 3, 2, 2)]


def inputs():
    rng = np.random.default_rng(0)
    start = [torch.tensor(rng.standard_normal(s).astype("f4")) for s in SHAPES]
    return start, [[torch.tensor(rng.standard_normal(s).astype("f4")) for s in SHAPES] for _ in range(6)]


def stepped(foreach, lay=lambda tensor: tensor):
    """Weights after each of the golden steps, and the scales; ``lay`` says how parameters and gradients lie."""
    start, gradients = inputs()
    parameters = [nn.Parameter(lay(value)) for value in start]
    groups = [
        {"params": parameters[:1], "weight_decay": 0.1},
        {"params": parameters[1:], "weight_decay": 0.0},
    ]
    optimizer, after = SGDSaI(groups, lr=0.03, momentum=0.9, foreach=foreach), []
    for step, each in enumerate(gradients):
        for group in optimizer.param_groups:
            group["lr"] = 0.03 * (1 - step / 10)
        for parameter, gradient in zip(parameters, each, strict=True):
            parameter.grad = lay(gradient.clone())
        optimizer.step()
        after.append([whole(parameter.detach()).clone() for parameter in parameters])
    return after, [optimizer.state[parameter]["scale"] for parameter in parameters]


def check(after, scales):
    for step, each in enumerate(after):
        for i, value in enumerate(each):
            np.testing.assert_allclose(value, GOLDEN[f"after{step}_{i}"], atol=1e-6)
    for i, scale in enumerate(scales):
        np.testing.assert_allclose(scale, GOLDEN[f"gsnr_{i}"], rtol=1e-6)


@pytest.mark.parametrize("foreach", [False, True])
def test_steps_are_the_authors(foreach, monkeypatch, evidence):
    monkeypatch.setattr(SGDSaI, "CHUNK", 16)  # so that a group is handled in several chunks
    after, scales = stepped(foreach)
    check(after, scales)
    error = max(
        float(np.abs(value.numpy() - GOLDEN[f"after{step}_{i}"]).max())
        for step, each in enumerate(after)
        for i, value in enumerate(each)
    )
    evidence("sgd_sai", "golden", peer=str(GOLDEN["provenance"]), max_abs_error={"weights": error})


def on_rank(rank, ranks, foreach):
    mesh = init_device_mesh("cpu", (ranks,))
    return stepped(
        foreach, lambda value: value if value.ndim == 1 else distribute_tensor(value, mesh, [Shard(0)])
    )


@pytest.mark.parametrize("foreach", [False, True])
def test_sharded_steps_are_the_authors(pool, foreach):
    """Rows lie on ranks unevenly, on some there are none, and one parameter is whole everywhere."""
    for after, scales in pool.run(on_rank, pool.ranks, foreach):
        check(after, scales)


def test_the_state_is_half_of_adamws():
    def state_bytes(optimizer, model):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        return sum(v.nbytes for s in optimizer.state.values() for v in s.values() if v.ndim)

    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    ours = state_bytes(SGDSaI(model.parameters()), model)
    assert 2 * ours == state_bytes(torch.optim.AdamW(model.parameters()), model)


def test_the_estimate_of_memory_knows_it():
    recipe, assets, views = peak.configured({"batch": 8})
    adamw = memory.estimate(recipe, assets, views)
    ours = memory.estimate(replace(recipe, optimizer=Optimizer("sgd_sai")), assets, views)
    assert ours.optimizer == pytest.approx(adamw.optimizer / 2, rel=1e-3)


def test_a_scalar_and_a_parameter_whose_first_gradient_is_zero_learn():
    """Both break the authors' code: the first is stepped by |g| / eps, the second never moves."""
    scalar, late = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.zeros(4))
    optimizer = SGDSaI([scalar, late], lr=0.1, momentum=0.0, weight_decay=0.0)
    for step in range(2):
        scalar.grad, late.grad = torch.tensor(0.5), torch.arange(4.0) * step
        optimizer.step()
    assert float(scalar.detach()) == pytest.approx(2.0 - 2 * 0.1 * 0.5)
    expected = torch.arange(4.0).norm() / torch.arange(4.0).std()
    torch.testing.assert_close(late.detach(), -0.1 * expected * torch.arange(4.0))


def test_it_goes_on_to_the_bit():
    start, gradients = inputs()

    def run(steps, optimizer, parameters):
        for each in steps:
            for parameter, gradient in zip(parameters, each, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()

    whole, half = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    first = SGDSaI(whole)
    run(gradients[:3], first, whole)
    for a, b in zip(whole, half, strict=True):
        b.data.copy_(a.data)
    flat, groups = pack_optimizer(first)
    second = SGDSaI(half)
    unpack_optimizer(second, {k: v.clone() for k, v in flat.items()}, groups)
    run(gradients[3:], first, whole)
    run(gradients[3:], second, half)
    assert all(torch.equal(a, b) for a, b in zip(whole, half, strict=True))


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"momentum": 1.0}, {"eps": -1e-8}, {"weight_decay": -0.1}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be >= 0"):
        SGDSaI([nn.Parameter(torch.zeros(2))], **wrong)
