"""Sizes that the embedded world's 64-pixel scenes train in minutes on two CPU cores: what presets named tiny share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

IMAGE: Mapping[str, Any] = {
    "image_tower": "resnet", "image_size": 64, "width": 16, "layers": (1, 1, 1, 1), "heads": 8, "activation": "gelu",
}  # fmt: skip
"""An image tower of CLIP's: a residual one, which so few images teach more than a transformer."""
VIT: Mapping[str, Any] = {**IMAGE, "image_tower": "vit", "patch": 8, "width": 192, "layers": (4,), "heads": 3}
"""A vision transformer, for systems that need one."""
TEXT: Mapping[str, Any] = {"text_width": 128, "text_layers": 3, "text_heads": 2}
"""A text tower, or a decoder."""
WORDS: Mapping[str, Any] = {"context": 32, "vocabulary": 2048}
DUAL: Mapping[str, Any] = {**IMAGE, **TEXT, **WORDS, "embedding": 128}
LANGUAGE: Mapping[str, Any] = {
    "vision_foundation": "clip:tiny_vit", "language_foundation": "gpt:tiny_llama", "language": "llama",
    "language_width": 128, "language_layers": 4, "language_heads": 4, "context": 256, "vocabulary": 2048,
    "tokenizer": "from:gpt:tiny_llama",
}  # fmt: skip
"""A language model of the world's captions and, with ``VIT``, an image tower for it to see by: both trained once."""
ONE_OBJECT = "world:most=1"
"""Scenes of one object, so that one of the 192 classes is right."""
TWO_OBJECTS = "world:most=2,held_keys=alternatives"
"""Scenes of one or two objects, whose captions tell how they stand; the held-out ones ask whether that was read."""
