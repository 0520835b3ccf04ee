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
MAP: Mapping[str, Any] = {**IMAGE, "layers": (1, 1, 1), "heads": 4}
"""A residual one of three stages, whose map of 4 by 4 tells what is where; a small transformer's patches tell of the
whole image alike."""
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
SHOWN: Mapping[str, Any] = {
    "template": "{{ bos_token }}{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}",
    "before_image": "", "after_image": "", "instructions": ("",),
}  # fmt: skip
"""A conversation with that language model, which goes on with what it was told and knows no instructions: an image, or
an image and a question, and what is said of it."""
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
PLAIN: Mapping[str, Any] = {
    "image_size": 32, "patch": 4, "width": 64, "layers": (4,), "heads": 2, "initial": "scaled",
}  # fmt: skip
"""A plain vision transformer: equal in what is trained without labels and in what is tuned from it, and so small that
minutes are thousands of updates. Weights are drawn for this width: a classifier of 240 images then learns 53 %, and at
deviation 0.02 it learns 39 %."""
FEW_CLASSES = f"{FEW_CONCEPTS},size=48"
"""The same at 48 pixels."""
FEW_WITH_BOXES = "world:most=2,size=32,style=placed,part=1/9,scenes=8000,keys=boxes+box_labels"
"""Small scenes of one or two objects of ``FEW_CONCEPTS``' classes and where they are: what a judge of drawings learns."""
SWIN: Mapping[str, Any] = {
    "image_tower": "swin", "image_size": 48, "patch": 4, "width": 32, "layers": (1, 2, 1), "heads": 2,
}  # fmt: skip
"""A Swin of three stages, which is what boxes are found on."""
_PAIR = "world:most=2,size=48,style=placed,part=1/8"
PAIRS = f"{_PAIR},scenes=8000,held_keys=alternatives"
"""Scenes of one or two objects of 24 classes: few enough to be learnt in minutes, many enough that the captions of a
small batch seldom fit another of its images, so that a pair which looks as if it belonged together mostly does not."""
HELD_PAIRS = f"{_PAIR},scenes=300,keys=alternatives,split=test"
"""Held-out ones, for claims."""
_BOXED = "world:most=3,size=48,part=1/8,captions=1,keys=boxes+box_labels+grounded"
BOXES = f"{_BOXED},scenes=4000"
"""Scenes of up to three objects of these classes, with their boxes and texts whose phrases mean them."""
FEW_BOXES = f"{_BOXED},scenes=200"
HELD_BOXES = f"{_BOXED},scenes=200,split=test"
