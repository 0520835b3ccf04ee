"""open_clip's models: their configurations and weights as ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from oculex.contracts import UserError
from oculex.data.sources.files import some
from oculex.nn.joint.dual_encoder import DualEncoderConfig
from oculex.nn.published import names, outside
from oculex.nn.published.model import Published


def rules(config: DualEncoderConfig) -> list[names.Rule]:
    """The table of names of an image tower; UserError for towers that open_clip's own classes do not have."""
    tables = {"vit": names.OPEN_CLIP_VIT, "resnet": names.OPEN_CLIP_RESNET}
    if config.image_tower not in tables:
        raise UserError(
            f"image_tower={config.image_tower!r} has no counterpart in open_clip; vit and resnet have"
        )
    if config.image_tower == "resnet" and len(config.layers) != 4:
        raise UserError(f"layers={config.layers}: open_clip's residual towers have four stages")
    return tables[config.image_tower]


def model_cfg(config: DualEncoderConfig, end: int | None = None) -> dict[str, Any]:
    """open_clip's configuration of a CLIP; ``end`` is the end-of-text id of a vocabulary that is not CLIP's.

    Raises UserError for a residual tower of other than four stages, which open_clip cannot build.
    """
    c = config
    if c.image_tower == "resnet" and len(c.layers) != 4:
        raise UserError(
            f"open_clip's residual towers have four stages, this one {len(c.layers)}; export it to onnx"
        )
    vit = {"layers": sum(c.layers), "patch_size": c.patch, "head_width": c.width // c.heads}
    resnet = {"layers": list(c.layers), "head_width": c.width * 32 // c.heads}
    vision = {
        "image_size": c.image_size,
        "width": c.width,
        **(vit if c.image_tower == "vit" else resnet),
    }
    text: dict[str, Any] = {"context_length": c.context, "vocab_size": c.vocabulary, "width": c.text_width}
    text |= {"heads": c.text_heads, "layers": c.text_layers}
    if end is not None:
        text |= {"pool_type": "eos", "eos_id": end, "hf_tokenizer_name": "."}
    quick = c.activation == "quick_gelu"
    return {"embed_dim": c.embedding, "quick_gelu": quick, "vision_cfg": vision, "text_cfg": text}


def clip_config(cfg: Mapping[str, Any]) -> DualEncoderConfig:
    """Our configuration of open_clip's; UserError names what CLIP proper does not have."""
    vision, text = (outside.section(cfg, part, "the open_clip model") for part in ("vision_cfg", "text_cfg"))
    known = {"image_size", "layers", "width", "patch_size", "head_width", "patch_dropout"}
    if odd := set(vision) - known:
        raise UserError(
            f"the open_clip model's image tower uses {', '.join(sorted(odd))}, which CLIP does not have"
        )
    odd_text = set(text) - {
        "context_length",
        "vocab_size",
        "width",
        "heads",
        "layers",
        "pool_type",
        "eos_id",
        "hf_tokenizer_name",
    }
    if odd_text:
        raise UserError(
            f"the open_clip model's text tower uses {', '.join(sorted(odd_text))}, which CLIP does not have"
        )
    if text.get("pool_type", "argmax") not in ("argmax", "eos"):
        raise UserError(
            f"the open_clip model pools its text by {text['pool_type']!r}; CLIP takes the end of the text"
        )
    try:
        return _sized(cfg, vision, text)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"the open_clip model's configuration is not whole: {error!r}") from error


def _sized(cfg: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]) -> DualEncoderConfig:
    layers, width = vision["layers"], vision["width"]
    resnet = isinstance(layers, (list, tuple))
    return DualEncoderConfig(
        image_tower="resnet" if resnet else "vit",
        image_size=vision["image_size"],
        patch=vision.get("patch_size") or 32,
        width=width,
        layers=tuple(layers) if resnet else (layers,),
        heads=width * 32 // 64 if resnet else width // vision.get("head_width", 64),
        embedding=cfg["embed_dim"],
        text_width=text["width"],
        text_layers=text["layers"],
        text_heads=text["heads"],
        context=text["context_length"],
        vocabulary=text["vocab_size"],
        activation="quick_gelu" if cfg.get("quick_gelu") else "gelu",
    )


def read(model: str, pretrained: str = "", allow_pickle: bool = False) -> Published:
    """The model of a folder, or of a name of open_clip's and a weights file or one of its tags."""
    import open_clip

    cfg: Any
    folder, said = Path(model), dict[str, Any]()
    if folder.is_dir():
        tree = outside.read_json(folder / "open_clip_config.json")
        cfg = outside.section(tree, "model_cfg", folder)
        said = outside.section(tree, "preprocess_cfg", folder) if "preprocess_cfg" in tree else {}
        state = outside.read_weights(outside.safetensors(folder))
    else:
        cfg = open_clip.get_model_config(model) if model in open_clip.list_models() else None
        if cfg is None:
            raise UserError(
                f"open_clip has no model {model!r} and there is no such folder; open_clip.list_models() names them"
            )
        state, said = _state(model, pretrained, allow_pickle)
        cfg |= {"quick_gelu": True} if said.get("quick_gelu") else {}
    config = replace(clip_config(cfg), **outside.pixels(said, "mean", "std", model))
    own = bool(cfg["text_cfg"].get("hf_tokenizer_name"))
    config = replace(config, tokenizer=outside.tokenizer(folder, config.vocabulary, own))
    outside.checked(config, model)
    weights = names.ours({k: v for k, v in state.items() if k != "attn_mask"}, rules(config))
    outside.fitted(config, weights, model)

    def peer() -> Any:
        made = open_clip.CLIP(**model_cfg(config, cfg["text_cfg"].get("eos_id") if own else None))
        made.load_state_dict(state, strict=False)
        return made.eval()

    return Published(config, weights, peer)


def _state(model: str, pretrained: str, allow_pickle: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of a file or of one of open_clip's tags, and what open_clip knows of the tag's preprocessing."""
    import open_clip

    if Path(pretrained).is_file():
        return outside.read_weights([Path(pretrained)], allow_pickle), {}
    known = open_clip.get_pretrained_cfg(model, pretrained) if pretrained else None
    if not known:
        tags = some(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise UserError(
            f"{model} needs weights: --pretrained with a safetensors file or one of open_clip's tags: {tags}"
        )
    try:
        path = open_clip.download_pretrained(known)
    except Exception as error:  # the hub and the network raise many kinds
        raise UserError(f"cannot fetch {model}'s weights {pretrained!r}: {str(error)[:100]}") from error
    return outside.read_weights([Path(path)], allow_pickle), dict(known)
