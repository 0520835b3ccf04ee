"""LaVIT's published tokenizer (jy0205/LaVIT), as a ``VisualTokenizer``."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from oculex.nn.published.names import Rule, State, ours

_LEAVES = ("weight", "bias")
_BLOCK = {"norm_1": "norm0", "norm_2": "norm1", "norm_3": "norm2", "up": "mlp.fc1", "down": "mlp.fc2"}


def _rules(names: Mapping[str, str], ours: str = "", theirs: str = "") -> list[Rule]:
    return [Rule(f"{ours}{a}.{leaf}", f"{theirs}{b}.{leaf}") for a, b in names.items() for leaf in _LEAVES]


def _blocks(ours: str, theirs: str, own: str, cross: str) -> list[Rule]:
    names = (
        _BLOCK | {f"attention.{part}": f"{own}.{part}" for part in "qkv"} | {"attention.out": f"{own}.proj"}
    )
    names |= {f"cross.{part[0]}": f"{cross}.{part}" for part in ("query", "key", "value")}
    return _rules(names | {"cross.out": f"{cross}.proj"}, f"{ours}.blocks.{{}}.", f"{theirs}blocks.{{}}.")


ENCODER = [
    *_rules({f"selector.into.{n}": f"token_predictor.in_conv.{n}" for n in (0, 1)}),
    *_rules({f"selector.out.{n}": f"token_predictor.out_conv.{n}" for n in (0, 2, 4)}),
    *_blocks("merger", "causal_encoder.", "token_causal_attn", "token_cross_attn"),
    *_rules({"merger.features_norm": "causal_encoder.ln_vision", "merger.norm": "causal_encoder.norm"}),
    *_rules({f"narrow.{n}": f"encode_task_layer.{n}" for n in (0, 2)}),
    Rule("codebook.codes", "quantize.embedding.weight"),
]
DECODER = [
    *_rules({"decoder.into": "in_proj", "decoder.norm": "norm"}),
    *_blocks("decoder", "", "self_attn", "cross_attn"),
    *_rules({f"decoder.task.{n}": f"decode_task_layer.{n}" for n in (0, 2)}),
    Rule("decoder.positions", "pos_embed", lambda x: x.view(x.shape[-2:])),
    Rule("decoder.queries", "query_embed", lambda x: x.view(x.shape[-2:])),
]


def from_lavit(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> State:
    """Weights of tokenizer_encoder and tokenizer_decoder under our names, without the tower and the projections to the
    language model and the U-net, which are no part of the tokenizer. Raises UserError for other weights."""
    return ours(_split(encoder, ("encoder.", "vit_proj.")), ENCODER) | ours(
        _split(decoder, ("unet_",)), DECODER
    )


def _split(state: Mapping[str, Tensor], others: tuple[str, ...]) -> State:
    """qkv as three weights."""
    out: State = {}
    for name, value in state.items():
        if name.startswith(others):
            continue
        if ".qkv." in name:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                out[name.replace(".qkv.", f".{part}.")] = piece
        else:
            out[name] = value
    return out
