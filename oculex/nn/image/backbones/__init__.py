"""Published backbones, one file per architecture; ``NAMED`` builds each published size by name.

A file offers its sizes as a table; a builder takes the image's ``channels`` and the rate ``drop_path``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from oculex.nn.image.backbones import tinyvit

NAMED: dict[str, Callable[..., nn.Module]] = {
    name: partial(tinyvit.TinyViT, size) for name, size in tinyvit.SIZES.items()
}
