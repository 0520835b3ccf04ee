"""Training a system, and going on with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from oculex.cli.options import Many, Name, Run, Set
from oculex.cli.printing import finish, flat
from oculex.contracts import UserError


@dataclass(frozen=True)
class Train:
    """Train a system: on the embedded world, or on your own captioned images with --data."""

    name: Name
    preset: Annotated[str, arg(help="tiny, or one of the paper's as `oculex show NAME` lists them.")] = "tiny"
    data: Annotated[
        Many,
        arg(
            metavar="PATH",
            help="Folders with a captions file, CSV/JSONL, Parquet, webdataset tars, Hugging Face datasets on disk; "
            "PATH@2 weighs a source twice. Default: the embedded world.",
        ),
    ] = ()
    out: Annotated[Path | None, arg(aliases=("-o",), metavar="RUN", help="Folder of the run.")] = None
    budget: Annotated[str | None, arg(help="3m, 90s, 2h, 2000steps or 1e6samples.")] = None
    seed: Annotated[int | None, arg(help="Seed of weights, order and augmentation.")] = None
    set: Set = ()
    wandb: Annotated[str, arg(metavar="PROJECT", help="Log to this project of Weights & Biases as well.")] = (
        ""
    )

    replay: Annotated[
        Path | None,
        arg(
            metavar="FILE",
            help="A run's crash.json: does the step that stopped it again, alone, and tells what is not finite.",
        ),
    ] = None

    def run(self) -> None:
        from oculex import runs
        from oculex.training import ranks

        if self.replay is not None:
            return self._replay(self.replay)
        changes = [*flat(self.set), *([f"logging.wandb={self.wandb}"] if self.wandb else [])]
        folder = runs.train(
            self.name,
            preset=self.preset,
            data=flat(self.data),
            out=self.out,
            budget=self.budget,
            seed=self.seed,
            changes=changes,
        )
        if ranks.leads():
            finish(folder.path)

    def _replay(self, file: Path) -> None:
        from oculex import runs
        from oculex.training.crash import told, told_by
        from oculex.training.reopen import load_recipe

        given = {"--data": self.data, "--out": self.out, "--budget": self.budget, "--seed": self.seed}
        extra = [name for name, value in given.items() if value not in (None, ())]
        if extra:
            raise UserError(f"--replay takes data and recipe from the run; leave out {', '.join(extra)}")
        trained = load_recipe(told_by(file)[0]).system
        if self.name != trained:
            raise UserError(f"{file} is of a run of {trained}; type `train {trained} --replay {file}`")
        print("\n".join(told(runs.replay(file, flat(self.set)))))


@dataclass(frozen=True)
class Resume:
    """Go on with a run from its last checkpoint, as if it had never stopped."""

    run_folder: Run
    skip_batch: Annotated[bool, arg(help="Leave out the batch that stopped the run.")] = False

    def run(self) -> None:
        from oculex import runs
        from oculex.training import ranks

        folder = runs.resume(self.run_folder, skip_batch=self.skip_batch)
        if ranks.leads():
            finish(folder.path)
