"""Weight decay along its schedule, for the groups that are decayed at all."""

import pytest
import torch
from torch import nn

from oculex import contracts
from oculex.contracts import Schedule, Stage
from oculex.training import optimizers


def test_half_a_cosine_leads_to_the_end():
    """DINO's: 0.04 to 0.4 (Caron et al. 2021, appendix C)."""
    schedule = Schedule(weight_decay=0.4)
    assert optimizers.decay(schedule, 0.04, 0, 100) == pytest.approx(0.04)
    assert optimizers.decay(schedule, 0.04, 50, 100) == pytest.approx(0.22)
    assert optimizers.decay(schedule, 0.04, 100, 100) == pytest.approx(0.4)
    assert optimizers.decay(Schedule(), 0.04, 50, 100) == 0.04


def test_gains_and_biases_stay_without_decay():
    system = nn.Linear(3, 2)
    optimizer = optimizers.build(system, contracts.Optimizer(weight_decay=0.04), Stage())
    optimizers.set_decay(optimizer, 0.2)
    decays = {p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {2: 0.2, 1: 0.0}
    before = system.weight.detach().clone()
    optimizers.set_rate(optimizer, 0.5)
    for parameter in system.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(system.weight.detach(), before * (1 - 0.5 * 0.2))
