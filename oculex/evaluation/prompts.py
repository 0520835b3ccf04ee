"""Prompt ensembles for zero-shot classification, frozen: a change of wording is a new name, never an edit.

``{}`` stands for the class name. The first prompt of a list is the one that counts as the single prompt.
"""

from __future__ import annotations

from oculex.contracts import UserError

PHOTO = (
    "a photo of a {}.",
    "a close-up photo of a {}.",
    "a photo of one {}.",
    "a photo of several {}.",
    "a blurry photo of a {}.",
    "a dark photo of a {}.",
    "a bright photo of a {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a photo that shows part of a {}.",
    "a picture of the {}.",
    "an image with a {} in it.",
)
"""Natural photographs."""

WORLD = (
    "a photo of a {}.",
    "a {}.",
    "a {} on the ground.",
    "a picture of a {}.",
    "a scene with a {}.",
    "there is a {}.",
    "a small {}.",
    "a large {}.",
    "one {} seen from the side.",
    "a {} and nothing else.",
    "an image of the {}.",
    "a {} in the middle of the picture.",
)
"""Rendered scenes of the embedded world."""


def _openai_imagenet() -> tuple[str, ...]:
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


PROMPTS = {
    "photo": lambda: PHOTO,
    "single": lambda: PHOTO[:1],
    "world": lambda: WORLD,
    "openai_imagenet": _openai_imagenet,
}
"""``openai_imagenet``: the 80 prompts of CLIP's ImageNet figures, from open_clip."""


def prompts(name: str) -> tuple[str, ...]:
    if name not in PROMPTS:
        raise UserError(f"prompts {name!r}: there are {', '.join(PROMPTS)}")
    return PROMPTS[name]()
