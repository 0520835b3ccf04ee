"""What a run keeps beside its weights so that its system can be built again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from oculex.contracts import UserError
from oculex.data.text import BytePair, clip_tokenizer, train_tokenizer


class RunAssets:
    """Assets in a folder; what is missing is made from ``corpus``, the training captions, where there is one."""

    def __init__(self, folder: Path, corpus: Callable[[], Iterable[str]] | None) -> None:
        self.folder, self.corpus = folder, corpus
        self._tokenizers: dict[str, BytePair] = {}

    def tokenizer(self, spec: str) -> BytePair:
        """``clip``, ``corpus:SIZE`` or the path of a tokenizer.json. Raises UserError for anything else."""
        if spec not in self._tokenizers:
            self._tokenizers[spec] = self._open(spec)
        return self._tokenizers[spec]

    def _open(self, spec: str) -> BytePair:
        if spec == "clip":
            return clip_tokenizer()
        kept = self.folder / "tokenizer.json"
        if kept.exists():
            return BytePair.load(kept)
        kind, _, size = spec.partition(":")
        if kind == "corpus" and size.isdigit():
            if self.corpus is None:
                raise UserError(f"{kept} is missing; the run folder is damaged")
            made = train_tokenizer(self.corpus(), int(size))
        elif Path(spec).is_file():
            made = BytePair.load(Path(spec))
        else:
            raise UserError(
                f"tokenizer={spec!r} is not known; use clip, corpus:SIZE or the path of a tokenizer.json"
            )
        part = kept.with_name(f".tokenizer.{os.getpid()}")
        self.folder.mkdir(parents=True, exist_ok=True)
        made.save(part)
        part.replace(kept)
        return made

    def __getstate__(self) -> dict[str, object]:
        """Worker processes get the tokenizers, not the corpus they came from."""
        return {"folder": self.folder, "corpus": None, "_tokenizers": self._tokenizers}
