"""Data before training: looked at, converted, examined, made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from oculex.cli.options import Json, Many, Out, Set
from oculex.cli.printing import flat, lines_of, plain, print_json
from oculex.contracts import UserError


@dataclass(frozen=True)
class Inspect:
    """Describe data: how many samples, what each has, sizes, caption lengths, what cannot be read."""

    paths: Annotated[Positional[tuple[str, ...]], arg(metavar="PATH")]
    json: Json = False

    def run(self) -> None:
        from oculex.data.inspect import describe
        from oculex.data.sources import open_source

        shown = {path: describe(open_source(path)) for path in self.paths}
        if self.json:
            print_json(shown)
            return
        for path, facts in shown.items():
            print(path)
            for key, value in facts.items():
                print(f"  {key:<18} {plain(value)}")


@dataclass(frozen=True)
class Convert:
    """Convert data to webdataset tars or Parquet."""

    path: Annotated[Positional[str], arg(metavar="PATH")]
    out: Out
    to: Literal["webdataset", "parquet"] = "webdataset"
    shard: Annotated[int, arg(help="Samples a file.")] = 10_000
    leave_out: Annotated[
        Path | None, arg(metavar="FILE", help="Ids of samples to leave out, one a line.")
    ] = None
    side: Annotated[
        int | None, arg(metavar="PIXELS", help="Shrink pictures whose shorter side is longer than this.")
    ] = None

    def run(self) -> None:
        from oculex.data.convert import convert
        from oculex.data.sources import open_source

        drop = frozenset(lines_of(self.leave_out)) if self.leave_out is not None else frozenset()
        print(
            plain(
                convert(
                    open_source(self.path),
                    self.out,
                    to=self.to,
                    shard=self.shard,
                    leave_out=drop,
                    side=self.side,
                )
            )
        )


@dataclass(frozen=True)
class Doctor:
    """Say what is wrong with data for a recipe, what limits its speed, and whether it fits into memory."""

    paths: Annotated[
        Positional[tuple[str, ...]], arg(metavar="PATH", help="As for `oculex train --data`, or world.")
    ]
    recipe: Annotated[str, arg(metavar="NAME", help="System that is to be trained, as in `oculex list`.")]
    preset: Annotated[str, arg(help="As for `oculex train`.")] = "tiny"
    set: Set = ()
    seconds: Annotated[float, arg(help="About how long to look and to measure.")] = 60.0
    leave_out: Annotated[
        Path | None,
        arg(metavar="FILE", help="Write the ids of samples better left out, for `oculex data convert`."),
    ] = None
    json: Json = False

    def run(self) -> None:
        from oculex import catalog, doctor
        from oculex.doctor import page
        from oculex.runs import customised
        from oculex.training import recipes

        if not self.paths:
            raise UserError("give the data to examine, such as a folder, or world")
        name = catalog.find(self.recipe).name
        preset = recipes.preset(catalog.load(name), name, self.preset)
        recipe = customised(preset, self.paths, changes=flat(self.set))
        report = doctor.examine(recipe, self.seconds, leave_out=self.leave_out)
        if self.json:
            print_json(report.figures())
        else:
            print(page.text(report))


@dataclass(frozen=True)
class Curate:
    """Make data: write what a system's pipeline makes of a source as Parquet shards, and as LLaVA's JSON with --chat.

    A run that was stopped goes on where it was; a folder that is done is left as it is.
    `oculex curate provision --data world:keys=graph+depth+instances --out asked --set generators=depth+relation most=4`
    """

    name: Annotated[Positional[str], arg(metavar="NAME", help="System that makes data, as in `oculex list`.")]
    data: Annotated[str, arg(metavar="PATH", help="Any source that `oculex train --data` reads.")]
    out: Annotated[Path, arg(aliases=("-o",), metavar="DIR", help="Folder of the shards.")]
    chat: Annotated[
        Path | None,
        arg(
            metavar="FILE", help="Write conversations as LLaVA's JSON too, its pictures in images/ beside it."
        ),
    ] = None
    engine: Annotated[
        Literal["local", "ray"], arg(help="Processes of this machine, or a Ray cluster (RAY_ADDRESS).")
    ] = "local"
    set: Annotated[Many, arg(metavar="OPTION=VALUE", help="Change options of the pipeline.")] = ()
    seed: int = 0
    workers: Annotated[int, arg(help="Processes of the local engine; 0: one for each core.")] = 0
    part: Annotated[int, arg(help="Samples of the source that are done at a time, and kept.")] = 1000
    most_refused: Annotated[float, arg(help="Share of broken samples over which it stops.")] = 0.05
    json: Json = False

    def run(self) -> None:
        from oculex.curation import curate
        from oculex.curation.chat import write_chat
        from oculex.curation.told import on_terminal, table
        from oculex.data.pipelines import pipeline_of, with_options

        pipeline = with_options(pipeline_of(self.name), flat(self.set), "--set")
        manifest = curate(
            self.name,
            pipeline,
            self.data,
            self.out,
            seed=self.seed,
            engine=self.engine,
            workers=self.workers,
            part=self.part,
            most_refused=self.most_refused,
            progress=on_terminal,
        )
        written = None if self.chat is None else write_chat(self.out, self.chat)
        if self.json:
            print_json(manifest | ({} if written is None else {"conversations": written}))
            return
        print(table(manifest))
        print(f"\nshards  {self.out}; train on them with --data {self.out}")
        if written is not None:
            print(f"chat    {self.chat}, {written} conversations")
