"""Names and layouts of CLIP's weights in other libraries, as tables that work both ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from oculex.contracts import UserError

State = dict[str, Tensor]


@dataclass(frozen=True)
class Rule:
    """``ours`` and ``theirs`` are names with {} for a number; ``flip`` turns one layout into the other and back."""

    ours: str
    theirs: str
    flip: Callable[[Tensor], Tensor] | None = None


def _same(
    pairs: Mapping[str, str], ours: str, theirs: str, parts: tuple[str, ...] = ("weight", "bias")
) -> list[Rule]:
    return [
        Rule(f"{ours}{a}.{part}", f"{theirs}{b}.{part}" if b else f"{theirs}{part}", None)
        for a, b in pairs.items()
        for part in parts
    ]


def _turned(x: Tensor) -> Tensor:
    if x.ndim != 2:
        raise ValueError("no matrix")
    return x.T


def _patches(x: Tensor) -> Tensor:
    """[width, 3 p p] <-> [width, 3, p, p]."""
    if x.ndim == 4:
        return x.flatten(1)
    if x.ndim != 2:
        raise ValueError("neither a matrix nor a convolution")
    side = round((x.shape[1] / 3) ** 0.5)
    return x.view(len(x), 3, side, side)


def _led(x: Tensor) -> Tensor:
    """[width] -> [1, 1, width], [n, width] -> [1, n, width]."""
    return x.view(1, -1, x.shape[-1])


_BLOCK = {
    "norm_1": "ln_1",
    "attention.out": "attn.out_proj",
    "norm_2": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}


def _open_clip_blocks(ours: str, theirs: str) -> list[Rule]:
    return [
        *_same(_BLOCK, f"{ours}blocks.{{}}.", f"{theirs}transformer.resblocks.{{}}."),
        *(
            Rule(
                f"{ours}blocks.{{}}.attention.qkv.{part}",
                f"{theirs}transformer.resblocks.{{}}.attn.in_proj_{part}",
            )
            for part in ("weight", "bias")
        ),
    ]


_OPEN_CLIP_TEXT = [
    *_open_clip_blocks("text.", ""),
    *_same({"norm": "ln_final"}, "text.", ""),
    Rule("text.embedding.weight", "token_embedding.weight"),
    Rule("text.positions", "positional_embedding"),
    Rule("text_projection.weight", "text_projection", _turned),
    Rule("log_scale", "logit_scale"),
]

OPEN_CLIP_VIT = [
    *_OPEN_CLIP_TEXT,
    *_open_clip_blocks("image.", "visual."),
    *_same({"norm_pre": "ln_pre", "norm_post": "ln_post"}, "image.", "visual."),
    Rule("image.class_token", "visual.class_embedding"),
    Rule("image.positions", "visual.positional_embedding"),
    Rule("image.patches.weight", "visual.conv1.weight", _patches),
    Rule("image_projection.weight", "visual.proj", _turned),
]

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

OPEN_CLIP_RESNET = [
    *_OPEN_CLIP_TEXT,
    *_same({f"conv{i}": f"conv{i}" for i in (1, 2, 3)}, "image.", "visual.", ("weight",)),
    *_same({f"norm{i}": f"bn{i}" for i in (1, 2, 3)}, "image.", "visual.", _NORM),
    *(
        rule
        for stage in range(4)
        for rule in (
            *_same(
                {**{f"conv{i}": f"conv{i}" for i in (1, 2, 3)}, "shortcut.1": "downsample.0"},
                f"image.stages.{stage}.{{}}.",
                f"visual.layer{stage + 1}.{{}}.",
                ("weight",),
            ),
            *_same(
                {**{f"norm{i}": f"bn{i}" for i in (1, 2, 3)}, "shortcut.2": "downsample.1"},
                f"image.stages.{stage}.{{}}.",
                f"visual.layer{stage + 1}.{{}}.",
                _NORM,
            ),
        )
    ),
    *_same({"query": "q_proj", "key": "k_proj", "value": "v_proj"}, "image.pool.", "visual.attnpool."),
    Rule("image.pool.positions", "visual.attnpool.positional_embedding"),
    *_same({"image_projection": "visual.attnpool.c_proj"}, "", ""),
]

_HF_BLOCK = {"norm_1": "layer_norm1", "attention.out": "self_attn.out_proj", "norm_2": "layer_norm2"}
_HF_BLOCK |= {"up": "mlp.fc1", "down": "mlp.fc2"}

TRANSFORMERS = [
    *(
        rule
        for ours, theirs in (("image.", "vision_model."), ("text.", "text_model."))
        for rule in (
            *_same(_HF_BLOCK, f"{ours}blocks.{{}}.", f"{theirs}encoder.layers.{{}}."),
            *_same(
                {f"attention.{part}": f"self_attn.{part}_proj" for part in "qkv"},
                f"{ours}blocks.{{}}.",
                f"{theirs}encoder.layers.{{}}.",
            ),
        )
    ),
    *_same({"norm_pre": "pre_layrnorm", "norm_post": "post_layernorm"}, "image.", "vision_model."),
    *_same({"norm": "final_layer_norm"}, "text.", "text_model."),
    Rule("image.class_token", "vision_model.embeddings.class_embedding"),
    Rule("image.positions", "vision_model.embeddings.position_embedding.weight"),
    Rule("image.patches.weight", "vision_model.embeddings.patch_embedding.weight", _patches),
    Rule("text.embedding.weight", "text_model.embeddings.token_embedding.weight"),
    Rule("text.positions", "text_model.embeddings.position_embedding.weight"),
    Rule("image_projection.weight", "visual_projection.weight"),
    Rule("text_projection.weight", "text_projection.weight"),
    Rule("log_scale", "logit_scale"),
]


TIMM_VIT = [
    *_same(
        {"norm_1": "norm1", "attention.qkv": "attn.qkv", "attention.out": "attn.proj", "norm_2": "norm2"}
        | {"up": "mlp.fc1", "down": "mlp.fc2"},
        "image.blocks.{}.",
        "blocks.{}.",
    ),
    *_same({"norm_pre": "norm_pre", "norm_post": "norm"}, "image.", ""),
    Rule("image.class_token", "cls_token", _led),
    Rule("image.positions", "pos_embed", _led),
    Rule("image.patches.weight", "patch_embed.proj.weight", _patches),
    Rule("image.patches.bias", "patch_embed.proj.bias"),
    Rule("image_projection.weight", "head.weight"),
]


def theirs(state: Mapping[str, Tensor], rules: list[Rule]) -> State:
    """Our weights under their names."""
    return _renamed(state, [(rule.ours, rule.theirs, rule.flip) for rule in rules])


def ours(state: Mapping[str, Tensor], rules: list[Rule]) -> State:
    """Their weights under our names. Raises UserError for a weight that has no place here."""
    return _renamed(state, [(rule.theirs, rule.ours, rule.flip) for rule in rules])


def _renamed(
    state: Mapping[str, Tensor], rules: list[tuple[str, str, Callable[[Tensor], Tensor] | None]]
) -> State:
    patterns = [(re.compile(re.escape(a).replace(r"\{\}", r"(\d+)")), b, flip) for a, b, flip in rules]
    renamed: State = {}
    for name, value in state.items():
        for pattern, target, flip in patterns:
            if match := pattern.fullmatch(name):
                try:
                    renamed[target.format(*match.groups())] = (flip(value) if flip else value).contiguous()
                except ValueError:
                    raise UserError(f"the weights hold {name!r} in the shape {tuple(value.shape)}") from None
                break
        else:
            raise UserError(
                f"the weights hold {name!r}, which CLIP does not have; is this another kind of model?"
            )
    return renamed


def split_qkv(state: Mapping[str, Tensor]) -> State:
    """qkv as three weights q, k, v, as transformers keeps them."""
    out: State = {}
    for name, value in state.items():
        if ".qkv." in name:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                out[name.replace(".qkv.", f".{part}.")] = piece
        else:
            out[name] = value
    return out


def join_qkv(state: Mapping[str, Tensor]) -> State:
    import torch

    out: State = {}
    for name, value in state.items():
        match = re.fullmatch(r"(.*\.attention)\.([qkv])\.(weight|bias)", name)
        if match is None:
            out[name] = value
        elif match[2] == "q":
            parts = [f"{match[1]}.{part}.{match[3]}" for part in "qkv"]
            pieces = [state[part] for part in parts if part in state]
            if len(pieces) < 3 or len({piece.shape[1:] for piece in pieces}) > 1 or not pieces[0].ndim:
                raise UserError(f"the weights of {match[1]} do not belong together: query, key and value")
            out[f"{match[1]}.qkv.{match[3]}"] = torch.cat(pieces)
    return out
