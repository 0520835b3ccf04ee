"""Simulation: a table-top under MuJoCo's physics, what a robot can be told there, and an expert that shows how.

The room knows the names of ``oculex.world`` and nothing of systems. ``layout`` needs no simulator; ``table`` and
``expert`` raise UserError where MuJoCo or Gymnasium is missing.
"""

from oculex.simulation.layout import SKILLS, SOLIDS, Layout, TableConfig, Thing, make_layout

__all__ = ["SKILLS", "SOLIDS", "Layout", "TableConfig", "Thing", "make_layout"]
