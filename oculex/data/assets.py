"""What a run keeps beside its weights so that its system can be built again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from oculex.contracts import Source, UserError
from oculex.data.text import BytePair, clip_tokenizer, published_tokenizer, train_tokenizer


class RunAssets:
    """Assets in a folder; what is missing is made from ``corpus``, the training captions, where there is one. Without a
    folder nothing is kept.

    ``foundation`` opens a trained system by name; it comes from training, which data knows nothing of.
    """

    def __init__(
        self,
        folder: Path | None,
        corpus: Callable[[], Iterable[str]] | None,
        classes: Sequence[str] = (),
        sources: Sequence[Source] = (),
        foundation: Callable[[str], Any] | None = None,
    ) -> None:
        self.folder, self.corpus, self._classes = folder, corpus, tuple(classes)
        self._sources, self._foundation = tuple(sources), foundation
        self._tokenizers: dict[str, BytePair] = {}

    def tokenizer(self, spec: str) -> BytePair:
        """``clip``, ``corpus:SIZE``, ``from:FOUNDATION``, which is the one that a foundation was trained with,
        ``hub:NAME``, a Hugging Face tokenizer (a folder, or a name on the hub), or the path of a tokenizer.json.

        Raises UserError for anything else.
        """
        if spec not in self._tokenizers:
            self._tokenizers[spec] = self._open(spec)
        return self._tokenizers[spec]

    def classes(self) -> tuple[str, ...]:
        """Class names of the training data, in label order; empty where nothing says which data it is."""
        if self.folder is None:
            return self._classes
        kept = self.folder / "classes.json"
        if kept.exists():
            return tuple(json.loads(kept.read_text(encoding="utf-8")))
        if self._classes:
            part = kept.with_name(f".classes.{os.getpid()}")
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(self._classes, ensure_ascii=False), encoding="utf-8")
            part.replace(kept)
        return self._classes

    def sources(self) -> tuple[Source, ...]:
        """The training data; empty where a finished run is built again."""
        return self._sources

    def foundation(self, spec: str) -> Any:
        """A trained system in evaluation mode; raises UserError where there is none of that name."""
        if self._foundation is None:
            raise UserError(f"{spec} cannot be opened here; foundations are there in training alone")
        return self._foundation(spec)

    def _open(self, spec: str) -> BytePair:
        if spec == "clip":
            return clip_tokenizer()
        kept = self.folder / "tokenizer.json" if self.folder is not None else None
        if kept is not None and kept.exists():
            return BytePair.load(kept)
        kind, _, name = spec.partition(":")
        if kind == "corpus" and name.isdigit():
            if self.corpus is None:
                raise UserError(f"{kept or 'the tokenizer'} is missing; the run folder is damaged")
            made = train_tokenizer(self.corpus(), int(name))
        elif kind == "from":
            made = self.foundation(name).tokenizer
        elif kind == "hub":
            made = published_tokenizer(name)
        elif Path(spec).is_file():
            made = BytePair.load(Path(spec))
        else:
            raise UserError(
                f"tokenizer={spec!r} is not known; use clip, corpus:SIZE, from:FOUNDATION, hub:NAME or the path of a "
                "tokenizer.json"
            )
        if kept is not None:
            part = kept.with_name(f".tokenizer.{os.getpid()}")
            kept.parent.mkdir(parents=True, exist_ok=True)
            made.save(part)
            part.replace(kept)
        return made

    def __getstate__(self) -> dict[str, object]:
        """Worker processes get the tokenizers, not the data they came from."""
        return self.__dict__ | {"corpus": None, "_sources": (), "_foundation": None}
