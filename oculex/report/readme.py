"""The parts of README.md that follow from facts, between markers: ``python -m oculex.report.readme``.

The table of the catalog is written anew; BLOCK=RUN (demo=runs/demo) also puts what a run said at its end into
the block of that name.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from oculex.contracts import UserError
from oculex.report.systems_table import systems_markdown
from oculex.report.terminal import learnt
from oculex.training.folder import write_text

README = Path("README.md")


def rewritten(text: str, blocks: Mapping[str, str]) -> str:
    """``text`` with each block between ``<!-- NAME -->`` and ``<!-- /NAME -->`` replaced."""
    for name, body in blocks.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(opening) != 1 or text.count(closing) != 1:
            raise UserError(f"{README} needs one {opening} and one {closing}")
        before, _, rest = text.partition(opening)
        text = f"{before}{opening}\n{body.strip()}\n{closing}{rest.partition(closing)[2]}"
    return text


def said(run: Path, name: str) -> str:
    """What the terminal says at the end of a run, as a code block in which the run is called runs/NAME."""
    return f"```\n{learnt(run).replace(str(run), f'runs/{name}')}\n```"


def main(arguments: Sequence[str]) -> None:
    runs = dict(argument.split("=", 1) for argument in arguments)
    blocks = {name: said(Path(run), name) for name, run in runs.items()}
    text = README.read_text(encoding="utf-8")
    write_text(README, rewritten(text, {"systems": systems_markdown(), **blocks}))


if __name__ == "__main__":
    main(sys.argv[1:])
