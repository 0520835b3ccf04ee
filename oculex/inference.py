"""What a run's system says, does and draws when it is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oculex.contracts import Acts, Answers, BadSample, Batch, ContinuesText, Draws, GroundsPhrases, UserError
from oculex.data.collate import collate, to
from oculex.data.sources.files import is_file
from oculex.nn.language.generate import Choice, choosing
from oculex.runs import load, resolve
from oculex.training import reopen
from oculex.training.folder import RunFolder

_TOGETHER = 32
"""Images that are looked at in one batch."""


def generate(
    run: Path | str,
    images: Sequence[Path | str] = (),
    prompt: str = "",
    most: int = 64,
    device: str = "auto",
    temperature: float = 0.0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """[{"image", "prompt", "text"}]: what a run's system says of each image, or, without images, to the prompt alone.

    Without a prompt an image is described. A system that grounds phrases says where the prompt's is. ``most``: tokens of
    a text. ``temperature`` 0 takes the likeliest token each time, so equal calls give equal texts; any other draws by
    ``seed``. Raises UserError where the system does not write, where there is neither image nor prompt, for a file that
    is no image, and for a prompt that does not fit.
    """
    if most < 1:
        raise UserError(f"a text of {most} tokens says nothing; give --most 1 or more")
    if temperature < 0:
        raise UserError(f"a temperature of {temperature} means nothing; give --temperature 0 or more")
    system: Any = load(run, device)
    name = reopen.load_recipe(RunFolder.open(Path(run))).system
    views, say = asked(system, name, [(str(path), _image(Path(path))) for path in images], prompt)
    texts, where = list[str](), torch.device(resolve(device))
    by = Choice(temperature, torch.Generator(where).manual_seed(seed))
    with torch.inference_mode(), choosing(by):
        for start in range(0, len(views), _TOGETHER):
            texts += say(to(collate(views[start : start + _TOGETHER]), where), most)
    shown: list[str | None] = [str(path) for path in images] or [None]
    return [{"image": i, "prompt": prompt, "text": text} for i, text in zip(shown, texts, strict=True)]


def asked(
    system: Any, name: str, images: Sequence[tuple[str, bytes]], prompt: str
) -> tuple[list[dict[str, Any]], Callable[[Batch, int], list[str]]]:
    """Views of the ``prompt`` about each of the images, (id, file) each, or alone, and what answers a batch of them.

    ``name``: of the system, for errors; UserError as ``generate`` raises it.
    """
    if not images and not prompt.strip():
        raise UserError("there is nothing to write about; give an image, a prompt or both")
    question = {"question": prompt} if prompt.strip() else {}
    if isinstance(system, Answers):
        samples: list[dict[str, Any]] = [{"id": key, "image": image, **question} for key, image in images]
        samples, say = samples or [{"id": "the prompt", **question}], system.answer
    elif isinstance(system, GroundsPhrases):
        if not images or not question:
            raise UserError(f"{name} finds what a phrase means; give an image and the phrase as the prompt")
        phrase = {"text": prompt, "spans": [[[0, len(prompt)]]], "boxes": [[]]}
        if not system.reads(phrase):
            raise UserError(f"the phrase {prompt[:60]!r} is longer than {name} reads; give a shorter one")
        samples = [{"id": key, "image": image, "grounded": [phrase]} for key, image in images]
        say = partial(_places, system)
    elif not isinstance(system, ContinuesText):
        raise UserError(f"{name} writes no text; `oculex show {name}` tells what it does")
    elif images:
        raise UserError(f"{name} goes on with a text and sees nothing; leave the image out and give a prompt")
    else:
        samples, say = [{"id": "the prompt", "caption": prompt}], system.continue_text
    try:
        return [system.view(sample, None) for sample in samples], say  # type: ignore[attr-defined]
    except BadSample as bad:
        raise UserError(str(bad)) from None


def _places(system: GroundsPhrases, batch: Batch, most: int) -> list[str]:
    """Of each image the best place of its one phrase, in shares of the picture's width and height, as a text."""
    best = system.ground(batch, 1)[:, 0, 0].tolist()
    return [
        "x {0:.3f} to {2:.3f}, y {1:.3f} to {3:.3f} of the picture, score {4:.3f}".format(*each)
        for each in best
    ]


def act(
    run: Path | str, instruction: str, images: Sequence[Path | str] = (), device: str = "auto"
) -> list[dict[str, Any]]:
    """[{"image", "instruction", "action"}]: what a run's robot does next where it sees each image, or nothing.

    Raises UserError where the system does not act, nothing is told, or a file is no image.
    """
    system: Any = load(run, device)
    if not isinstance(system, Acts):
        name = reopen.load_recipe(RunFolder.open(Path(run))).system
        raise UserError(f"{name} does not act; `oculex show {name}` tells what it does")
    if not instruction.strip():
        raise UserError("what is the robot to do? give --instruction TEXT")
    told = {"instruction": instruction}
    samples = [{"id": str(path), "image": _image(Path(path)), **told} for path in images]
    try:
        views = [system.view(sample, None) for sample in samples or [{"id": "the instruction", **told}]]  # type: ignore[attr-defined]
    except BadSample as bad:
        raise UserError(str(bad)) from None
    with torch.inference_mode():
        actions = system.act(to(collate(views), torch.device(resolve(device)))).tolist()
    shown: list[str | None] = [str(path) for path in images] or [None]
    return [
        {"image": i, "instruction": instruction, "action": a} for i, a in zip(shown, actions, strict=True)
    ]


def draw(
    run: Path | str,
    text: str,
    out: Path | str,
    seed: int = 0,
    device: str = "auto",
    guidance: float | None = None,
) -> Path:
    """A run's picture of a text, written to ``out``, a PNG, JPEG or WebP by its name; equal seeds give equal pictures.

    Raises UserError where ``painted`` does or the file cannot be written.
    """
    from PIL import Image

    out = Path(out)
    if out.suffix.lower() not in _PICTURES:
        raise UserError(f"{out} does not say what kind of picture it is; end it in {', '.join(_PICTURES)}")
    name = reopen.load_recipe(RunFolder.open(Path(run))).system
    picture = painted(load(run, device), name, text, seed, guidance)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def painted(system: Any, name: str, text: str, seed: int = 0, guidance: float | None = None) -> np.ndarray:
    """A system's picture of a text, uint8 [H, W, 3]. ``guidance``: how closely it keeps to the text; None: as configured.

    ``name``: of the system, for errors. Raises UserError where it does not draw, has no guidance, or the text is empty.
    """
    if not text.strip():
        raise UserError("there is nothing to draw; say what")
    if not isinstance(system, Draws):
        raise UserError(f"{name} draws no pictures; `oculex show {name}` tells what it does")
    shown: Any = system
    config, where = shown.config, next(shown.parameters()).device
    if guidance is not None and not hasattr(config, "guidance"):
        raise UserError(f"{name} draws without guidance; leave it out")
    batch = to(collate([shown.view({"id": "the text", "caption": text}, None)]), where)
    if guidance is not None:
        shown.config = dataclasses.replace(config, guidance=guidance)
    try:
        with torch.inference_mode():
            (picture,) = shown.draw(batch, torch.Generator(where).manual_seed(seed))
    finally:
        shown.config = config
    return picture.permute(1, 2, 0).cpu().numpy()


_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def _image(path: Path) -> bytes:
    if not is_file(path):
        raise UserError(f"{path} is not a file; give pictures, such as photo.jpg")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
