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
FEW_PATCHES: Mapping[str, Any] = {**VIT, "patch": 16, "width": 128, "layers": (3,), "heads": 2}
"""A smaller one of large patches, which ``FEW_CONCEPTS`` teach enough in a minute."""
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
READS: Mapping[str, Any] = {
    **FEW_PATCHES, **LANGUAGE, "vision_foundation": "clip:tiny_patches", "language_foundation": "gpt:tiny_reader",
    "language_width": 64, "language_layers": 2, "context": 128, "vocabulary": 512, "tokenizer": "from:gpt:tiny_reader",
}  # fmt: skip
"""A smaller language model of ``FEW_CONCEPTS``' captions, and such patches for it to see by."""
ONE_OBJECT = "world:most=1"
"""Scenes of one object, so that one of the 192 classes is right."""
FEW_CONCEPTS = f"{ONE_OBJECT},part=1/9"
"""Of 24 classes alone, six shapes in four colours."""
SMALL_DUAL: Mapping[str, Any] = {
    **DUAL,
    "image_size": 32,
    "text_width": 64,
    "text_layers": 2,
    "embedding": 64,
}
"""A quarter of the pixels and a smaller text tower: what ``TWO_OBJECTS`` teach in a minute."""
_TWO = "world:most=2,size=32,style=placed,part=1/12"
TWO_OBJECTS = f"{_TWO},scenes=8000,held_keys=alternatives"
"""Scenes of one or two objects of sixteen classes, whose captions tell how they stand, from the one or the other; the
held-out ones ask whether that was read."""
HOW_THEY_STAND = f"{_TWO},scenes=1000,captions=1,keys=alternatives,split=test"
"""A thousand held-out ones with a caption each, for claims."""
PLAIN: Mapping[str, Any] = {"image_size": 32, "patch": 4, "width": 64, "layers": (4,), "heads": 2}
"""A plain vision transformer: equal in what is trained without labels and in what is tuned from it, and so small that
minutes are thousands of updates."""
FEW_CLASSES = f"{FEW_CONCEPTS},size=48"
"""The same at 48 pixels."""
