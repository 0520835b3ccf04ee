"""A Hugging Face dataset on disk, as ``Dataset.save_to_disk`` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oculex.contracts import BadSample, Sample, UserError
from oculex.data.sources.captions import CAPTION_COLUMNS, IMAGE_COLUMNS


class HubDataset:
    """Images come as the bytes they were stored in; nothing is decoded here."""

    def __init__(self, path: Path) -> None:
        try:
            import datasets
        except ImportError as error:
            raise UserError(
                f"{path} is a Hugging Face dataset; pip install 'oculex[datasets]' to read it"
            ) from error
        try:
            data = datasets.load_from_disk(str(path))
        except Exception as error:  # the library raises many kinds
            raise UserError(f"cannot read {path}: {str(error)[:100]}") from error
        if isinstance(data, datasets.DatasetDict):
            raise UserError(
                f"{path} has the splits {', '.join(data)}; give one of them, such as {path}/{next(iter(data))}"
            )
        columns = {column.lower(): column for column in data.column_names}
        self.image = next((columns[c] for c in IMAGE_COLUMNS if c in columns), None)
        self.caption = next((columns[c] for c in CAPTION_COLUMNS if c in columns), None)
        self.label = columns.get("label")
        if self.image is None:
            raise UserError(
                f"{path} has columns {', '.join(data.column_names)}; one must hold images and be called image"
            )
        if isinstance(data.features[self.image], datasets.Image):
            data = data.cast_column(self.image, datasets.Image(decode=False))
        names = getattr(data.features.get(self.label), "names", None) if self.label else None
        self.name, self.data, self.classes = str(path), data, tuple(names or ())

    def fingerprint(self) -> str:
        return self.data._fingerprint

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int, /) -> Sample:
        row, key = self.data[index], f"{Path(self.name).name}#{index}"
        image = row[self.image]
        content = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(content, bytes):
            raise BadSample(key, "its image bytes are not in the dataset")
        sample: dict[str, Any] = {"id": key, "image": content}
        if self.caption is not None and row[self.caption]:
            texts = row[self.caption]
            sample["captions"] = [str(text) for text in texts] if isinstance(texts, list) else [str(texts)]
        if self.label is not None and isinstance(row[self.label], int):
            sample["label"] = row[self.label]
        return sample
