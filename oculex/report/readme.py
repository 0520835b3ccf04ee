"""The parts of README.md and docs/systems.md that follow from facts, between markers: ``python -m oculex.report.readme``.

The tables of the catalog are written anew; BLOCK=RUN (demo=runs/demo) also puts what a run said at its end into
README.md's block of that name.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from oculex.contracts import UserError
from oculex.report.systems_table import built_markdown, claims_markdown, systems_markdown
from oculex.report.terminal import learnt
from oculex.training.folder import write_text

README, SYSTEMS = Path("README.md"), Path("docs/systems.md")


def rewritten(text: str, blocks: Mapping[str, str]) -> str:
    """``text`` with each block between ``<!-- NAME -->`` and ``<!-- /NAME -->`` replaced."""
    for name, body in blocks.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(opening) != 1 or text.count(closing) != 1:
            raise UserError(f"the page needs one {opening} and one {closing}")
        before, _, rest = text.partition(opening)
        text = f"{before}{opening}\n{body.strip()}\n{closing}{rest.partition(closing)[2]}"
    return text


def said(run: Path, name: str) -> str:
    """What the terminal says at the end of a run, as a code block in which the run is called runs/NAME."""
    return f"```\n{learnt(run).replace(str(run), f'runs/{name}')}\n```"


def tables() -> dict[Path, dict[str, str]]:
    """What the catalog and its evidence say, by page and block."""
    return {
        README: {"systems": built_markdown()},
        SYSTEMS: {"systems": systems_markdown(), "claims": claims_markdown()},
    }


def main(arguments: Sequence[str]) -> None:
    runs = dict(argument.split("=", 1) for argument in arguments)
    wanted = tables()
    wanted[README] |= {name: said(Path(run), name) for name, run in runs.items()}
    for page, blocks in wanted.items():
        write_text(page, rewritten(page.read_text(encoding="utf-8"), blocks))


if __name__ == "__main__":
    main(sys.argv[1:])
