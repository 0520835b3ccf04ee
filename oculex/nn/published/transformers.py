"""transformers' CLIPModel: its configuration and weights as ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from oculex.contracts import UserError
from oculex.nn.blocks import ACTIVATIONS
from oculex.nn.joint.dual_encoder import DualEncoderConfig
from oculex.nn.published import names, outside
from oculex.nn.published.model import Published

CLIP_VOCABULARY = 49_408
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read(model: str) -> Published:
    """The model of a folder with safetensors. Nothing of the folder is run: numbers alone are taken from its
    configuration, tensors alone from its weights."""
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
        config, ends = _config(known), {key: int(getattr(known.text_config, key)) for key in ENDS}
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

    def peer() -> Any:
        made = CLIPModel(TheirConfig(**their_config(config, ends)))
        made.load_state_dict(state, strict=False)
        return made.eval()

    return Published(config, ours, peer)


def _config(known: Any) -> DualEncoderConfig:
    vision, text = known.vision_config, known.text_config
    if vision.intermediate_size != 4 * vision.hidden_size or text.intermediate_size != 4 * text.hidden_size:
        raise ValueError("its blocks are not four times as wide inside as CLIP's are")
    if vision.hidden_act != text.hidden_act or vision.hidden_act not in ACTIVATIONS:
        raise ValueError(f"its activations are {vision.hidden_act!r} and {text.hidden_act!r}")
    return DualEncoderConfig(
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


def their_config(c: Any, ends: dict[str, int]) -> dict[str, Any]:
    """The arguments of transformers' DualEncoderConfig."""
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
