"""To and from open_clip."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from oculex.contracts import UserError
from oculex.data.collate import Ragged
from oculex.export import names
from oculex.export.parity import Parity, check, inputs
from oculex.nn.dual_encoder import DualEncoder
from oculex.systems.contrastive.clip import CLIPConfig


def rules(config: CLIPConfig) -> list[names.Rule]:
    """The table of names of an image tower; UserError for towers that open_clip's own classes do not have."""
    tables = {"vit": names.OPEN_CLIP_VIT, "resnet": names.OPEN_CLIP_RESNET}
    if config.image_tower not in tables:
        raise UserError(
            f"image_tower={config.image_tower!r} has no counterpart in open_clip; vit and resnet have"
        )
    return tables[config.image_tower]


def model_cfg(config: CLIPConfig, end: int | None = None) -> dict[str, Any]:
    """open_clip's configuration of a CLIP; ``end`` is the end-of-text id of a vocabulary that is not CLIP's."""
    c = config
    vit = {"layers": sum(c.layers), "patch_size": c.patch, "head_width": c.width // c.heads}
    vision = {
        "image_size": c.image_size,
        "width": c.width,
        **(vit if c.image_tower == "vit" else {"layers": list(c.layers)}),
    }
    text: dict[str, Any] = {"context_length": c.context, "vocab_size": c.vocabulary, "width": c.text_width}
    text |= {"heads": c.text_heads, "layers": c.text_layers}
    if end is not None:
        text |= {"pool_type": "eos", "eos_id": end, "hf_tokenizer_name": "."}
    quick = c.activation == "quick_gelu"
    return {"embed_dim": c.embedding, "quick_gelu": quick, "vision_cfg": vision, "text_cfg": text}


def clip_config(cfg: Mapping[str, Any]) -> CLIPConfig:
    """Our configuration of open_clip's; UserError names what CLIP proper does not have."""
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
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
    layers, width = vision["layers"], vision["width"]
    resnet = isinstance(layers, (list, tuple))
    return CLIPConfig(
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


def load(model: str, pretrained: str, allow_pickle: bool) -> tuple[CLIPConfig, dict[str, torch.Tensor], Any]:
    """(configuration, our weights, open_clip's model) of a folder, or of a model name and a weights file or tag."""
    import open_clip

    folder = Path(model)
    if folder.is_dir():
        cfg = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
        weights = next(iter(sorted(folder.glob("*.safetensors"))), None)
        if weights is None:
            raise UserError(f"{folder} has no safetensors file; convert the weights, pickles are not opened")
        state = load_file(weights)
    else:
        cfg = open_clip.get_model_config(model)
        if cfg is None:
            raise UserError(
                f"open_clip has no model {model!r} and there is no such folder; open_clip.list_models() names them"
            )
        state = _state(model, pretrained, allow_pickle)
    config = clip_config(cfg)
    peer = open_clip.CLIP(
        **{k: v for k, v in cfg.items() if k in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")}
    )
    peer.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    kept = {key: value.float() for key, value in state.items() if key != "attn_mask"}
    return config, names.ours(kept, rules(config)), peer.eval()


def _state(model: str, pretrained: str, allow_pickle: bool) -> dict[str, torch.Tensor]:
    path = Path(pretrained)
    if path.suffix == ".safetensors" and path.is_file():
        return load_file(path)
    if path.is_file():
        if not allow_pickle:
            raise UserError(
                f"{path} is a pickle, which can run code when opened; give safetensors, or --allow-pickle if you trust it"
            )
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {key.removeprefix("module."): value for key, value in state.get("state_dict", state).items()}
    if not pretrained:
        raise UserError(
            f"{model} needs weights: --pretrained with a safetensors file or one of open_clip's tags"
        )
    import open_clip

    return open_clip.create_model(model, pretrained=pretrained).state_dict()


def export(system: DualEncoder, tokenizer: Any, out: Path) -> list[Parity]:
    """Writes a folder that ``open_clip.create_model_and_transforms("local-dir:OUT")`` opens."""
    import open_clip

    own = system.config.tokenizer != "clip"
    cfg = model_cfg(system.config, tokenizer.end if own else None)
    out.mkdir(parents=True, exist_ok=True)
    if own:
        from oculex.export.transformers import save_tokenizer

        save_tokenizer(tokenizer, system.config.context, out)
        cfg["text_cfg"]["hf_tokenizer_name"] = str(out.resolve())
    state = names.theirs(system.state_dict(), rules(system.config))
    save_file(state, out / "open_clip_model.safetensors")
    c = system.config
    preprocess = {
        "mean": list(c.mean),
        "std": list(c.std),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    described = {"model_cfg": cfg, "preprocess_cfg": {**preprocess, "size": [c.image_size, c.image_size]}}
    (out / "open_clip_config.json").write_text(json.dumps(described, indent=2), encoding="utf-8")
    peer = open_clip.create_model_and_transforms(f"local-dir:{out}")[0].eval()
    return compare(system, tokenizer, peer)


@torch.no_grad()
def compare(system: DualEncoder, tokenizer: Any, peer: Any) -> list[Parity]:
    """Embeddings of both on the same inputs."""
    images, ids = inputs(system.config.image_size, tokenizer, system.config.context)
    tokens = torch.zeros(len(ids), system.config.context, dtype=torch.long)
    for row, each in zip(tokens, ids, strict=True):
        row[: len(each)] = torch.tensor(each)
    mine = system.embed({"image": images, "tokens": Ragged.of(ids)})
    pixels = (images.float() - system.mean.cpu()) / system.std.cpu()
    return [
        check("image embedding", mine["image"], peer.encode_image(pixels, normalize=True)),
        check("text embedding", mine["text"], peer.encode_text(tokens, normalize=True)),
        check("temperature", system.log_scale.exp(), peer.logit_scale.exp()),
    ]
