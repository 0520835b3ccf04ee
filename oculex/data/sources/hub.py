"""A Hugging Face dataset on disk, as ``Dataset.save_to_disk`` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oculex.contracts import BadSample, Sample, UserError, printable
from oculex.data.sources.captions import CAPTION_COLUMNS, IMAGE_COLUMNS
from oculex.data.sources.files import digest, label, read_inside, some, stamp, texts


class HubDataset:
    """Images come as the bytes they were stored in; nothing is decoded here."""

    def __init__(self, path: Path) -> None:
        try:
            import datasets
        except ImportError as error:
            raise UserError(
                f"{path} is a Hugging Face dataset; pip install 'oculex[datasets]' to read it"
            ) from error
        self.name, self.path = str(path), path
        try:
            data: Any = datasets.load_from_disk(str(path))
            if isinstance(data, datasets.DatasetDict) and len(data) == 1:
                self.path, data = path / next(iter(data)), next(iter(data.values()))
            if isinstance(data, datasets.DatasetDict):
                raise UserError(
                    f"{path} has the splits {some(data)}; give one of them, such as {path / next(iter(data), 'train')}"
                )
            self._choose(data, datasets)
        except UserError:
            raise
        except Exception as error:  # the library raises many kinds
            raise UserError(f"cannot read {path}: {str(error)[:100]}") from error

    def _choose(self, data: Any, datasets: Any) -> None:
        """Only the columns that are used, undecoded, and checked: a torn Arrow file would read beyond its memory."""
        columns = {column.lower(): column for column in data.column_names}
        self.image = next((columns[c] for c in IMAGE_COLUMNS if c in columns), None)
        self.caption = next((columns[c] for c in CAPTION_COLUMNS if c in columns), None)
        self.label = columns.get("label")
        if self.image is None:
            raise UserError(
                f"{self.name} has columns {some(data.column_names)}; one must hold images and be called image"
            )
        if not len(data):
            raise UserError(f"{self.name} has no rows")
        for file in data.cache_files:
            if not Path(file["filename"]).resolve().is_relative_to(self.path.resolve()):
                raise UserError(
                    f"{self.name} names the data file {file['filename']!r} outside of it; it is refused"
                )
        data.data.table.validate(full=True)
        names = getattr(data.features.get(self.label), "names", None) if self.label else None
        data.reset_format()
        data = data.select_columns([c for c in (self.image, self.caption, self.label) if c is not None])
        if isinstance(data.features[self.image], datasets.Image):
            data = data.cast_column(self.image, datasets.Image(decode=False))
        self.data, self.classes = data, tuple(printable(str(name), 200) for name in names or ())

    def fingerprint(self) -> str:
        files = [self.path / "state.json", *(Path(file["filename"]) for file in self.data.cache_files)]
        return digest([stamp(path) for path in files])

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int, /) -> Sample:
        key = f"{Path(self.name).name}#{index}"
        try:
            row = self.data[index]
        except Exception as error:  # the library raises many kinds
            raise BadSample(key, f"cannot be read: {str(error)[:100]}") from error
        image = row[self.image]
        if isinstance(image, dict):
            image = image.get("bytes") or image.get("path")
        if isinstance(image, str):
            image = read_inside(self.path, image)
        if not isinstance(image, bytes):
            raise BadSample(key, "its image bytes are not in the dataset")
        sample: dict[str, Any] = {"id": printable(key), "image": image}
        if self.caption is not None and (captions := texts(row[self.caption], key)):
            sample["captions"] = captions
        return sample | (label(row[self.label], self.classes, key) if self.label is not None else {})
