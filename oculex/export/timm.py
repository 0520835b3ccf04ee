"""To timm: the image tower as one of its models, with the projection as its classifier.

There is no way back. A timm model has no text tower, so it is no dual encoder; as the image tower of one it is named by
``image_tower=NAME``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from oculex.contracts import UserError
from oculex.export.parity import Parity, check, inputs
from oculex.nn.dual_encoder import DualEncoder
from oculex.nn.published import names
from oculex.nn.towers import TOWERS

_ARCHITECTURE = "vit_base_patch32_clip_224"
"""timm's class with CLIP's norms and biases; every size is an argument."""


@torch.no_grad()
def export(system: DualEncoder, tokenizer: Any, out: Path) -> list[Parity]:
    """Writes a folder that ``timm.create_model("local-dir:OUT", pretrained=True)`` opens.

    It gives the image embedding before the division by its norm; for a tower that is timm's own, its features before
    the projection. Raises UserError for CLIP's ResNet, whose sizes timm's class does not take.
    """
    c = system.config
    if c.image_tower == "vit":
        described, state = _vit(system)
    elif c.image_tower not in TOWERS:
        described, state = _own(system)
    else:
        raise UserError(
            f"image_tower={c.image_tower!r} has no counterpart in timm; vit and timm's own models have"
        )
    out.mkdir(parents=True, exist_ok=True)
    save_file(state, out / "model.safetensors")
    crop = {
        "input_size": [3, c.image_size, c.image_size],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    pretrained = {**crop, "mean": list(c.mean), "std": list(c.std), "num_classes": described["num_classes"]}
    described["pretrained_cfg"] = {**pretrained, "first_conv": None, "classifier": "head"}
    (out / "config.json").write_text(json.dumps(described, indent=2), encoding="utf-8")
    peer = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    images, _ = inputs(c.image_size, tokenizer, c.context)
    features = system.represent_image({"image": images})
    mine = system.image_projection(features) if c.image_tower == "vit" else features
    pixels = (images.float() - system.mean.cpu()) / system.std.cpu()
    return [
        check("image embedding" if c.image_tower == "vit" else "image features", mine.float(), peer(pixels))
    ]


def _vit(system: DualEncoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    c = system.config
    sizes = {"img_size": c.image_size, "patch_size": c.patch, "embed_dim": c.width, "depth": sum(c.layers)}
    arguments = {**sizes, "num_heads": c.heads, "act_layer": c.activation}
    own = {k: v for k, v in system.state_dict().items() if k.startswith(("image.", "image_projection."))}
    state = names.theirs(own, names.TIMM_VIT) | {"head.bias": torch.zeros(c.embedding)}
    described = {"architecture": _ARCHITECTURE, "num_classes": c.embedding, "num_features": c.width}
    return {**described, "global_pool": "token", "model_args": arguments}, state


def _own(system: DualEncoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    c, model = system.config, system.image.model
    arguments = {"img_size": c.image_size} if hasattr(model, "pos_embed") else {}
    described = {"architecture": c.image_tower, "num_classes": 0, "num_features": system.image.width}
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    return {**described, "model_args": arguments}, state
