"""What was learnt: evaluations, comparisons, races, claims."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from oculex.cli.options import Device, Json, Many, Run, Set
from oculex.cli.printing import flat, print_json
from oculex.contracts import UserError


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

        result = runs.evaluate(self.run_folder, on=flat(self.on), limit=self.limit, device=self.device)
        page = write_report(self.run_folder)
        if self.json:
            print_json(result)
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
            print_json(result)
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
            data=flat(self.data),
            budget=self.budget or "3m",
            out=self.out,
            seed=self.seed,
            changes=flat(self.set),
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
            flat(self.backbones),
            data=flat(self.data),
            budget=self.budget,
            out=self.out,
            seeds=range(self.seed, self.seed + self.seeds),
            whole=self.whole,
            changes=flat(self.set),
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
            print_json(results)
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
