"""Sources: what users bring, opened by what is there."""

from __future__ import annotations

import glob
from pathlib import Path

from oculex.contracts import Source, UserError

UNDERSTOOD = (
    "a folder with a captions CSV/TSV/JSON/JSONL or with class folders, Parquet, webdataset tars, a Hugging Face "
    "dataset on disk, or world"
)


def open_source(spec: str) -> Source:
    """The source of a path, a glob of tar or Parquet shards, or ``world[:key=value,...]``.

    Raises UserError that says what was found where nothing is understood.
    """
    if spec == "world" or spec.startswith("world:"):
        from oculex.data.sources.embedded import EmbeddedWorld

        return EmbeddedWorld.of(spec)
    path = Path(spec).expanduser()
    if path.is_file():
        return _file(path)
    if path.is_dir():
        return _folder(path)
    shards = [Path(found) for each in braces(spec) for found in sorted(glob.glob(each))]
    if not shards:
        raise UserError(f"{spec} does not exist; give {UNDERSTOOD}")
    return _shards(shards, spec)


def braces(spec: str) -> list[str]:
    """ "a-{000..002}.tar" -> three names."""
    head, opening, rest = spec.partition("{")
    inside, closing, tail = rest.partition("}")
    first, dots, last = inside.partition("..")
    if not (opening and closing and dots and first.isdigit() and last.isdigit()):
        return [spec]
    if int(last) - int(first) > 1_000_000:
        raise UserError(f"{spec} names more than a million shards")
    return [
        f"{head}{number:0{len(first)}d}{rest}"
        for number in range(int(first), int(last) + 1)
        for rest in braces(tail)
    ]


def _file(path: Path) -> Source:
    suffix = path.suffix.lower()
    if suffix in (".tar", ".parquet"):
        return _shards([path], str(path))
    if suffix in (".csv", ".tsv", ".jsonl", ".json"):
        from oculex.data.sources.captions import CaptionedImages

        return CaptionedImages.of(path)
    raise UserError(f"{path} is a {suffix or 'nameless'} file; give {UNDERSTOOD}")


def _folder(path: Path) -> Source:
    from oculex.data.sources.captions import CaptionedImages, captions_file
    from oculex.data.sources.folders import ImageFolder

    if (path / "dataset_info.json").exists() or (path / "state.json").exists():
        from oculex.data.sources.hub import HubDataset

        return HubDataset(path)
    for suffix in ("tar", "parquet"):
        shards = sorted(path.glob(f"*.{suffix}"))
        if shards:
            return _shards(shards, str(path))
    listing = captions_file(path)
    return CaptionedImages.of(listing) if listing is not None else ImageFolder.of(path)


def _shards(paths: list[Path], name: str) -> Source:
    kinds = {path.suffix.lower() for path in paths}
    if kinds == {".tar"}:
        from oculex.data.sources.tars import TarShards

        return TarShards(paths, name)
    if kinds == {".parquet"}:
        from oculex.data.sources.parquet import ParquetShards

        return ParquetShards(paths, name)
    raise UserError(
        f"{name} matches files of the kinds {', '.join(sorted(kinds))}; give shards of one kind, tar or Parquet"
    )
