"""What a curation tells while it works and when it is done."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from oculex.contracts import printable


def on_terminal(what: str, done: int, of: int) -> None:
    """A line that is written over, where somebody looks."""
    if sys.stderr.isatty():
        end = "\n" if done == of else ""
        print(f"\r{what} {done} of {of} parts", end=end, file=sys.stderr, flush=True)


def table(manifest: Mapping[str, Any]) -> str:
    """How many samples came in, what became of them, and why some are left out."""
    source, dropped = manifest["source"], manifest["dropped"]
    rows = [(f"samples of {source['name']}", source["samples"])]
    rows += [(f"  refused: {printable(reason, 90)}", many) for reason, many in manifest["refused"].items()]
    rows += [("  nothing to make of them", manifest["nothing_to_make"]), ("samples made", manifest["made"])]
    rows += [
        ("  texts that were there to the letter", dropped["repeated"]),
        ("  texts that were nearly there", dropped["nearly_repeated"]),
    ]
    rows += [(f"samples kept, in {len(manifest['shards'])} shards", manifest["samples"])]
    rows += [(f"  questions: {kind}", many) for kind, many in manifest["kinds"].items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {many:>10,}" for name, many in rows)
