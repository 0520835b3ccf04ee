"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

Name = Annotated[Positional[str], arg(metavar="NAME", help="System, as in `oculex list`.")]
Run = Annotated[Positional[Path], arg(metavar="RUN", help="Folder of a run, as `oculex train` made it.")]
Json = Annotated[bool, arg(help="Print JSON for programs.")]
Device = Annotated[str, arg(help="cpu, cuda or cuda:N; auto takes a GPU where there is one.")]
Many = Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction]
"""What an option takes several of, at once or by standing there several times."""
Set = Annotated[
    Many, arg(metavar="KEY=VALUE", help="Change fields of the recipe: optimizer.lr=1e-3 width=256")
]
Out = Annotated[Path, arg(aliases=("-o",), metavar="PATH", help="Where the result goes.")]
Modality = Annotated[
    str,
    arg(metavar="KEY", help="Another key of the samples than image: audio, depth, ... of a system with it."),
]
