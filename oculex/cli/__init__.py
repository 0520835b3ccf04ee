"""The command line: parses, calls, prints. Exit status 0 on success, 2 on a user's mistake, 1 on a failure."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union

import tyro
from tyro.conf import subcommand

from oculex.cli.data import Convert, Curate, Doctor, Inspect
from oculex.cli.judge import Claim, Compare, Evaluate, Race
from oculex.cli.look import Bench, List, Report, Show
from oculex.cli.train import Resume, Train
from oculex.cli.use import Act, Embed, Export, Generate, Import, Index, Search, Serve
from oculex.contracts import UserError

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
