"""To open_clip; ``oculex.nn.published.open_clip`` reads what comes from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from oculex.contracts import Assets
from oculex.data.collate import Ragged
from oculex.export.parity import Parity, check, inputs
from oculex.nn.joint.dual_encoder import DualEncoder
from oculex.nn.published import names
from oculex.nn.published.open_clip import model_cfg, rules


def export(system: DualEncoder, assets: Assets, out: Path) -> list[Parity]:
    """Writes a folder that ``open_clip.create_model_and_transforms("local-dir:OUT")`` opens."""
    import open_clip

    tokenizer: Any = assets.tokenizer(system.config.tokenizer)
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
