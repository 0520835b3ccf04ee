"""The loop: one for every system. It knows batches, gradients and time; what is learnt is the system's."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from oculex import catalog
from oculex.contracts import BadSample, Recipe, System, UserError
from oculex.data import collate
from oculex.data.assets import RunAssets
from oculex.data.loader import Loaded, batches
from oculex.data.order import mix
from oculex.nn.blocks import Block
from oculex.training import checkpoint, optimizers, plan, recipes
from oculex.training.folder import RunFolder, append_line, cut_after, read_json, write_json
from oculex.training.logs import Log
from oculex.training.step import Trainee, backward

Evaluate = Callable[[System, plan.Pool, int, bool], dict[str, Any]]
"""(system, opened data, step, final) -> {metric: {value, low, high, n}}; given by whoever starts the run."""

PROBE = 8
"""Updates that a budget of time is measured on, and which are then undone."""


def start(recipe: Recipe, out: Path, evaluate: Evaluate, quiet: bool = False) -> RunFolder:
    """Trains a recipe from its first step into a new run folder."""
    plan.parse_budget(recipe.budget)
    pool = plan.open_pool(recipe.data.sources, recipe.data.holdout)
    folder = RunFolder.create(out)
    write_json(folder.recipe, recipes.to_tree(recipe))
    Training(recipe, folder, pool, evaluate, quiet).run()
    return folder


def resume(folder: RunFolder, evaluate: Evaluate, quiet: bool = False, skip_batch: bool = False) -> None:
    """Goes on from the last checkpoint as if the run had never stopped."""
    recipe = load_recipe(folder)
    pool = plan.open_pool(recipe.data.sources, recipe.data.holdout)
    Training(recipe, folder, pool, evaluate, quiet, skip_batch).run()


def load_recipe(folder: RunFolder) -> Recipe:
    tree = read_json(folder.recipe)
    return recipes.from_tree(tree, catalog.load(tree.get("system", "")).config)


class Training:
    """One run in progress."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        pool: plan.Pool,
        evaluate: Evaluate,
        quiet: bool = False,
        skip_batch: bool = False,
    ) -> None:
        self.recipe, self.folder, self.pool, self.evaluate, self.quiet = recipe, folder, pool, evaluate, quiet
        self.system: Any
        self.fabric = _fabric(recipe)
        torch.manual_seed(mix(recipe.seed, 0x1417))
        assets = RunAssets(folder.assets, pool.texts)
        self.system = catalog.load(recipe.system).system.build(recipe.model, assets)
        self.average = (
            AveragedModel(self.system, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema)) if recipe.ema else None
        )
        if recipe.activation_checkpointing:
            _checkpoint_activations(self.system)
        if recipe.compile:
            for part in self.system.children():
                part.compile()
        self.step = self.seen = self.lost = 0
        self.skips: set[int] = set()
        self._stop = False
        _prime(self.system, pool)
        self._plan()
        self.saved = checkpoint.latest(folder)
        if self.saved is not None:
            self._load(self.saved)
        if skip_batch:
            self._skip_crashed()

    # ------------------------------------------------------------------------------------------ the run

    def run(self) -> None:
        """All steps that are left, with checkpoints and evaluations on the way and at the end."""
        for name in (self.folder.metrics, self.folder.evaluations, self.folder.skipped):
            cut_after(name, self.step)
        log = Log(self.folder, self.recipe, self.step, self.steps, self.quiet)
        try:
            with _signals(self._ask_to_stop):
                for span in plan.spans(self.recipe.stages, self.steps):
                    if self.step < span.stop and not self._stop:
                        self._stage(span, log)
            if not self._stop:
                self._evaluate(log, final=True)
        finally:
            log.close()

    def _stage(self, span: plan.Span, log: Log) -> None:
        recipe = self.recipe
        pool = plan.open_pool(span.stage.sources, recipe.data.holdout) if span.stage.sources else self.pool
        optimizer = optimizers.build(self.system, recipe.optimizer, span.stage)
        model, optimizer = self._wrap(optimizer)
        if self.saved is not None and self.step > span.start:
            self._load_optimizer(self.saved, optimizer)
        steps = pool.steps(self.system.view, recipe, self.fabric.global_rank, self.fabric.world_size)
        stream = batches(steps, self.step, span.stop, recipe.data.workers)
        asked = time.perf_counter()
        for loaded in stream:
            waited = time.perf_counter() - asked
            rate = optimizers.rate(span.stage.schedule, self.step - span.start, span.stop - span.start)
            values = self._update(model, optimizer, loaded, recipe.optimizer.lr * rate)
            log.step(self.step, values, collate.size(loaded.batch) * self.fabric.world_size, waited)
            self._count(loaded)
            if self._evaluation_due():
                self._evaluate(log, final=False)
            self._stop = self._any_rank(self._stop)
            if self._stop or self.step == span.stop or self.step % recipe.checkpoint.every == 0:
                self._save(optimizer)
            if self._stop:
                break
            asked = time.perf_counter()

    def _update(self, model: Any, optimizer: Any, loaded: Loaded, lr: float) -> dict[str, float]:
        """One update of the weights; the values that are logged."""
        recipe = self.recipe
        optimizers.set_rate(optimizer, lr)
        self.system.train()
        batch = collate.to(loaded.batch, self.fabric.device)
        micro = recipe.batch // self.fabric.world_size // recipe.accumulate
        optimizer.zero_grad()
        losses = backward(
            self.fabric,
            model,
            batch,
            micro=micro,
            accumulate=recipe.accumulate,
            seed=recipe.seed,
            step=self.step,
        )
        values = {name: float(value) for name, value in losses.items()}
        if recipe.optimizer.clip_norm is not None:
            clip = {"max_norm": recipe.optimizer.clip_norm, "error_if_nonfinite": False}
            norm = float(self.fabric.clip_gradients(model, optimizer, **clip))  # type: ignore[arg-type]
        else:
            norm = float(nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None))
        scaled = recipe.precision == "16-mixed"  # there an infinite norm is the scaler's business
        if not math.isfinite(values["loss"]) or not (scaled or math.isfinite(norm)):
            self._stop_before(loaded, values, norm)
        if self.step not in self.skips:
            optimizer.step()
            self.system.after_step(self.step, self.steps)
            if self.average is not None:
                self.average.update_parameters(self.system)
        self.step += 1
        return {**values, "lr": lr, "grad_norm": norm}

    # --------------------------------------------------------------------------------------- beginnings

    def _plan(self) -> None:
        """How many steps the budget is, decided once; and whether the data is what it was."""
        if self.folder.plan.exists():
            decided = read_json(self.folder.plan)
            if decided["data"] != self.pool.fingerprints():
                changed = [n for n, f in self.pool.fingerprints().items() if decided["data"].get(n) != f]
                raise UserError(
                    f"the data changed since this run began ({', '.join(changed or decided['data'])}); restore it, or "
                    f"start a new run"
                )
            self.steps = decided["steps"]
            return
        seconds = self._seconds_per_step() if plan.parse_budget(self.recipe.budget)[1] == "seconds" else None
        self.steps = plan.steps_for(self.recipe, self._agree(seconds))
        if self.fabric.global_rank == 0:
            write_json(self.folder.plan, {"steps": self.steps, "data": self.pool.fingerprints()})

    def _any_rank(self, flag: bool) -> bool:
        """Ranks must stop at the same step, whichever of them was asked to."""
        if self.fabric.world_size == 1:
            return flag
        total: Any = self.fabric.all_reduce(torch.tensor(float(flag)), reduce_op="sum")
        return bool(total > 0)

    def _agree(self, value: float | None) -> float | None:
        if value is None:
            return None
        mean: Any = self.fabric.all_reduce(torch.tensor(value), reduce_op="mean")
        return float(mean)

    def _seconds_per_step(self) -> float:
        """Measured on real updates with a learning rate of 0, whose traces are then removed."""
        recipe, self.steps = self.recipe, PROBE
        kept = {name: value.clone() for name, value in self.system.state_dict().items()}
        model, optimizer = self._wrap(optimizers.build(self.system, recipe.optimizer, recipe.stages[0]))
        steps = self.pool.steps(self.system.view, recipe, self.fabric.global_rank, self.fabric.world_size)
        times = []
        for loaded in batches(steps, 0, PROBE, recipe.data.workers):
            self._update(model, optimizer, loaded, 0.0)
            times.append(time.perf_counter())
        self.step = 0
        self.system.load_state_dict(kept)
        if self.average is not None:
            self.average.n_averaged.zero_()
        gaps = sorted(b - a for a, b in pairwise(times[1:]))
        return gaps[len(gaps) // 2]

    def _wrap(self, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        return self.fabric.setup(Trainee(self.system), optimizer)

    # -------------------------------------------------------------------------------------- checkpoints

    def _save(self, optimizer: Any) -> None:
        if self.fabric.global_rank == 0:
            flat, groups = checkpoint.pack_optimizer(optimizer)
            tensors = {"weights": self.system.state_dict(), "optimizer": flat}
            if self.average is not None:
                tensors["average"] = self.average.module.state_dict()
            scaler = getattr(self.fabric.strategy.precision, "scaler", None)
            state = {
                "groups": groups,
                "average_updates": int(self.average.n_averaged) if self.average is not None else 0,
                "scaler": scaler.state_dict() if scaler is not None else None,
                "skips": sorted(self.skips),
                "seen": self.seen,
                "lost": self.lost,
            }
            checkpoint.save(self.folder, self.step, state, tensors, self.recipe.checkpoint.keep)
        self.fabric.barrier()
        self.saved = checkpoint.latest(self.folder)

    def _load(self, saved: Path) -> None:
        """Weights, averages and counters as they were."""
        state = checkpoint.state(saved)
        checkpoint.load_weights(self.system, checkpoint.tensors(saved, "weights"), saved)
        self.step, self.seen, self.lost = state["step"], state["seen"], state["lost"]
        self.skips = set(state["skips"])
        if self.average is not None:
            checkpoint.load_weights(self.average.module, checkpoint.tensors(saved, "average"), saved)
            self.average.n_averaged.fill_(state["average_updates"])

    def _load_optimizer(self, saved: Path, optimizer: Any) -> None:
        state = checkpoint.state(saved)
        checkpoint.unpack_optimizer(optimizer, checkpoint.tensors(saved, "optimizer"), state["groups"])
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        if scaler is not None and state["scaler"]:
            scaler.load_state_dict(state["scaler"])

    # ------------------------------------------------------------------------------- what can go wrong

    def _stop_before(self, loaded: Loaded, values: dict[str, float], norm: float) -> None:
        """A loss or gradient that is not finite stops the run before it reaches the weights."""
        if self.step in self.skips:
            return
        spot = {
            "step": self.step,
            "ids": loaded.ids,
            "values": values,
            "grad_norm": norm,
            "seed": self.recipe.seed,
        }
        spot = json.loads(json.dumps(spot).replace("NaN", '"nan"').replace("Infinity", '"inf"'))
        write_json(self.folder.path / f"crash-rank{self.fabric.global_rank}.json", spot)
        raise UserError(
            f"step {self.step}: loss {values['loss']}, gradient norm {norm}; nothing was updated. Its samples are named "
            f"in {self.folder.path}/crash-rank{self.fabric.global_rank}.json; `oculex resume {self.folder.path} "
            f"--skip-batch` goes on without this batch, a smaller optimizer.lr may cure the cause"
        )

    def _skip_crashed(self) -> None:
        path = self.folder.path / "crash-rank0.json"
        if not path.exists():
            raise UserError(
                f"{self.folder.path} has no crash to skip; use `oculex resume` without --skip-batch"
            )
        self.skips.add(read_json(path)["step"])

    def _count(self, loaded: Loaded) -> None:
        """Names each sample that was left out; too many of them stop the run."""
        self.seen += len(loaded.ids) + len(loaded.skipped)
        self.lost += len(loaded.skipped)
        for bad in loaded.skipped:
            append_line(self.folder.skipped, {"step": self.step, "id": bad.key, "reason": bad.reason})
        limit = self.recipe.data.bad_limit
        if self.lost > max(10.0, limit * self.seen):
            raise UserError(
                f"{self.lost} of {self.seen} samples could not be read, over data.bad_limit={limit}; last: "
                f"{loaded.skipped[-1] if loaded.skipped else ''}; all are named in {self.folder.skipped}"
            )

    def _ask_to_stop(self) -> None:
        self._stop = True

    # -------------------------------------------------------------------------------------- evaluation

    def _evaluation_due(self) -> bool:
        """Whether to evaluate now; the evaluation at the end is the run's own."""
        wanted = self.recipe.evaluation
        every = wanted.every or (max(1, self.steps // wanted.times) if wanted.times else self.steps)
        return self.step % every == 0 and self.step < self.steps

    def _evaluate(self, log: Log, final: bool) -> None:
        """The averaged weights are evaluated where there are any."""
        judged: Any = self.average.module if self.average is not None else self.system
        judged.eval()
        with torch.no_grad():
            log.evaluation(self.step, self.evaluate(judged, self.pool, self.step, final))


def _fabric(recipe: Recipe) -> Fabric:
    """One process, or the processes that torchrun started."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator="auto",
        devices=local,
        num_nodes=max(1, ranks // local),
        strategy="ddp" if ranks > 1 else "auto",
        precision=recipe.precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def _prime(system: System, pool: plan.Pool) -> None:
    """One view made here, so that what is made once (a tokenizer, rendered scenes) is there before the workers are."""
    for source in pool.train:
        for index in range(len(source)):
            try:
                system.view(source[index], None)
                break
            except BadSample:
                continue  # counted and named when it is trained on


def _checkpoint_activations(system: nn.Module) -> None:
    """Blocks keep their inputs alone and are computed again in the backward pass, with the same randomness."""
    from functools import partial

    from torch.utils.checkpoint import checkpoint as recompute

    for module in system.modules():
        if isinstance(module, Block):
            module.forward = partial(recompute, module.forward, use_reentrant=False)  # type: ignore[method-assign]


class _signals:
    """SIGTERM and Ctrl-C end the run after the step in hand, with a checkpoint; a second Ctrl-C at once."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._ask = stop
        self._old: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        self._ask()
        signal.signal(number, self._old[number])
