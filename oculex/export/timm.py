"""To timm: the image tower as one of its models, with what the system reads from it as the classifier.

There is no way back. A timm model has no text tower, so it is no dual encoder; as the image tower of one it is named by
``image_tower=NAME``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from oculex.contracts import Assets, Classifies, UserError
from oculex.export.parity import Parity, check, images
from oculex.nn.image.backbones import tinyvit
from oculex.nn.image.image_encoder import ImageEncoder
from oculex.nn.image.towers import TOWERS
from oculex.nn.published import names
from oculex.nn.published.tinyvit import TIMM as TIMM_TINYVIT


@dataclass(frozen=True)
class Counterpart:
    """timm's model of a system's tower."""

    architecture: str
    """A name of its class, which takes every size as an argument."""
    arguments: dict[str, Any]
    weights: names.State
    classifier: str
    """Where its linear layer is."""


@torch.no_grad()
def export(system: ImageEncoder, assets: Assets, out: Path) -> list[Parity]:
    """Writes a folder that ``timm.create_model("local-dir:OUT", pretrained=True)`` opens.

    It gives a classifier's logits, a dual encoder's image embedding before the division by its norm, and the pooled
    features of a system that has neither or whose tower is timm's own. Raises UserError for a tower that timm has no
    class for, such as CLIP's ResNet, whose sizes its class does not take.
    """
    c = system.config
    ours = c.image_tower in TOWERS
    if ours and c.image_tower not in COUNTERPARTS:
        raise UserError(
            f"image_tower={c.image_tower!r} has no counterpart in timm; {', '.join(COUNTERPARTS)} and timm's own models "
            "have"
        )
    peer = COUNTERPARTS[c.image_tower](system) if ours else _own(system)
    readout = system.readout() if ours else None
    _write(out, system, peer, readout, assets.classes() if isinstance(system, Classifies) else ())
    opened = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    seen = images(c.image_size)
    features = system.represent_image({"image": seen})
    mine = features if readout is None else readout(features)
    theirs = opened((seen.float() - system.mean.cpu()) / system.std.cpu())
    return [check("image features" if readout is None else "image output", mine.float(), theirs)]


def _write(
    out: Path, system: ImageEncoder, peer: Counterpart, readout: nn.Linear | None, classes: Sequence[str]
) -> None:
    c, outputs, weights = system.config, 0, dict(peer.weights)
    if readout is not None:
        outputs, bias = readout.out_features, readout.bias
        weights[f"{peer.classifier}.weight"] = readout.weight
        weights[f"{peer.classifier}.bias"] = torch.zeros(outputs) if bias is None else bias
    pixels = {
        "input_size": [3, c.image_size, c.image_size],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(c.mean),
        "std": list(c.std),
    }
    described = {
        "architecture": peer.architecture,
        "num_classes": outputs,
        "num_features": system.tower.width,
        "model_args": peer.arguments,
        "pretrained_cfg": {
            **pixels,
            "num_classes": outputs,
            "first_conv": None,
            "classifier": peer.classifier,
        },
    }
    if classes and readout is not None:
        described["label_names"] = list(classes)
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(described, indent=2, ensure_ascii=False), encoding="utf-8")


# ---------------------------------------------------------------------------------------------- towers


def _transformer(architecture: str, system: ImageEncoder, **arguments: Any) -> Counterpart:
    c = system.config
    sizes = {"img_size": c.image_size, "patch_size": c.patch, "embed_dim": c.width, "depth": sum(c.layers)}
    sizes |= {"num_heads": c.heads, "act_layer": c.activation}
    weights = {f"image.{name}": value for name, value in system.tower.state_dict().items()}
    return Counterpart(architecture, sizes | arguments, names.theirs(weights, names.TIMM_VIT), "head")


def _clip(system: ImageEncoder) -> Counterpart:
    return _transformer("vit_base_patch32_clip_224", system)


def _plain(system: ImageEncoder) -> Counterpart:
    """Pooled after the last norm, whatever is pooled; timm would norm a mean after it was taken."""
    pool = {"class": "token", "mean": "avg"}[getattr(system.config, "pool", "class")]
    return _transformer("vit_base_patch16_224", system, global_pool=pool, fc_norm=False)


def _tinyvit(system: ImageEncoder) -> Counterpart:
    size: tinyvit.Size = system.tower.size
    arguments = {
        "embed_dims": list(size.channels),
        "depths": list(size.depths),
        "num_heads": [max(1, width // tinyvit.HEAD) for width in size.channels],
        "window_sizes": [size.windows[0], *size.windows],  # the first stage has no windows
    }
    weights = names.theirs(system.tower.state_dict(), TIMM_TINYVIT)
    return Counterpart("tiny_vit_5m_224", arguments, weights, "head.fc")


def _own(system: ImageEncoder) -> Counterpart:
    model = system.tower.model
    arguments = {"img_size": system.config.image_size} if hasattr(model, "pos_embed") else {}
    return Counterpart(system.config.image_tower, arguments, model.state_dict(), "head")


COUNTERPARTS: Mapping[str, Callable[[ImageEncoder], Counterpart]] = {
    "vit": _clip,
    "plain": _plain,
    **dict.fromkeys(tinyvit.SIZES, _tinyvit),
}
"""Of our own towers, by name."""
