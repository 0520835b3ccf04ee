"""How much memory a recipe's updates take, found without allocating it.

An update runs on tensors that have a shape, a type and a device but no storage (torch's FakeTensor), through the very
code that trains: the same micro-batches, precision, recomputation and optimizer. Every storage is counted from
the operation that makes it to the moment the last tensor or the graph lets go of it, so the estimate is the largest
sum of live bytes, at the batch's real size, with the optimizer's state as every update but the first finds it.

What is not seen is what a kernel allocates for itself and frees before it returns (a convolution's workspace, a
matrix product's packed operand), the allocator's rounding, and what Python and the libraries take before a model is
built. One process is estimated: ranks add their gradient buckets. ``compile`` is ignored; it makes less, never more.
"""

from __future__ import annotations

import os
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from oculex import catalog
from oculex.contracts import Assets, Batch, Recipe, UserError
from oculex.data import collate
from oculex.data.collate import Ragged
from oculex.training import checkpoint, optimizers, ranks
from oculex.training.folder import RunFolder
from oculex.training.recompute import checkpoint_activations
from oculex.training.step import Trainee, backward

ENCODED = 2
"""Micro-batches of an update that are worked through; more of them need no more memory at once."""


@dataclass(frozen=True)
class Estimate:
    """Bytes at the moment of the peak; the parts sum to ``peak``."""

    peak: int
    weights: int
    """Parameters and buffers, and their running average where the recipe has one."""
    gradients: int
    optimizer: int
    batch: int
    losses: int
    """What the losses made: the similarities of all pairs, and what their gradient needs."""
    activations: int
    """What the encoders keep for the backward pass, and temporaries."""


def optimizer_state(run: RunFolder) -> int:
    """Bytes of the optimizer's state that a finished run ended with, on all ranks together: those of its last checkpoint.

    Raises UserError where the run has no whole checkpoint.
    """
    saved = checkpoint.latest(run)
    if saved is None:
        raise UserError(f"{run.path} has no whole checkpoint; `oculex resume {run.path}` trains it")
    return sum(tensor.nbytes for tensor in checkpoint.tensors(saved, "optimizer").values())


class DependsOnData(Exception):
    """An operation whose result's shape follows from values, which tensors without values do not have."""


def estimate(recipe: Recipe, assets: Assets, views: Sequence[dict[str, Any]]) -> Estimate:
    """The peak of one process's updates on this machine's device. ``views`` are some training views of the data; they
    are repeated to fill the batch, so the longest text among them sets the batch's length.

    Raises DependsOnData where the system's shapes depend on values.
    """
    fabric = ranks.launch(recipe)
    with torch.device("meta"):
        system: Any = catalog.load(recipe.system).system.build(recipe.model, assets)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    live = LiveBytes(fake)
    with fake:
        _materialise(system, fabric.device)
    pieces = recipe.accumulate if system.gathers else min(recipe.accumulate, ENCODED)
    rows = recipe.batch // recipe.accumulate * pieces
    batch = fill(views, rows, fabric.device, fake)
    rest = fill(views, recipe.batch - rows, fabric.device, fake)
    live.add((list(system.parameters()), list(system.buffers())), "weights")
    live.add((batch, rest), "batch")
    try:
        with live:
            _update(fabric, recipe, system, batch, pieces, live)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise DependsOnData(f"{type(system).__name__}: {error}") from error
    return Estimate(live.peak, *(live.at_peak[kind] for kind in KINDS))


KINDS = ("weights", "gradients", "optimizer", "batch", "losses", "activations")


def _update(fabric: Fabric, recipe: Recipe, system: Any, batch: Batch, pieces: int, live: LiveBytes) -> None:
    """What the loop does to memory, from the second update on."""
    if recipe.ema:
        with live.kind("weights"):
            kept = [p.clone() for p in system.state_dict().values()]  # noqa: F841
    if recipe.activation_checkpointing:
        checkpoint_activations(system)
    system.train()
    optimizer = optimizers.build(system, recipe.optimizer, recipe.stages[0])
    for parameter in system.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: live.mark(p.grad, "gradients"))
    model: Any = fabric.setup(Trainee(system), move_to_device=False)
    system.losses = _counted_as_losses(system.losses, live)
    system.encode = _encodes_some(system.encode, pieces)
    with live.kind("optimizer"):
        for parameter in system.parameters():
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        optimizer.step()
    optimizer.zero_grad()
    system.before_step(0, 1)
    backward(fabric, model, batch, accumulate=pieces, seed=recipe.seed, step=0)
    if recipe.optimizer.clip_norm is not None:
        nn.utils.clip_grad_norm_(system.parameters(), recipe.optimizer.clip_norm)
    optimizer.step()


def _counted_as_losses(losses: Any, live: LiveBytes) -> Any:
    def call(features: Any, part: Batch) -> dict[str, Tensor]:
        with live.kind("losses"):
            return losses(features, part)

    return call


def _encodes_some(encode: Any, pieces: int) -> Any:
    """Of equal micro-batches the first is encoded, and the second where gradients are kept, which then meets those of
    the first. The others would need as much as these, and give features of the right shape instead."""
    calls, shapes = 0, {}

    def call(batch: Batch) -> dict[str, Tensor]:
        nonlocal calls, shapes
        index, calls = calls % pieces, calls + 1
        graph = torch.is_grad_enabled()
        if index == 0 or (index < ENCODED and graph):
            features = encode(batch)
            shapes = {name: value.detach() for name, value in features.items()} if pieces > 1 else {}
            return features
        return {name: torch.empty_like(value).requires_grad_(graph) for name, value in shapes.items()}

    return call


def _materialise(system: nn.Module, device: torch.device) -> None:
    """Every parameter and buffer becomes a tensor of ``device``, of equal shape and strides; shared ones stay shared."""
    made: dict[int, Any] = {}
    for module in system.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    twin = torch.empty_strided(
                        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device
                    )
                    made[id(tensor)] = (
                        nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin
                    )
                table[name] = made[id(tensor)]


def available(device: torch.device) -> int:
    """Bytes that a process could still get: of the GPU, or of the machine or its container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    facts = Path("/proc/meminfo")
    if facts.exists():  # what the system would give back counts as well
        free = int(facts.read_text().partition("MemAvailable:")[2].split()[0]) * 1024
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and (most := limit.read_text().strip()).isdigit():
        free = min(free, int(most) - int(used.read_text()))
    return free


def fill(views: Sequence[dict[str, Any]], rows: int, device: torch.device, fake: FakeTensorMode) -> Batch:
    """A batch of ``rows`` from some views in turn: pixels and other large values without storage, ids with."""
    turn = [views[index % len(views)] for index in range(rows)]
    return {key: _column([view[key] for view in turn], device, fake) for key in views[0]} if turn else {}


def _column(values: list[Any], device: torch.device, fake: FakeTensorMode) -> Any:
    one = collate.collate([{"": values[0]}])[""]
    if isinstance(one, Tensor) and (one.is_floating_point() or one.dtype == torch.uint8):
        with fake:
            return torch.empty((len(values), *one.shape[1:]), dtype=one.dtype, device=device)
    whole = collate.collate([{"": value} for value in values])[""]
    return collate.to({"": whole}, device)[""]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every storage that an operation makes, by kind, until it is let go.

    Operations on tensors that all have values (ids, lengths, masks) are done in earnest, so that what is computed from
    them has the shapes it would have.
    """

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self._fake, self._kind = fake, "activations"
        self._held: dict[int, tuple[weakref.ref, str, int]] = {}
        self._live: Counter[str] = Counter()
        self.peak, self.at_peak = 0, Counter[str]()

    def add(self, tree: Any, kind: str) -> None:
        """Counts what was made before."""
        with self.kind(kind):
            self._hold_all(tree)

    @contextmanager
    def kind(self, name: str) -> Iterator[None]:
        """What is made inside is of this kind."""
        before, self._kind = self._kind, name
        try:
            yield
        finally:
            self._kind = before

    def mark(self, tensor: Tensor | None, kind: str) -> None:
        """What was made as something else turned out to be of this kind."""
        if tensor is not None and (held := self._held.get(tensor.untyped_storage()._cdata)) is not None:
            reference, before, size = held
            self._held[tensor.untyped_storage()._cdata] = reference, kind, size
            self._live[before] -= size
            self._live[kind] += size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(leaf, FakeTensor) for leaf in tree_iter((args, kwargs))):
            if func is torch.ops.aten._local_scalar_dense.default and self._kind == "optimizer":
                return 1.0  # what an optimizer measures (the scale of a gradient) decides no shape
            if func is torch.ops.aten.index.Tensor:
                args = args[0], _positions(args[1])
            out = self._fake.__torch_dispatch__(func, types, args, kwargs)
        else:
            out = func(*args, **kwargs)
        self._hold_all(out)
        return out

    def _hold_all(self, tree: Any) -> None:
        for leaf in tree_iter(tree):
            for tensor in (leaf.values, leaf.lengths) if isinstance(leaf, Ragged) else (leaf,):
                if isinstance(tensor, Tensor):
                    self._hold(tensor.untyped_storage())

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._held or size == 0:
            return
        self._held[key] = weakref.ref(storage, lambda _: self._let_go(key)), self._kind, size
        self._live[self._kind] += size
        if (total := self._live.total()) > self.peak:
            self.peak, self.at_peak = total, self._live.copy()

    def _let_go(self, key: int) -> None:
        _, kind, size = self._held.pop(key)
        self._live[kind] -= size


def _positions(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """A mask with values becomes the positions it picks, whose number is then known."""
    found: list[Tensor | None] = []
    for index in indices:
        masked = index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor)
        found += index.nonzero().unbind(1) if masked else [index]  # type: ignore[union-attr]
    return found
