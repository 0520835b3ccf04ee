"""What a stage does not train stays as it is, statistics of batch norms with it."""

import torch
from torch import nn

from oculex.contracts import Stage
from oculex.training import optimizers


def test_batch_norms_are_frozen_with_their_weights():
    torch.manual_seed(0)
    system = nn.ModuleDict(
        {part: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)) for part in ("a", "b")}
    )
    optimizers.freeze(system, Stage(trainable=("b.*",)))
    optimizers.train(system)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    for part in ("a", "b"):
        system[part](torch.randn(2, 3, 4, 4))
    changed = {name for name, value in system.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"b.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    optimizers.freeze(system, Stage())
    optimizers.train(system)
    assert system["a"][1].training
