"""Folders of images: one folder per class, texts beside the images, or images alone."""

from __future__ import annotations

from pathlib import Path

from oculex.contracts import Sample, UserError
from oculex.data.sources.files import IMAGES, digest, read_inside


class ImageFolder:
    """Images below a folder, in the order of their names."""

    def __init__(
        self, root: Path, names: list[str], classes: tuple[str, ...], labels: list[int], texts: bool
    ) -> None:
        self.name, self.root, self.names = str(root), root, names
        self.classes, self.labels, self.texts = classes, labels, texts

    @classmethod
    def of(cls, root: Path) -> ImageFolder:
        """Labels where every image lies in a folder of its class; captions where a .txt stands beside it."""
        paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGES)
        if not paths:
            raise UserError(f"{root} has no images; it holds {_holds(root)}")
        names = [str(path.relative_to(root)) for path in paths]
        texts = paths[0].with_suffix(".txt").is_file()
        folders = [Path(name).parts[0] if len(Path(name).parts) == 2 else "" for name in names]
        labelled = all(folders) and len(set(folders)) > 1 and not texts
        classes = tuple(sorted(set(folders))) if labelled else ()
        labels = [classes.index(folder) for folder in folders] if labelled else []
        return cls(root, names, tuple(name.replace("_", " ") for name in classes), labels, texts)

    def fingerprint(self) -> str:
        return digest([str(self.root), *self.names])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int, /) -> Sample:
        name = self.names[index]
        sample: dict[str, object] = {"id": name, "image": read_inside(self.root, name)}
        if self.labels:
            sample["label"] = self.labels[index]
        if self.texts:
            text = (
                read_inside(self.root, str(Path(name).with_suffix(".txt"))).decode("utf-8", "replace").strip()
            )
            sample["captions"] = [line for line in text.splitlines() if line.strip()]
        return sample


def _holds(root: Path) -> str:
    kinds = sorted({path.suffix or path.name for path in root.iterdir()})
    return ", ".join(kinds[:6]) or "nothing"
