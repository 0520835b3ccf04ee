"""To and from transformers' CLIPModel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from oculex.contracts import UserError
from oculex.data.collate import Ragged
from oculex.data.text import END, START
from oculex.export import names, outside
from oculex.export.parity import Parity, check, inputs
from oculex.nn.blocks import ACTIVATIONS
from oculex.nn.dual_encoder import DualEncoder
from oculex.systems.contrastive.clip import CLIPConfig

CLIP_VOCABULARY = 49_408
_ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def load(model: str) -> tuple[CLIPConfig, dict[str, torch.Tensor], Any]:
    """(configuration, our weights, transformers' model) of a folder with safetensors.

    Nothing of the folder is run: numbers alone are taken from its configuration, tensors alone from its weights.
    """
    from transformers import CLIPConfig as TheirConfig
    from transformers import CLIPModel

    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not a transformers folder: it has no config.json")
    tree = outside.read_json(folder / "config.json")
    if "auto_map" in tree:
        raise UserError(f"{folder}/config.json asks to run code of its own (auto_map), which is refused")
    if tree.get("model_type", "clip") != "clip":
        raise UserError(f"{folder} holds a {tree['model_type']!r} model, not a CLIP")
    weights = outside.safetensors(folder)
    try:  # their defaults for what the file leaves out
        known = TheirConfig(
            **{key: tree[key] for key in ("vision_config", "text_config", "projection_dim") if key in tree}
        )
        config, ends = _config(known), {key: int(getattr(known.text_config, key)) for key in _ENDS}
    except Exception as error:  # their validation raises kinds of its own
        raise UserError(f"{folder}/config.json is no CLIP's: {str(error)[:100]}") from error
    preprocessing = folder / "preprocessor_config.json"
    said = outside.read_json(preprocessing) if preprocessing.is_file() else {}
    own = config.vocabulary != CLIP_VOCABULARY
    config = replace(
        config,
        tokenizer=outside.tokenizer(folder, config.vocabulary, own),
        **outside.pixels(said, "image_mean", "image_std", folder),
    )
    outside.checked(config, folder)
    state = {k: v for k, v in outside.read_weights(weights).items() if not k.endswith("position_ids")}
    ours = names.join_qkv(names.ours(state, names.TRANSFORMERS))
    outside.fitted(config, ours, folder)
    peer = CLIPModel(TheirConfig(**_their_config(config, ends)))
    peer.load_state_dict(state, strict=False)
    return config, ours, peer.eval()


def _config(known: Any) -> CLIPConfig:
    vision, text = known.vision_config, known.text_config
    if vision.intermediate_size != 4 * vision.hidden_size or text.intermediate_size != 4 * text.hidden_size:
        raise ValueError("its blocks are not four times as wide inside as CLIP's are")
    if vision.hidden_act != text.hidden_act or vision.hidden_act not in ACTIVATIONS:
        raise ValueError(f"its activations are {vision.hidden_act!r} and {text.hidden_act!r}")
    return CLIPConfig(
        image_size=vision.image_size,
        patch=vision.patch_size,
        width=vision.hidden_size,
        layers=(vision.num_hidden_layers,),
        heads=vision.num_attention_heads,
        embedding=known.projection_dim,
        text_width=text.hidden_size,
        text_layers=text.num_hidden_layers,
        text_heads=text.num_attention_heads,
        context=text.max_position_embeddings,
        vocabulary=text.vocab_size,
        activation=vision.hidden_act,
    )


def _their_config(c: Any, ends: dict[str, int]) -> dict[str, Any]:
    """The arguments of transformers' CLIPConfig."""
    shared = {"hidden_act": c.activation, "projection_dim": c.embedding}
    text = {
        "hidden_size": c.text_width,
        "intermediate_size": 4 * c.text_width,
        "num_hidden_layers": c.text_layers,
        "num_attention_heads": c.text_heads,
        "max_position_embeddings": c.context,
        "vocab_size": c.vocabulary,
    }
    vision = {
        "hidden_size": c.width,
        "intermediate_size": 4 * c.width,
        "num_hidden_layers": sum(c.layers),
        "num_attention_heads": c.heads,
        "image_size": c.image_size,
        "patch_size": c.patch,
    }
    return {
        "text_config": {**text, **shared, **ends},
        "vision_config": {**vision, **shared},
        "projection_dim": c.embedding,
    }


def export(system: DualEncoder, tokenizer: Any, out: Path) -> list[Parity]:
    """Writes a folder that ``CLIPModel.from_pretrained`` and ``CLIPProcessor.from_pretrained`` open."""
    from transformers import CLIPConfig as TheirConfig
    from transformers import CLIPImageProcessor, CLIPModel

    c = system.config
    if c.image_tower != "vit":
        raise UserError(
            f"transformers' CLIP has a vision transformer only, this run has image_tower={c.image_tower!r}"
        )
    ends = dict(zip(_ENDS, (tokenizer.start, tokenizer.end, tokenizer.end), strict=True))
    peer = CLIPModel(TheirConfig(**_their_config(c, ends))).eval()
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
