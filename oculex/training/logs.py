"""What a run says while it trains: JSONL and TensorBoard always, W&B by name, a progress bar on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from oculex.contracts import Recipe, UserError
from oculex.training.folder import RunFolder, append_line


class Silence:
    """What all ranks but the first say."""

    def step(self, step: int, values: dict[str, float], samples: int, waited: float) -> None: ...

    def evaluating(self) -> None: ...

    def evaluation(self, step: int, metrics: dict[str, Any]) -> None: ...

    def seconds(self) -> float:
        return 0.0

    def close(self) -> None: ...


class Log(Silence):
    """Writes the losses of every so many steps, with the rate and the data wait since the last written one."""

    def __init__(
        self, folder: RunFolder, recipe: Recipe, start: int, steps: int, spent: float, quiet: bool = False
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.recipe, self.steps = folder, recipe, steps
        self._tensorboard = SummaryWriter(str(folder.path / "tensorboard"), purge_step=start + 1)
        self._wandb = _wandb(recipe, folder) if recipe.logging.wandb else None
        self._bar = Bar("training", start, steps, quiet)
        self._since, self._waited, self._seen, self._pending = time.perf_counter(), 0.0, 0, 0.0
        self._spent = spent

    def step(self, step: int, values: dict[str, float], samples: int, waited: float) -> None:
        """``step`` counts finished updates; ``samples`` were in this one; ``waited`` seconds went by for its data.

        A step that was left out has no values, and no line.
        """
        self._seen += samples
        elapsed = self._pending = time.perf_counter() - self._since
        self._waited += waited
        rate, wait = self._seen / elapsed, self._waited / elapsed
        if values:
            self._bar.say(f"loss {values['loss']:.3f}  {rate:,.0f} samples/s  data wait {wait:.0%}")
        self._bar.advance()
        if values and (step % self.recipe.logging.every == 0 or step == self.steps):
            line = {"step": step, "samples": step * self.recipe.batch, **values}
            self._spent += elapsed
            line |= {
                "samples_per_s": round(rate, 2),
                "data_wait": round(wait, 4),
                "seconds": round(self._spent, 2),
            }
            append_line(self.folder.metrics, line)
            for key, value in line.items():
                self._tensorboard.add_scalar(key, value, step)
            if self._wandb is not None:
                self._wandb.log(line, step=step)
            self._since, self._waited, self._seen, self._pending = time.perf_counter(), 0.0, 0, 0.0

    def evaluating(self) -> None:
        self._bar.say("evaluating")

    def evaluation(self, step: int, metrics: dict[str, Any]) -> None:
        """``metrics``: name -> {value, low, high, n}."""
        seconds = round(self.seconds(), 2)
        line = {"step": step, "samples": step * self.recipe.batch, "seconds": seconds, "metrics": metrics}
        append_line(self.folder.evaluations, line)
        for name, estimate in metrics.items():
            self._tensorboard.add_scalar(f"evaluation/{name}", estimate["value"], step)
        if self._wandb is not None:
            self._wandb.log({name: estimate["value"] for name, estimate in metrics.items()}, step=step)
        self._since = time.perf_counter() - self._pending  # an evaluation is not training time

    def seconds(self) -> float:
        """Training time so far, up to the last step."""
        return self._spent + self._pending

    def close(self) -> None:
        with contextlib.suppress(
            OSError
        ):  # a full disk has been told, and the lines of metrics.jsonl are what counts
            self._tensorboard.close()
        self._bar.stop()
        if self._wandb is not None:
            self._wandb.finish()


class Bar:
    """A line that is drawn on a terminal, and is absent elsewhere."""

    def __init__(self, title: str, start: int, steps: int, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn(title),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=Console(file=sys.stderr),
            disable=quiet or not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task("", total=steps, completed=start, said="")
        self._progress.start()

    def say(self, text: str) -> None:
        self._progress.update(self._task, said=text)

    def expect(self, steps: int) -> None:
        self._progress.update(self._task, total=steps)

    def advance(self) -> None:
        self._progress.advance(self._task)

    def stop(self) -> None:
        self._progress.stop()


def _wandb(recipe: Recipe, folder: RunFolder) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "logging.wandb is set but wandb is not installed; pip install 'oculex[wandb]'"
        ) from error
    from oculex.training.recipes import to_tree

    return wandb.init(project=recipe.logging.wandb, dir=str(folder.path), config=to_tree(recipe))
