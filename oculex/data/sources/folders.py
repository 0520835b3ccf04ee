"""Folders of images: one folder per class, texts beside the images, or images alone."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from oculex.contracts import BadSample, Sample, UserError, printable
from oculex.data.sources.files import IMAGES, decoded, digest, is_file, read_inside, some, stamp, texts


class ImageFolder:
    """Images below a folder, in the order of their names."""

    def __init__(
        self, root: Path, names: list[str], classes: tuple[str, ...], labels: list[int], texts: bool
    ) -> None:
        self.name, self.root, self.names = str(root), root, names
        self.classes, self.labels, self.texts = classes, labels, texts

    @classmethod
    def of(cls, root: Path) -> ImageFolder:
        """Labels where every image lies in a folder of its class; captions where a .txt stands beside one."""
        paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGES)
        if not paths:
            raise UserError(f"{root} has no images; it holds {_holds(root)}")
        names = [str(path.relative_to(root)) for path in paths]
        texts = any(is_file(path.with_suffix(".txt")) for path in paths[:100])
        folders = [Path(name).parts[0] if len(Path(name).parts) == 2 else "" for name in names]
        labelled = all(folders) and len(set(folders)) > 1 and not texts
        classes = sorted(set(folders)) if labelled else []
        number = {folder: index for index, folder in enumerate(classes)}
        labels = [number[folder] for folder in folders] if labelled else []
        return cls(root, names, tuple(printable(name.replace("_", " ")) for name in classes), labels, texts)

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        names = [*self.names, *(self._beside(name) for name in self.names if self.texts)]
        return digest([str(self.root), *((name, *stamp(self.root / name)[1:]) for name in names)])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int, /) -> Sample:
        name = self.names[index]
        sample: dict[str, object] = {"id": printable(name), "image": read_inside(self.root, name)}
        if self.labels:
            sample["label"] = self.labels[index]
        if self.texts:
            sample["captions"] = self._captions(name)
        return sample

    def _captions(self, name: str) -> list[str]:
        """Lines of the text file beside an image."""
        try:
            content = read_inside(self.root, self._beside(name), 1 << 20)
        except BadSample as error:
            raise BadSample(name, f"its text file {error.reason}") from error
        found = texts(decoded(content, name).splitlines(), name)
        if not found:
            raise BadSample(name, "its text file is blank")
        return found

    @staticmethod
    def _beside(name: str) -> str:
        return str(Path(name).with_suffix(".txt"))


def _holds(root: Path) -> str:
    kinds = sorted({path.suffix or path.name for path in root.iterdir()})
    return some(kinds) or "nothing"
