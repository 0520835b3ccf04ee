"""To and from transformers' CLIPModel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from oculex.contracts import UserError
from oculex.data.collate import Ragged
from oculex.data.text import END, START
from oculex.export import names
from oculex.export.parity import Parity, check, inputs
from oculex.nn.dual_encoder import DualEncoder
from oculex.systems.contrastive.clip import CLIPConfig


def load(folder: str) -> tuple[CLIPConfig, dict[str, torch.Tensor], Any]:
    """(configuration, our weights, transformers' model) of a folder with safetensors. No code of it is run."""
    from transformers import CLIPModel

    path = Path(folder)
    if not (path / "config.json").is_file():
        raise UserError(f"{folder} is not a transformers folder: it has no config.json")
    if not list(path.glob("*.safetensors")):
        raise UserError(f"{folder} has no safetensors file; convert the weights, pickles are not opened")
    peer = CLIPModel.from_pretrained(
        str(path), use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    ).eval()
    vision, text = peer.config.vision_config, peer.config.text_config
    if vision.intermediate_size != 4 * vision.hidden_size or text.intermediate_size != 4 * text.hidden_size:
        raise UserError(f"{folder}: its blocks are not four times as wide inside as CLIP's are")
    config = CLIPConfig(
        image_size=vision.image_size,
        patch=vision.patch_size,
        width=vision.hidden_size,
        layers=(vision.num_hidden_layers,),
        heads=vision.num_attention_heads,
        embedding=peer.config.projection_dim,
        text_width=text.hidden_size,
        text_layers=text.num_hidden_layers,
        text_heads=text.num_attention_heads,
        context=text.max_position_embeddings,
        vocabulary=text.vocab_size,
        activation=vision.hidden_act,
    )
    kept = {key: value for key, value in peer.state_dict().items() if not key.endswith("position_ids")}
    return config, names.join_qkv(names.ours(kept, names.TRANSFORMERS)), peer


def export(system: DualEncoder, tokenizer: Any, out: Path) -> list[Parity]:
    """Writes a folder that ``CLIPModel.from_pretrained`` and ``CLIPProcessor.from_pretrained`` open."""
    from transformers import CLIPConfig as TheirConfig
    from transformers import CLIPImageProcessor, CLIPModel

    c = system.config
    if c.image_tower != "vit":
        raise UserError(
            f"transformers' CLIP has a vision transformer only, this run has image_tower={c.image_tower!r}"
        )
    ends = {"bos_token_id": tokenizer.start, "eos_token_id": tokenizer.end, "pad_token_id": tokenizer.end}
    text = {
        "hidden_size": c.text_width,
        "intermediate_size": 4 * c.text_width,
        "num_hidden_layers": c.text_layers,
    }
    text |= {
        "num_attention_heads": c.text_heads,
        "max_position_embeddings": c.context,
        "vocab_size": c.vocabulary,
    }
    vision = {"hidden_size": c.width, "intermediate_size": 4 * c.width, "num_hidden_layers": sum(c.layers)}
    vision |= {"num_attention_heads": c.heads, "image_size": c.image_size, "patch_size": c.patch}
    shared = {"hidden_act": c.activation, "projection_dim": c.embedding}
    peer = CLIPModel(
        TheirConfig(
            text_config={**text, **shared, **ends},
            vision_config={**vision, **shared},
            projection_dim=c.embedding,
        )
    ).eval()
    missing, unexpected = peer.load_state_dict(
        names.theirs(names.split_qkv(system.state_dict()), names.TRANSFORMERS), strict=False
    )
    if unexpected or [name for name in missing if not name.endswith("position_ids")]:
        raise UserError(
            f"this transformers version names CLIP's weights differently: {[*missing, *unexpected][:2]}"
        )
    peer.save_pretrained(str(out), safe_serialization=True)
    side = {"height": c.image_size, "width": c.image_size}
    CLIPImageProcessor(
        size={"shortest_edge": c.image_size}, crop_size=side, image_mean=list(c.mean), image_std=list(c.std)
    ).save_pretrained(str(out))
    save_tokenizer(tokenizer, c.context, out)
    return compare(system, tokenizer, CLIPModel.from_pretrained(str(out)).eval())


def save_tokenizer(tokenizer: Any, context: int, out: Path) -> None:
    """The tokenizer as a transformers folder: start and end are added, padding is the end on the right."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    pieces = [(START, tokenizer.start), (END, tokenizer.end)]
    backend.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=pieces)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=START, eos_token=END, pad_token=END, model_max_length=context
    ).save_pretrained(str(out))


@torch.no_grad()
def compare(system: DualEncoder, tokenizer: Any, peer: Any) -> list[Parity]:
    """Embeddings of both on the same inputs."""
    images, ids = inputs(system.config.image_size, tokenizer, system.config.context)
    mine = system.embed({"image": images, "tokens": Ragged.of(ids)})
    pixels = (images.float() - system.mean.cpu()) / system.std.cpu()
    longest = max(map(len, ids))
    tokens = torch.tensor([each + [tokenizer.end] * (longest - len(each)) for each in ids])
    mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in ids])
    out = peer(input_ids=tokens, attention_mask=mask, pixel_values=pixels)
    return [
        check("image embedding", mine["image"], out.image_embeds),
        check("text embedding", mine["text"], out.text_embeds),
        check("temperature", system.log_scale.exp(), peer.logit_scale.exp()),
    ]
