"""What commands print, and how they read what was typed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oculex.contracts import UserError


def finish(run: Path) -> None:
    """What was learnt, where the page is, and what to type next."""
    from oculex.report.page import write_report
    from oculex.report.terminal import learnt

    write_report(run)
    print(learnt(run, program()))


def program() -> str:
    """This command as it was typed: `oculex`, or its path where it is not on the search path."""
    typed = Path(sys.argv[0])
    found = shutil.which("oculex")
    known = typed.name != "oculex" or (found and typed.exists() and Path(found).samefile(typed))
    return "oculex" if known else str(typed)


def flat(given: Sequence[Sequence[str]]) -> list[str]:
    return [item for group in given for item in group]


def estimate(e: dict[str, Any]) -> str:
    n = f"  n={e['n']}" if "n" in e else ""
    return f"{e['value']:.4g}  [{e['low']:.4g}, {e['high']:.4g}]{n}"


def plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    return str(value)


def lines_of(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; give a UTF-8 text file") from error


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=str)
    print()
