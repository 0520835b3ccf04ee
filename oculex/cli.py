"""The command line: parses, calls, prints. Exit status 0 on success, 2 on a user's mistake, 1 on a failure."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import Positional, arg, subcommand

from oculex.contracts import UserError

Name = Annotated[Positional[str], arg(metavar="NAME", help="System, as in `oculex list`.")]
Run = Annotated[Positional[Path], arg(metavar="RUN", help="Folder of a run, as `oculex train` made it.")]
Json = Annotated[bool, arg(help="Print JSON for programs.")]
Device = Annotated[str, arg(help="cpu, cuda or cuda:N; auto takes a GPU where there is one.")]
Many = Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction]
"""What an option takes several of, at once or by standing there several times."""
Set = Annotated[
    Many, arg(metavar="KEY=VALUE", help="Change fields of the recipe: optimizer.lr=1e-3 width=256")
]
Out = Annotated[Path, arg(aliases=("-o",), metavar="PATH", help="Where the result goes.")]
Modality = Annotated[
    str,
    arg(metavar="KEY", help="Another key of the samples than image: audio, depth, ... of a system with it."),
]


@dataclass(frozen=True)
class List:
    """List the 108 systems and what stands behind each: planned, runs, or works."""

    family: Annotated[str | None, arg(help="Only this family: contrastive, generative, selfsup, ...")] = None
    json: Json = False

    def run(self) -> None:
        from oculex import catalog

        if self.family is not None and self.family not in catalog.families():
            raise UserError(f"no family {self.family!r}; families are: {', '.join(catalog.families())}")
        rows = [row for row in catalog.ROWS if self.family in (None, row.family)]
        if self.json:
            keys = ("number", "name", "title", "family")
            _print_json(
                [
                    {key: getattr(row, key) for key in keys}
                    | {"status": catalog.status(row), "evidence": catalog.evidence(row.name)}
                    for row in rows
                ]
            )
            return
        for row in rows:
            print(f"{row.number:>4}  {row.name:<22} {catalog.status(row):<8} {row.family:<12} {row.title}")


@dataclass(frozen=True)
class Show:
    """Describe a system: what it is, its presets with parameter counts, its claims, how to cite it."""

    name: Name
    json: Json = False

    def run(self) -> None:
        from oculex import catalog
        from oculex.report.ledger import measured
        from oculex.runs import describe

        row = catalog.find(self.name)
        shown = describe(row.name)
        if self.json:
            _print_json(shown)
            return
        found = catalog.evidence(row.name)
        numbered = f" ({row.number})" if row.number is not None else ""
        print(
            f"{row.name}{numbered}  {row.title}\n{', '.join(filter(None, (row.authors, row.venue, str(row.year))))}"
        )
        print(f"family {row.family}, status {shown['status']}; evidence: {', '.join(found) or 'none yet'}\n")
        print(f"{shown['about']}\n")
        for name, preset in shown["presets"].items():
            print(f"  preset {name:<18} {preset['parameters']:>13,} parameters  budget {preset['budget']}")
        for claim in shown["claims"]:
            judged = found.get("claim", {}).get(claim["name"])
            print(f"\n  claim {claim['name']}: {claim['statement']}\n    paper: {claim['paper']}")
            here = (
                f"{judged['verdict']}: {measured(judged)}"
                if judged
                else f"not measured; `oculex claim {row.name}`"
            )
            print(f"    here: {here}")
        print(f"\n{catalog.cite(row)}")


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
        changes = [*_all(self.set), *([f"logging.wandb={self.wandb}"] if self.wandb else [])]
        folder = runs.train(
            self.name,
            preset=self.preset,
            data=_all(self.data),
            out=self.out,
            budget=self.budget,
            seed=self.seed,
            changes=changes,
        )
        if ranks.leads():
            _finish(folder.path)

    def _replay(self, file: Path) -> None:
        from oculex import runs
        from oculex.training.crash import told, told_by
        from oculex.training.loop import load_recipe

        given = {"--data": self.data, "--out": self.out, "--budget": self.budget, "--seed": self.seed}
        extra = [name for name, value in given.items() if value not in (None, ())]
        if extra:
            raise UserError(f"--replay takes data and recipe from the run; leave out {', '.join(extra)}")
        trained = load_recipe(told_by(file)[0]).system
        if self.name != trained:
            raise UserError(f"{file} is of a run of {trained}; type `train {trained} --replay {file}`")
        print("\n".join(told(runs.replay(file, _all(self.set)))))


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
            _finish(folder.path)


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a run: zero-shot, retrieval, probes; every number with its interval."""

    run_folder: Run
    on: Annotated[
        Many, arg(metavar="SET", help="Sources to evaluate on. Default: the run's held-out data.")
    ] = ()
    limit: Annotated[int | None, arg(help="Most samples of each set.")] = None
    device: Device = "auto"
    json: Json = False

    def run(self) -> None:
        from oculex import runs
        from oculex.report.page import write_report
        from oculex.report.terminal import results

        result = runs.evaluate(self.run_folder, on=_all(self.on), limit=self.limit, device=self.device)
        page = write_report(self.run_folder)
        if self.json:
            _print_json(result)
            return
        print(f"{results(result['metrics'], Path(result['records']))}\n\npage  {page}")


@dataclass(frozen=True)
class Compare:
    """Compare runs on the items that both answered: paired differences to the first run, with intervals."""

    run_folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN", help="Two runs or more.")]
    json: Json = False

    def run(self) -> None:
        from oculex import runs
        from oculex.report.terminal import differences

        if len(self.run_folders) < 2:
            raise UserError("compare takes two runs or more")
        result = runs.compare(self.run_folders)
        if self.json:
            _print_json(result)
            return
        for other, found in result["differences"].items():
            print(f"{other} minus {result['base']}; * where the 95 % interval leaves out 0\n")
            print(f"{differences(found)}\n")


@dataclass(frozen=True)
class Race:
    """Train several systems on the same data with the same budget, and draw quality against time."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME", help="Two systems or more.")]
    data: Annotated[Many, arg(metavar="PATH", help="As for `oculex train`.")] = ()
    budget: Annotated[
        str | None, arg(help="For each system. Default: 3m; for backbones the samples of their preset.")
    ] = None
    out: Annotated[Path | None, arg(aliases=("-o",), help="Folder of the race.")] = None
    seed: int = 0
    set: Set = ()
    backbones: Annotated[
        Many,
        arg(
            metavar="SPEC",
            help="Of battle_of_backbones: what is compared, by the same heads on each. RUN, NAME:PRESET, timm:MODEL, "
            "or scratch:SPEC, the same network from fresh weights.",
        ),
    ] = ()
    seeds: Annotated[int, arg(help="Of battle_of_backbones: runs of each backbone and task.")] = 3
    whole: Annotated[bool, arg(help="Of battle_of_backbones: train the whole backbones too.")] = False

    def run(self) -> None:
        if self.backbones:
            return self._battle()
        from oculex.claims.race import race
        from oculex.report.race import conclusion, write_race
        from oculex.report.terminal import finals

        if len(self.names) < 2:
            raise UserError(
                "a race takes two systems or more; `oculex list` names them, and `oculex race battle_of_backbones "
                "--backbones A B C` compares backbones"
            )
        result, folder = race(
            self.names,
            data=_all(self.data),
            budget=self.budget or "3m",
            out=self.out,
            seed=self.seed,
            changes=_all(self.set),
        )
        write_race(result, folder / "race.html")
        print(f"{finals(result)}\n\n{conclusion(result)}\n\npage  {folder / 'race.html'}")

    def _battle(self) -> None:
        from oculex.claims.battle import SYSTEM, battle
        from oculex.report.battle import conclusion, table, write_battle

        if self.names != (SYSTEM,):
            raise UserError(
                f"--backbones are compared by {SYSTEM}; type `oculex race {SYSTEM} --backbones A B C`"
            )
        result, folder = battle(
            _all(self.backbones),
            data=_all(self.data),
            budget=self.budget,
            out=self.out,
            seeds=range(self.seed, self.seed + self.seeds),
            whole=self.whole,
            changes=_all(self.set),
        )
        write_battle(result, folder / "battle.html")
        print(f"{table(result)}\n\n{conclusion(result)}\n\npage  {folder / 'battle.html'}")


@dataclass(frozen=True)
class Claim:
    """Run a system's claims (NAME), or one of them (NAME:CLAIM), as controlled experiments, or print the ledger of those
    that were run."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME")] = ()
    all: Annotated[bool, arg(help="Every claim of every system that runs.")] = False
    ledger: Annotated[bool, arg(help="Print what was measured so far and write the ledger page.")] = False
    out: Annotated[
        Path, arg(aliases=("-o",), help="Folder of the arms' runs; finished arms are not run again.")
    ] = Path("runs/claims")
    budget: Annotated[
        str | None, arg(help="Instead of each claim's own budget; the result then says so.")
    ] = None
    record: Annotated[
        bool, arg(help="Take the results into the evidence that oculex carries (for its contributors).")
    ] = False
    json: Json = False

    def run(self) -> None:
        from oculex.claims import ledger
        from oculex.claims.experiment import judge_claims
        from oculex.report.measures import number, span

        if not (self.names or self.all or self.ledger):
            raise UserError("name a system, or give --all or --ledger; `oculex list` shows the systems")
        results = (
            ledger.merged(self.out)
            if self.ledger
            else judge_claims(self.names, all_systems=self.all, out=self.out, budget=self.budget)
        )
        if self.record:
            ledger.record(results)
        if self.json:
            _print_json(results)
            return
        for result in results:
            print(f"{result['system']} / {result['name']}: {result['verdict']}\n  {result['statement']}")
            print(f"  paper: {result['paper']}")
            effect = {f"effect ({result['compare']})": result["effect"]}
            for name, e in {**result["arms"], **effect}.items():
                print(f"  {name:<24} {number(e['value']):>8}  {span(e['low'], e['high'])}  n = {e['n']}")
            print()
        if self.ledger:
            from oculex.report.ledger import write_ledger

            self.out.mkdir(parents=True, exist_ok=True)
            write_ledger(results, self.out / "ledger.html")
            print(f"page: {self.out / 'ledger.html'}")


@dataclass(frozen=True)
class Embed:
    """Write embeddings of images or texts to a Parquet file: id, embedding."""

    run_folder: Run
    out: Out
    images: Annotated[
        str | None, arg(metavar="PATH", help="Images: any source that `oculex train --data` reads.")
    ] = None
    texts: Annotated[Path | None, arg(metavar="FILE", help="Texts, one a line.")] = None
    modality: Modality = "image"
    device: Device = "auto"

    def run(self) -> None:
        from oculex import runs

        count = runs.embed(
            self.run_folder,
            self.out,
            images=self.images,
            texts=self.texts,
            device=self.device,
            modality=self.modality,
        )
        print(f"{count} embeddings in {self.out}")


@dataclass(frozen=True)
class Index:
    """Make a searchable index of images."""

    run_folder: Run
    images: Annotated[str, arg(metavar="PATH", help="Images: any source that `oculex train --data` reads.")]
    out: Out
    modality: Modality = "image"
    device: Device = "auto"

    def run(self) -> None:
        from oculex import runs

        count = runs.index(self.run_folder, self.images, self.out, device=self.device, modality=self.modality)
        print(f'{count} images indexed; try: oculex search {self.out} "a red ball"')


@dataclass(frozen=True)
class Search:
    """Find the images of an index that fit a text."""

    index: Annotated[Positional[Path], arg(metavar="INDEX", help="As `oculex index` made it.")]
    query: Annotated[Positional[str], arg(metavar="TEXT")]
    k: Annotated[int, arg(aliases=("-k",), help="How many.")] = 10
    json: Json = False

    def run(self) -> None:
        from oculex import runs

        hits = runs.search(self.index, self.query, self.k)
        if self.json:
            _print_json(hits)
            return
        for hit in hits:
            print(f"{hit['score']:.4f}  {hit['id']}")


@dataclass(frozen=True)
class Generate:
    """Let a run's system write or draw: describe an image, answer a question about it, go on with a text, paint one.

    `--image cat.jpg` alone describes the image; `--image a.jpg b.jpg --prompt "What colour is the ball?"` asks of each;
    `--prompt "A red"` alone goes on with the text where the run is a language model's; `--draw "a red cube" -o cube.png`
    draws what the text says.
    """

    run_folder: Run
    image: Annotated[Many, arg(metavar="FILE", help="Images to look at: JPEG, PNG, WebP and the like.")] = ()
    prompt: Annotated[
        str, arg(metavar="TEXT", help="What is asked, or begun. Without it each image is described.")
    ] = ""
    draw: Annotated[str, arg(metavar="TEXT", help="What is to be drawn.")] = ""
    out: Annotated[
        Path | None, arg(aliases=("-o",), metavar="FILE", help="Where the drawing goes: PNG, JPEG or WebP.")
    ] = None
    seed: Annotated[
        int, arg(help="Another one gives another picture, and another text above temperature 0.")
    ] = 0
    guidance: Annotated[
        float | None, arg(help="How closely a drawing keeps to the text. Default: as the run was configured.")
    ] = None
    most: Annotated[int, arg(metavar="TOKENS", help="Longest text.")] = 64
    temperature: Annotated[float, arg(help="0 writes the likeliest text; more draws words more freely.")] = (
        0.0
    )
    device: Device = "auto"
    json: Json = False

    def run(self) -> None:
        from oculex import runs

        if self.draw or self.out is not None:
            if self.image or self.prompt:
                raise UserError("a run either draws or writes; give --draw and -o, or --image and --prompt")
            if self.out is None:
                raise UserError("where should the drawing go? give -o FILE.png")
            drawn = runs.draw(self.run_folder, self.draw, self.out, self.seed, self.device, self.guidance)
            _print_json({"text": self.draw, "image": str(drawn)}) if self.json else print(drawn)
            return
        if self.guidance is not None:
            raise UserError("guidance is a drawing's; give --draw TEXT as well, or leave it out")
        said = runs.generate(
            self.run_folder,
            _all(self.image),
            self.prompt,
            self.most,
            self.device,
            self.temperature,
            self.seed,
        )
        if self.json:
            _print_json(said)
            return
        for each in said:
            print(each["text"] if len(said) == 1 else f"{each['image']}\n  {each['text']}")


@dataclass(frozen=True)
class Act:
    """Let a run's robot say what it does next: `oculex act RUN --image seen.png --instruction "push the red cube"`.

    `oculex evaluate RUN --on table` lets it do so in the simulator, step after step.
    """

    run_folder: Run
    instruction: Annotated[str, arg(metavar="TEXT", help="What it is told to do.")]
    image: Annotated[Many, arg(metavar="FILE", help="What it sees: JPEG, PNG, WebP and the like.")] = ()
    device: Device = "auto"
    json: Json = False

    def run(self) -> None:
        from oculex import runs

        done = runs.act(self.run_folder, self.instruction, _all(self.image), self.device)
        if self.json:
            _print_json(done)
            return
        for each in done:
            numbers = " ".join(f"{value:.4g}" for value in each["action"])
            print(numbers if len(done) == 1 else f"{each['image']}\n  {numbers}")


@dataclass(frozen=True)
class Export:
    """Export a run's model to a format that other tools open; prints how exactly it agrees."""

    run_folder: Run
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    to: Annotated[Literal["open_clip", "transformers", "timm", "onnx"], arg(help="Format.")]
    modality: Modality = "image"

    def run(self) -> None:
        from oculex import export

        for parity in export.export_run(self.run_folder, self.to, self.out, self.modality):
            print(
                f"{parity.name:<20} largest absolute difference {parity.max_abs_error:.1e} over {parity.n} values"
            )
        print(f"exported to {self.out}")


@dataclass(frozen=True)
class Import:
    """Make a run of published weights, so that they can be evaluated, searched and trained on here."""

    model: Annotated[Positional[str], arg(metavar="MODEL", help="Name, file or folder.")]
    out: Out
    from_: Annotated[Literal["open_clip", "transformers"], arg(name="from", help="Whose format.")]
    pretrained: Annotated[str, arg(help="open_clip's tag or a weights file.")] = ""
    allow_pickle: Annotated[
        bool, arg(help="Accept weights that are not safetensors; only from people you trust.")
    ] = False

    def run(self) -> None:
        from oculex import export

        for parity in export.import_run(
            self.from_, self.model, self.out, pretrained=self.pretrained, allow_pickle=self.allow_pickle
        ):
            print(
                f"{parity.name:<20} largest absolute difference {parity.max_abs_error:.1e} over {parity.n} values"
            )
        print(f"imported; try: oculex evaluate {self.out} --on PATH")


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
            _print_json(shown)
            return
        for path, facts in shown.items():
            print(path)
            for key, value in facts.items():
                print(f"  {key:<18} {_plain(value)}")


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

        drop = frozenset(_lines(self.leave_out)) if self.leave_out is not None else frozenset()
        print(
            _plain(
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
        recipe = customised(preset, self.paths, changes=_all(self.set))
        report = doctor.examine(recipe, self.seconds, leave_out=self.leave_out)
        if self.json:
            _print_json(report.figures())
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

        pipeline = with_options(pipeline_of(self.name), _all(self.set), "--set")
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
            _print_json(manifest | ({} if written is None else {"conversations": written}))
            return
        print(table(manifest))
        print(f"\nshards  {self.out}; train on them with --data {self.out}")
        if written is not None:
            print(f"chat    {self.chat}, {written} conversations")


@dataclass(frozen=True)
class Report:
    """Write a run's page, report.html, anew."""

    run_folder: Run

    def run(self) -> None:
        from oculex import runs
        from oculex.report.page import write_report

        runs.folder(self.run_folder)
        print(write_report(self.run_folder))


@dataclass(frozen=True)
class Serve:
    """Open a page on which people ask a run: it searches, classifies, describes, answers, draws, finds, as the run can.

    The page searches what the run's data held out, or the pictures that are named here. It is for this machine alone
    unless --host or --share say otherwise.
    """

    run_folder: Run
    images: Annotated[
        str, arg(metavar="PATH", help="Pictures to search: any source that `oculex train --data` reads.")
    ] = ""
    index: Annotated[
        Path | None, arg(metavar="INDEX", help="Pictures to search, as `oculex index` made it.")
    ] = None
    host: Annotated[str, arg(help="Address to listen on; 0.0.0.0 lets every machine of the network in.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, arg(help="0 takes a free one.")] = 7860
    share: Annotated[bool, arg(help="Let anyone in who has the link, through Gradio's servers.")] = False
    device: Device = "auto"

    def run(self) -> None:
        from oculex.serve import serve

        serve(self.run_folder, self.images, self.index, self.host, self.port, self.share, self.device)


@dataclass(frozen=True)
class Bench:
    """Measure speed side by side with a peer, as a ratio with its spread."""

    name: Annotated[Positional[str], arg(metavar="NAME", help="A benchmark; `oculex bench list` names them.")]
    json: Json = False

    def run(self) -> None:
        from oculex import bench

        if self.name == "list":
            for name, about in bench.names().items():
                print(f"{name:<22} {about}")
            return
        result = bench.run(self.name)
        if self.json:
            _print_json(result)
        else:
            print("\n".join(f"{key:<24} {_plain(value)}" for key, value in result.items()))


_DATA = {"inspect": Inspect, "convert": Convert, "doctor": Doctor}
COMMANDS: dict[str, Any] = {
    "list": List,
    "show": Show,
    "train": Train,
    "resume": Resume,
    "evaluate": Evaluate,
    "compare": Compare,
    "race": Race,
    "claim": Claim,
    "embed": Embed,
    "index": Index,
    "search": Search,
    "generate": Generate,
    "act": Act,
    "export": Export,
    "import": Import,
    "data": _DATA,
    "curate": Curate,
    "serve": Serve,
    "report": Report,
    "bench": Bench,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``oculex`` command."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _parse(arguments).run()
    except UserError as error:
        print(f"oculex: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        sys.stderr.close()
        raise SystemExit(0) from None


def _parse(arguments: list[str]) -> Any:
    """The command with its values. tyro explains a mistake in a box; here it becomes one line."""
    said = io.StringIO()
    table, prog = COMMANDS, "oculex"
    if arguments[:1] == ["data"]:
        table, prog, arguments = _DATA, "oculex data", arguments[1:]
    elif arguments and arguments[0] in table:  # only this command's parser is built
        table = {arguments[0]: table[arguments[0]]}
    kinds: Any = [
        Annotated[cls if not isinstance(cls, dict) else _Data, subcommand(name)]
        for name, cls in table.items()
    ]
    try:
        with contextlib.redirect_stderr(said):
            if len(kinds) == 1:
                name = next(iter(table))
                return tyro.cli(kinds[0], prog=f"{prog} {name}", args=arguments[1:], config=_CONFIG)
            about = (
                "One bench for vision-language pretraining. `oculex COMMAND --help` explains each command."
            )
            anything: Any = Union.__getitem__(tuple(kinds))
            return tyro.cli(
                anything,
                prog=prog,
                args=arguments or ["--help"],
                description=about,
                config=_CONFIG,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [re.sub(r"[│╭╮╰╯─•]", " ", line).strip() for line in said.getvalue().splitlines()]
        text = "; ".join(line for line in lines[1:] if line and "full helptext" not in line)
        raise UserError(
            f"{text}; see `{prog}{' ' + next(iter(table)) if len(kinds) == 1 else ''} --help`"
        ) from None


_CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes)


@dataclass(frozen=True)
class _Data:
    """Inspect, convert or examine data: `oculex data inspect|convert|doctor PATH`."""


def _finish(run: Path) -> None:
    """What was learnt, where the page is, and what to type next."""
    from oculex.report.page import write_report
    from oculex.report.terminal import learnt

    write_report(run)
    print(learnt(run, _program()))


def _program() -> str:
    """This command as it was typed: `oculex`, or its path where it is not on the search path."""
    typed = Path(sys.argv[0])
    found = shutil.which("oculex")
    known = typed.name != "oculex" or (found and typed.exists() and Path(found).samefile(typed))
    return "oculex" if known else str(typed)


def _all(given: Sequence[Sequence[str]]) -> list[str]:
    return [item for group in given for item in group]


def _estimate(e: dict[str, Any]) -> str:
    n = f"  n={e['n']}" if "n" in e else ""
    return f"{e['value']:.4g}  [{e['low']:.4g}, {e['high']:.4g}]{n}"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return str(value)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; give a UTF-8 text file") from error


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=str)
    print()
