"""The loop: one for every system. It knows batches, gradients and time; what is learnt is the system's."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from oculex import catalog
from oculex.contracts import Recipe, Stage, System, UserError
from oculex.data import collate
from oculex.data.assets import RunAssets
from oculex.data.loader import Epoch, Loaded, Steps, batches
from oculex.data.order import mix
from oculex.training import checkpoint, crash, initial, optimizers, plan, ranks, recipes, reopen
from oculex.training.folder import RunFolder, append_line, cut_after, write_json
from oculex.training.logs import Log, Silence
from oculex.training.probe import seconds_per_step
from oculex.training.recompute import checkpoint_activations
from oculex.training.step import Trainee, backward
from oculex.training.stop import Signals

Evaluate = Callable[[System, plan.Pool, int, bool], dict[str, Any]]
"""(system, opened data, step, final) -> {metric: {value, low, high, n}}; given by whoever starts the run. Final are the
evaluations that count: at the end, and at the end of each task of a stream."""
Foundation = Callable[[str], Any]
"""A trained system by name, see ``foundations.foundation``, which trains what is not there yet with this loop."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What a disk says that takes no more."""

_AFTER, _CLOSED = 1 << 41, 1 << 42


def start(
    recipe: Recipe, out: Path, evaluate: Evaluate, foundation: Foundation, quiet: bool = False
) -> RunFolder:
    """Trains a recipe from its first step into a new run folder."""
    plan.parse_budget(recipe.budget)
    with Signals() as signals:
        fabric = ranks.launch(recipe)
        pools = plan.open_pools(recipe)
        folder = RunFolder(ranks.agree(out))
        ranks.once(lambda: _create(folder.path, recipe))
        Training(recipe, folder, fabric, pools, foundation, quiet).run(evaluate, signals)
    return folder


def resume(
    folder: RunFolder,
    evaluate: Evaluate,
    foundation: Foundation,
    quiet: bool = False,
    skip_batch: bool = False,
) -> None:
    """Goes on from the last checkpoint as if the run had never stopped."""
    recipe = reopen.load_recipe(folder)
    with Signals() as signals:
        fabric = ranks.launch(recipe)
        if skip_batch:
            ranks.once(lambda: plan.skip(folder, crash.last(folder)))
        Training(recipe, folder, fabric, plan.open_pools(recipe), foundation, quiet).run(evaluate, signals)


def _create(path: Path, recipe: Recipe) -> None:
    write_json(RunFolder.create(path).recipe, recipes.to_tree(recipe))


class Training:
    """One run in progress.

    ``system`` holds whole weights. ``trained`` is what the engine trains: the same module, or its sharded copy, from
    which the whole weights are then gathered where they are needed.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        fabric: Fabric,
        pools: plan.Pools,
        foundation: Foundation,
        quiet: bool,
    ) -> None:
        self.recipe, self.folder, self.fabric, self.pools, self.quiet = recipe, folder, fabric, pools, quiet
        self.pool = pools[recipe.data.sources]
        torch.manual_seed(mix(recipe.seed, reopen.BEGINNING))
        assets = RunAssets(folder.assets, self.pool.texts, self.pool.classes(), self.pool.train, foundation)
        self.system: Any
        with fabric.rank_zero_first():
            self.system = catalog.load(recipe.system).system.build(recipe.model, assets)
            for pool in pools.values():
                # what is made once (a tokenizer, rendered scenes) is there before the workers are
                pool.first_view(self.system.view)
        self.saved = checkpoint.latest(folder)
        if recipe.init.run and self.saved is None:
            initial.load(self.system, recipe.init, foundation(recipe.init.run))
        self.average = (
            AveragedModel(self.system, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema)) if recipe.ema else None
        )
        if recipe.activation_checkpointing:
            checkpoint_activations(self.system)
        self.trained: Any = self.system
        self.steps = self.step = self.seen = self.lost = 0
        self.spent = 0.0
        self.skips: set[int] = set()
        self.spikes = crash.Spikes(recipe.optimizer.spike)

    # ------------------------------------------------------------------------------------------ the run

    def run(self, evaluate: Evaluate, signals: Signals) -> None:
        """All steps that are left, with checkpoints and evaluations on the way and at the end."""
        self._plan()
        if self.saved is not None:
            self._load(self.saved)
        if self.average is not None:
            self.average.module = ranks.place_average(self.fabric, self.average.module)
        ranks.once(self._tidy)
        log = (
            Log(self.folder, self.recipe, self.step, self.steps, self.spent, self.quiet)
            if ranks.leads()
            else Silence()
        )
        try:
            for span in self.spans():
                if self.step < span.stop and not self._anyone(signals.asked):
                    self._stage(span, log, evaluate, signals)
            if self.step == self.steps and not self._anyone(signals.asked):
                self._evaluate(evaluate, log, final=True)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise UserError(
                f"cannot write {self.folder.path}: {error.strerror}; free space or make the folder writable, then "
                f"`oculex resume {self.folder.path}` goes on"
            ) from error
        finally:
            log.close()

    def _stage(self, span: plan.Span, log: Silence, evaluate: Evaluate, signals: Signals) -> None:
        recipe = self.recipe
        model, optimizer = self.wrap(span.stage)
        if self.saved is not None and self.step > span.start:
            state = checkpoint.state(self.saved)
            tensors = checkpoint.tensors(self.saved, "optimizer")
            checkpoint.unpack_optimizer(optimizer, tensors, state["groups"])
        asked = time.perf_counter()
        for loaded in batches(self.batches(span.number), self.step, span.stop, recipe.data.workers):
            waited = time.perf_counter() - asked
            at, of, schedule = self.step - span.start, span.stop - span.start, span.stage.schedule
            lr = recipe.optimizer.lr * optimizers.rate(schedule, at, of)
            optimizers.set_decay(optimizer, optimizers.decay(schedule, recipe.optimizer.weight_decay, at, of))
            values = {} if self.step in self.skips else self._update(model, optimizer, loaded, lr)
            self.step += 1
            self._count(loaded)
            log.step(self.step, values, recipe.batch, waited)
            over = self.step == span.stop
            task_over = over and self.step < self.steps and self._ends_task(span.number)
            if self._evaluation_due() or task_over:
                self._evaluate(evaluate, log, final=task_over)
            if over:
                self._close(span)
            stop = self._anyone(signals.asked)
            if stop or over or self.step % recipe.checkpoint.every == 0:
                self._save(optimizer, log.seconds())
            if stop:
                signals.asked = True
                break
            asked = time.perf_counter()

    def _close(self, span: plan.Span) -> None:
        """The system keeps what it wants of a stage that is over. For that, sharded weights are put together."""
        if type(self.system).after_stage is System.after_stage:
            return
        if self.trained is not self.system:
            self.system.load_state_dict(ranks.whole_state(self.trained))
            self.trained = self.system.to(self.fabric.device)
        steps = self.batches(span.number, alone=True)
        stop = min(span.stop, span.start + steps.epoch())
        epoch = Epoch(steps, span.start, stop, self.recipe.data.workers, self.fabric.device)
        torch.manual_seed(mix(self.recipe.seed, self.step, _CLOSED))
        optimizers.train(self.trained)
        with self.fabric.autocast():
            self.trained.after_stage(span.number, len(self.spans()), epoch)
        if ranks.shards(self.fabric):
            self.system.cpu()

    def _update(self, model: Any, optimizer: Any, loaded: Loaded, lr: float) -> dict[str, float]:
        """One update of the weights; the values that are logged."""
        optimizers.set_rate(optimizer, lr)
        values, norm = self.gradients(model, optimizer, loaded)
        self._stop_before(loaded, values)
        self.apply(optimizer, norm)
        return {**values, "lr": lr}

    def apply(self, optimizer: Any, norm: torch.Tensor) -> None:
        if self.recipe.optimizer.clip_norm is not None:
            ranks.clip_gradients(optimizer, self.recipe.optimizer.clip_norm, norm)
        optimizer.step()
        torch.manual_seed(mix(self.recipe.seed, self.step, _AFTER))
        self.trained.after_step(self.step, self.steps)
        if self.average is not None:
            self.average.update_parameters(self.trained)

    def gradients(self, model: Any, optimizer: Any, loaded: Loaded) -> tuple[dict[str, float], torch.Tensor]:
        """Losses and the norm of all gradients, which lie on the parameters."""
        recipe = self.recipe
        optimizers.train(self.trained)
        optimizer.zero_grad()
        self.trained.before_step(self.step, self.steps)
        batch = collate.to(loaded.batch, self.fabric.device)
        losses = backward(
            self.fabric, model, batch, accumulate=recipe.accumulate, seed=recipe.seed, step=self.step
        )
        self.trained.after_backward(self.step, self.steps)
        norm = ranks.gradient_norm(self.fabric, optimizer)
        return {**{name: float(value) for name, value in losses.items()}, "grad_norm": float(norm)}, norm

    # --------------------------------------------------------------------------------------- beginnings

    def _plan(self) -> None:
        """How many steps the budget is, decided once; and whether recipe and data are what they were."""
        if ranks.agree(self.folder.plan.exists()):
            decided = plan.read(self.folder)
            plan.check_recipe(decided, self.recipe, self.folder)
            plan.check_data(decided, self.pools)
        else:
            timed = plan.parse_budget(self.recipe.budget)[1] == "seconds"
            seconds = max(ranks.everyone(seconds_per_step(self))) if timed else None
            decided = ranks.once(lambda: plan.decide(self.folder, self.recipe, self.pools, seconds))
        self.steps, self.skips = decided["steps"], set(decided.get("skips", ()))

    def wrap(self, stage: Stage) -> tuple[Any, Any]:
        """The model as the engine runs it and its optimizer. A sharded copy begins from the whole weights."""
        if self.trained is not self.system:
            self.system.load_state_dict(ranks.whole_state(self.trained))
        self.trained = ranks.place(self.fabric, self.system)
        optimizers.freeze(self.trained, stage)
        if self.recipe.compile:
            for part in self.trained.children():
                part.compile()
        model = self.fabric.setup_module(Trainee(self.trained))
        optimizer = optimizers.build(self.trained, self.recipe.optimizer, stage)
        return model, self.fabric.setup_optimizers(optimizer)

    def spans(self) -> list[plan.Span]:
        return plan.spans(plan.stages(self.recipe, self.pools), self.steps)

    def batches(self, stage: int, alone: bool = False) -> Steps:
        """This rank's part of the batches of a stage; ``alone``: all of each."""
        rank, size = (0, 1) if alone else (self.fabric.global_rank, self.fabric.world_size)
        return plan.stage_pool(self.recipe, self.pools, stage).steps(
            self.trained.view, self.recipe, rank, size
        )

    # -------------------------------------------------------------------------------------- checkpoints

    def _save(self, optimizer: Any, seconds: float) -> None:
        flat, groups = checkpoint.pack_optimizer(optimizer)
        tensors = {"weights": ranks.whole_state(self.trained), "optimizer": flat}
        if self.average is not None:
            tensors["average"] = ranks.whole_state(self.average.module)
        scaler = ranks.scaler(self.fabric)
        state = {
            "groups": groups,
            "average_updates": int(self.average.n_averaged) if self.average is not None else 0,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "seen": self.seen,
            "lost": self.lost,
            "norms": list(self.spikes.norms),
            "seconds": seconds,
        }
        keep = self.recipe.checkpoint.keep
        ranks.once(lambda: checkpoint.save(self.folder, self.step, state, tensors, keep))
        self.saved = checkpoint.latest(self.folder)

    def _load(self, saved: Path) -> None:
        """Weights, averages and counters as they were."""
        state = checkpoint.state(saved)
        checkpoint.load_weights(self.system, checkpoint.tensors(saved, "weights"), saved)
        self.step, self.seen, self.lost = state["step"], state["seen"], state["lost"]
        self.spent = state.get("seconds", 0.0)
        self.spikes.norms.extend(state.get("norms", ()))
        if self.average is not None:
            checkpoint.load_weights(self.average.module, checkpoint.tensors(saved, "average"), saved)
            self.average.n_averaged.fill_(state["average_updates"])
        scaler = ranks.scaler(self.fabric)
        if scaler is not None and state["scaler"]:
            scaler.load_state_dict(state["scaler"])

    def _tidy(self) -> None:
        """Removes what a killed process left beyond the step that is gone on from."""
        cut_after(self.folder.metrics, self.step)
        cut_after(self.folder.skipped, self.step)
        cut_after(self.folder.evaluations, min(self.step, self.steps - 1))  # the last one is made again
        checkpoint.tidy(self.folder, self.step, self.recipe.checkpoint.keep)

    # ------------------------------------------------------------------------------- what can go wrong

    def _stop_before(self, loaded: Loaded, values: dict[str, float]) -> None:
        """A loss or gradient that is not finite, or a spike, stops the run before it reaches the weights."""
        loss, norm = values["loss"], values["grad_norm"]
        scaled = ranks.scaler(self.fabric) is not None  # there an infinite norm is the scaler's business
        spike = self.spikes.is_one(norm)
        if math.isfinite(loss) and (scaled or math.isfinite(norm)) and not spike:
            return
        facts = {
            "step": self.step,
            "seed": self.recipe.seed,
            "micro_batches": self.fabric.world_size * self.recipe.accumulate,
            "ids": ranks.everyone(loaded.ids),
            "values": values,
        }
        weights = ranks.whole_state(self.trained)
        path = ranks.once(lambda: crash.record(self.folder, facts, weights))
        raise UserError(
            f"step {self.step}: loss {loss:g}, gradient norm {norm:g}{', a spike' if spike else ''}; nothing was "
            f"updated. `oculex train {self.recipe.system} --replay {path}` shows why; `oculex resume {self.folder.path} "
            f"--skip-batch` goes on without this batch; a smaller optimizer.lr may cure the cause"
        )

    def _anyone(self, flag: bool) -> bool:
        """Ranks stop at the same step, whichever of them was asked to."""
        return ranks.total(self.fabric, int(flag))[0] > 0

    def _count(self, loaded: Loaded) -> None:
        """Names each sample that was left out; too many of them stop the run."""
        seen, lost = ranks.total(self.fabric, len(loaded.ids) + len(loaded.skipped), len(loaded.skipped))
        self.seen, self.lost = self.seen + seen, self.lost + lost
        if lost:
            skipped = [bad for part in ranks.everyone(loaded.skipped) for bad in part]
            for bad in skipped if ranks.leads() else ():
                append_line(self.folder.skipped, {"step": self.step, "id": bad.key, "reason": bad.reason})
            limit = self.recipe.data.bad_limit
            if self.lost > max(10.0, limit * self.seen):
                raise UserError(
                    f"{self.lost} of {self.seen} samples could not be read, over data.bad_limit={limit}; last: "
                    f"{skipped[-1]}; all are named in {self.folder.skipped}"
                )

    # -------------------------------------------------------------------------------------- evaluation

    def _evaluation_due(self) -> bool:
        """Whether to evaluate now; the evaluation at the end is the run's own."""
        wanted = self.recipe.evaluation
        every = wanted.every or (max(1, self.steps // wanted.times) if wanted.times else self.steps)
        return self.step % every == 0 and self.step < self.steps

    def _ends_task(self, stage: int) -> bool:
        """Each source of a stream goes through all the recipe's stages."""
        return self.recipe.data.stream and (stage + 1) % len(self.recipe.stages) == 0

    def _evaluate(self, evaluate: Evaluate, log: Silence, final: bool) -> None:
        """The averaged weights are evaluated where there are any, whole ones on every rank."""
        log.evaluating()
        judged: Any = self.average.module if self.average is not None else self.trained
        if ranks.shards(self.fabric):
            self.system.load_state_dict(ranks.whole_state(judged))
            judged = self.system.to(self.fabric.device)
        judged.eval()
        with torch.no_grad():
            log.evaluation(self.step, evaluate(judged, self.pool, self.step, final))
        if ranks.shards(self.fabric):
            self.system.cpu()
