"""All generators by name, 24 of one picture and 14 of several: the modules that are imported here register theirs."""

from __future__ import annotations

from collections.abc import Sequence

from oculex.contracts import UserError
from oculex.data.graphs import attributes, depths, objects, references, relations, segments, several
from oculex.data.graphs.facts import GENERATORS, Generator

MODULES = (objects, attributes, relations, depths, segments, references, several)


def chosen(names: str | Sequence[str], several: bool) -> tuple[Generator, ...]:
    """Generators by name or category; "all" are all of them. Raises UserError for a name that is neither."""
    fit = [each for each in GENERATORS.values() if each.several == several]
    wanted = names.split("+") if isinstance(names, str) else list(names)
    categories = {each.category.replace(" ", "_") for each in fit}
    unknown = [name for name in wanted if name not in {"all", *categories, *(each.name for each in fit)}]
    if unknown or not wanted:
        raise UserError(
            f"no generator {', '.join(unknown)!r} for {'several pictures' if several else 'one picture'}; there are all, "
            f"{', '.join(sorted(categories))} and {', '.join(each.name for each in fit)}"
        )
    return tuple(
        each for each in fit if {"all", each.name, each.category.replace(" ", "_")}.intersection(wanted)
    )
