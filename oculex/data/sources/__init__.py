"""Sources: what users bring, opened by what is there."""

from __future__ import annotations

import glob
from pathlib import Path

from oculex.contracts import Source, UserError
from oculex.data.sources.files import is_file, some

UNDERSTOOD = (
    "a folder with a captions CSV/TSV/JSON/JSONL or with class folders, Parquet, webdataset tars, a Hugging Face "
    "dataset on disk, a text file with one text a line, boxes in COCO's or VOC's files, the JSON files of ARO, "
    "SugarCrepe, LLaVA, POPE, VQA or P9D, scene graphs of Visual Genome, GQA, CLEVR or ProVision, LeRobot's episodes, "
    "world, or table"
)


def open_source(spec: str) -> Source:
    """The source of a path, a glob of tar or Parquet shards, ``world[:key=value,...]`` or ``table[:key=value,...]``,
    or what a system's pipeline makes of another source, ``made:SYSTEM[,option=value,...]:SOURCE``.

    Raises UserError that says what was found where nothing is understood.
    """
    if spec.startswith("made:"):
        from oculex.data.sources.made import Made

        return Made.of(spec, open_source)
    if spec == "world" or spec.startswith("world:"):
        from oculex.data.sources.embedded import EmbeddedWorld

        return EmbeddedWorld.of(spec)
    if spec == "table" or spec.startswith("table:"):
        from oculex.data.sources.table import TableEpisodes

        return TableEpisodes.of(spec)
    path = Path(spec).expanduser()
    listing, industry = _of_products(spec)
    if industry and not is_file(path):
        from oculex.data.sources.products import products

        return products(listing, industry)
    try:
        if path.is_file():
            return _file(path)
        if path.is_dir():
            return _folder(path)
        shards = [Path(found) for each in braces(str(path)) for found in sorted(glob.glob(each))]
    except OSError as error:
        raise UserError(f"cannot read {spec}: {error.strerror}") from error
    if not shards:
        raise UserError(f"{spec} does not exist; give {UNDERSTOOD}")
    return _shards(shards, spec)


def _of_products(spec: str) -> tuple[Path, str]:
    """(file, industry) of "train.json#INDUSTRY"; no industry where it is none."""
    listing, _, industry = spec.rpartition("#")
    return Path(listing).expanduser(), industry if listing.lower().endswith(".json") else ""


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
    if suffix == ".json":
        from oculex.data.sources.alternatives import CompositionPairs, holds_alternatives

        if holds_alternatives(path):
            return CompositionPairs(str(path), [path])
    if suffix in (".json", ".jsonl"):
        from oculex.data.sources.conversations import TalkedAbout, kind_of

        if kind_of(path):
            return TalkedAbout(str(path), [path])
    if suffix == ".json":
        from oculex.data.sources.graphs import DrawnGraphs
        from oculex.data.sources.graphs import kind_of as kind_of_graphs

        if kind_of_graphs(path):
            return DrawnGraphs(str(path), [path])
    if suffix == ".json":
        from oculex.data.sources.boxes import BoxedImages, holds_boxes

        if holds_boxes(path):
            return BoxedImages.of(path)
    if suffix == ".json":
        from oculex.data.sources.products import holds_products, products

        if holds_products(path):
            return products(path)
    if suffix in (".csv", ".tsv", ".jsonl", ".json"):
        from oculex.data.sources.captions import CaptionedImages

        return CaptionedImages.of(path)
    if suffix in (".gz", ".tgz", ".zst", ".bz2", ".xz", ".zip"):
        raise UserError(
            f"{path} is compressed, and data is read at random places; unpack it once, then give {UNDERSTOOD}"
        )
    if suffix in (".txt", ".text"):
        from oculex.data.sources.lines import TextLines

        return TextLines(path)
    raise UserError(f"{path} is a {suffix or 'nameless'} file; give {UNDERSTOOD}")


def _folder(path: Path) -> Source:
    from oculex.data.sources.alternatives import CompositionPairs, holds_alternatives
    from oculex.data.sources.boxes import BoxedImages, is_voc
    from oculex.data.sources.captions import CaptionedImages, captions_file
    from oculex.data.sources.conversations import TalkedAbout, kind_of
    from oculex.data.sources.folders import ImageFolder
    from oculex.data.sources.graphs import DrawnGraphs
    from oculex.data.sources.graphs import kind_of as kind_of_graphs
    from oculex.data.sources.lerobot import LeRobotEpisodes, is_lerobot

    if is_lerobot(path):
        return LeRobotEpisodes(path)
    if any(is_file(path / name) for name in ("dataset_info.json", "state.json", "dataset_dict.json")):
        from oculex.data.sources.hub import HubDataset

        return HubDataset(path)
    if is_voc(path):
        return BoxedImages.of_voc(path)
    for suffix in ("tar", "parquet"):
        shards = [shard for shard in sorted(path.glob(f"*.{suffix}")) if is_file(shard)]
        if shards:
            return _shards(shards, str(path))
    if packed := [
        each.name for each in sorted(path.iterdir()) if each.name.endswith((".tar.gz", ".tgz", ".tar.zst"))
    ]:
        raise UserError(
            f"{path} has compressed tars ({some(packed)}), and shards are read at random places; unpack "
            f"them once, such as with gzip -d {path}/*.tar.gz"
        )
    tables = sorted(each for each in path.glob("*.json") if is_file(each))
    if tables and all(map(holds_alternatives, tables)):
        return CompositionPairs(str(path), tables)
    asked = [each for each in tables if kind_of(each)]
    if asked and all("annotations" in each.name for each in tables if each not in asked):
        return TalkedAbout(str(path), asked)
    drawn = [each for each in tables if kind_of_graphs(each)]
    if drawn:
        return DrawnGraphs(str(path), drawn)
    listing = captions_file(path)
    if listing is None:
        return ImageFolder.of(path)
    source = CaptionedImages.of(listing)
    source.name = str(path)  # as the user named it
    return source


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
