"""Weights that training begins from: parts of a foundation's."""

from __future__ import annotations

from torch import Tensor, nn

from oculex.contracts import Init, UserError


def load(system: nn.Module, init: Init, foundation: nn.Module) -> None:
    """Copies the weights that ``init`` names from its foundation into a system.

    Raises UserError where a prefix names no weight of the system, and where a weight below it is missing there or has
    another shape.
    """
    found = dict(foundation.state_dict())
    own, taken = system.state_dict(), {}
    for there, here in init.take:
        names = [name for name in own if name.startswith(here)]
        if not names:
            raise UserError(
                f"init.take: no weight here begins with {here!r}; names look like {next(iter(own))!r}"
            )
        for name in names:
            source = there + name.removeprefix(here)
            if source in found:
                found[source] = _fitted(system, name, found[source])
            if source not in found or found[source].shape != own[name].shape:
                what = f"has shape {tuple(found[source].shape)}" if source in found else "is missing"
                raise UserError(
                    f"init.run={init.run!r}: {source!r} {what}, {tuple(own[name].shape)} is needed for {name!r}; "
                    "give both the same sizes, or take fewer weights with init.take"
                )
            taken[name] = found[source]
    system.load_state_dict(taken, strict=False)


def _fitted(system: nn.Module, name: str, value: Tensor) -> Tensor:
    """A weight of another size, where the module that holds it knows how (``fitted``: a table of positions, say)."""
    prefix, _, leaf = name.rpartition(".")
    fitted = getattr(system.get_submodule(prefix), "fitted", None)
    return value if fitted is None else fitted(leaf, value)
