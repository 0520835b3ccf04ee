"""Speed side by side with a peer in one process, in alternating rounds."""

from __future__ import annotations

import importlib
from typing import Any

from oculex.contracts import UserError

_BENCHES = {
    "clip-step": "a CLIP update: oculex and open_clip, same architecture, batch and loss",
    "contrastive-memory": "the contrastive loss of 32,768 pairs: oculex in tiles and the dense loss",
    "decode": "JPEGs to training views: oculex and open_clip's own pipeline, on one core",
    "generate": "texts of a language model, a batch at a time: oculex and transformers, same model, same texts",
    "ssl-step": "MAE and DINO updates: oculex and lightly, same transformer, batch and loss",
    "stored-teacher": "a distillation step: stored answers and the teacher beside the student, TinyViT's sizes",
    "vlm-step": "a LLaVA update: oculex on packed and transformers on padded conversations, same weights and loss",
    "startup": "seconds of `import oculex` and `oculex list`",
}


def names() -> dict[str, str]:
    return dict(_BENCHES)


def run(name: str) -> dict[str, Any]:
    """The figures of a benchmark; raises UserError for an unknown name."""
    if name not in _BENCHES:
        raise UserError(f"no benchmark {name!r}; there are: {', '.join(_BENCHES)}")
    return importlib.import_module(f"oculex.bench.{name.replace('-', '_')}").run()
