"""Embeddings of a run's system: written to a file, or to an index that is searched by text."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oculex.contracts import EncodesImages, EncodesModalities, EncodesText, RepresentsImages, UserError
from oculex.data.collate import collate
from oculex.data.sources import open_source
from oculex.runs import load, resolve
from oculex.training.folder import read_json, write_json


def embed(
    run: Path,
    out: Path,
    images: str | None = None,
    texts: Path | None = None,
    device: str = "auto",
    modality: str = "image",
) -> int:
    """Writes id and embedding of every image or text to a Parquet file; how many.

    Of images it is the embedding shared with text; of a system that has none, the features that probes are fitted on.
    ``modality``: another key of the samples than the image, such as audio, of a system that encodes it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (images is None) == (texts is None):
        raise UserError("give either --images PATH or --texts FILE")
    system = load(run, device)
    ids, values = _embedded(
        system, images=images, texts=texts, device=resolve(device), features=True, modality=modality
    )
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.float32()), values.shape[1])
    part = out.with_name(f".{out.name}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": ids, "embedding": column}), part)
    part.replace(out)
    return len(ids)


def _embedded(
    system: Any,
    images: str | None,
    texts: Path | None,
    device: str,
    features: bool = False,
    modality: str = "image",
) -> tuple[list[str], np.ndarray]:
    """(ids, float32 [n, D]). ``features``: what a system that does not encode images represents them by will do."""
    from oculex.evaluation.embed import embed as embed_source

    if images is not None and modality != "image":
        known = system.modalities if isinstance(system, EncodesModalities) else ()
        if modality not in known:
            raise UserError(f"this system encodes {', '.join(known) or 'images alone'}, not {modality!r}")
        return embed_source(system, open_source(images), modality, device=device)
    wanted, capability = ("image", EncodesImages) if texts is None else ("text", EncodesText)
    if not isinstance(system, capability):
        if not (features and wanted == "image" and isinstance(system, RepresentsImages)):
            raise UserError(f"this system does not encode {wanted}s; `oculex show` tells what it can do")
        wanted = "represent"
    source = open_source(images) if images is not None else _Texts(texts)  # type: ignore[arg-type]
    return embed_source(system, source, wanted, device=device)


class _Texts:
    """Lines of a text file as samples."""

    classes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"cannot read {path}: {error}; give a UTF-8 text file, one text a line"
            ) from error
        self.name, self.lines = str(path), [line.strip() for line in text.splitlines() if line.strip()]
        if not self.lines:
            raise UserError(f"{path} has no text; give one text a line")

    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int, /) -> dict[str, str]:
        return {"id": self.lines[index], "caption": self.lines[index]}


def index(run: Path, images: str, out: Path, device: str = "auto", modality: str = "image") -> int:
    """Writes a folder with unit-norm image embeddings, their ids, and which run answers queries; how many. ``modality``
    as for ``embed``."""
    ids, values = _embedded(
        load(run, device), images=images, texts=None, device=resolve(device), modality=modality
    )
    out.mkdir(parents=True, exist_ok=True)
    np.save(
        out / "embeddings.npy", values / np.linalg.norm(values, axis=1, keepdims=True), allow_pickle=False
    )
    write_json(out / "index.json", {"run": str(Path(run).resolve()), "images": images, "ids": ids})
    return len(ids)


def open_index(index: Path) -> tuple[dict[str, Any], np.ndarray]:
    """({"run", "images", "ids"}, unit-norm embeddings [n, D]) as ``index`` wrote them; UserError where there is none."""
    if not (index / "index.json").is_file():
        raise UserError(f"{index} is not an index; `oculex index RUN --images PATH -o {index}` makes one")
    try:
        values = np.load(index / "embeddings.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {index / 'embeddings.npy'}: {error}; make the index again") from error
    return read_json(index / "index.json"), values


def search(index: Path, query: str, k: int = 10) -> list[dict[str, Any]]:
    """The k best images: [{id, score}], score the cosine similarity."""
    facts, values = open_index(index)
    system: Any = load(facts["run"])
    with torch.no_grad():
        text = system.encode_text(collate([system.view({"id": "query", "caption": query}, None)]))[0].float()
    scores = values @ (text / text.norm()).numpy()
    best = np.argsort(-scores)[:k]
    return [{"id": facts["ids"][i], "score": float(scores[i])} for i in best]
