"""What there is: systems, a run's page, how fast a machine is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from oculex.cli.options import Json, Name, Run
from oculex.cli.printing import plain, print_json
from oculex.contracts import UserError


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
            print_json(
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
            print_json(shown)
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
class Report:
    """Write a run's page, report.html, anew."""

    run_folder: Run

    def run(self) -> None:
        from oculex import runs
        from oculex.report.page import write_report

        runs.folder(self.run_folder)
        print(write_report(self.run_folder))


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
            print_json(result)
        else:
            print("\n".join(f"{key:<24} {plain(value)}" for key, value in result.items()))
