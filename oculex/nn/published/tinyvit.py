"""Names of TinyViT's weights in timm and in the authors' code (microsoft/Cream)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from oculex.nn.published import names
from oculex.nn.published.names import Rule

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_LAYERS = {
    "norm_1": "attn.norm",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "norm_2": "mlp.norm",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
_STAGES = (1, 2, 3)


def _rules(
    stem: tuple[str, str], conv: str, stage: str, merging: Mapping[int, str], norm: str, head: str
) -> list[Rule]:
    """``stage``: how the names of their stage n begin; ``merging``: of what leads into our stage n."""
    blocks = {n: (f"stages.{n}.blocks.{{}}.", f"{stage}{n}.blocks.{{}}.") for n in _STAGES}
    convolutions = {"stem.0.": f"{stem[0]}.", "stem.2.": f"{stem[1]}."}
    convolutions |= {
        f"stages.0.{{}}.{ours}.": f"{stage}0.blocks.{{}}.conv{k}."
        for k, ours in enumerate(("up", "depthwise", "down"), start=1)
    }
    convolutions |= {
        f"stages.{n}.merging.{ours}.": f"{merging[n]}.conv{k}."
        for n in _STAGES
        for k, ours in enumerate(("mix", "stride", "out"), start=1)
    }
    convolutions |= {f"{ours}local.": f"{theirs}local_conv." for ours, theirs in blocks.values()}
    linear = {f"{a}{ours}": f"{b}{theirs}" for a, b in blocks.values() for ours, theirs in _LAYERS.items()}
    linear |= {"norm": norm, "head": head}
    return [
        *(Rule(f"{ours}conv.weight", f"{theirs}{conv}.weight") for ours, theirs in convolutions.items()),
        *(Rule(f"{ours}norm.{p}", f"{theirs}bn.{p}") for ours, theirs in convolutions.items() for p in _NORM),
        *(
            Rule(f"{ours}.{p}", f"{theirs}.{p}")
            for ours, theirs in linear.items()
            for p in ("weight", "bias")
        ),
        *(Rule(f"{a}attention.biases", f"{b}attn.attention_biases") for a, b in blocks.values()),
    ]


TIMM = _rules(
    ("patch_embed.conv1", "patch_embed.conv2"),
    "conv",
    "stages.",
    {n: f"stages.{n}.downsample" for n in _STAGES},
    "head.norm",
    "head.fc",
)
AUTHORS = _rules(
    ("patch_embed.seq.0", "patch_embed.seq.2"),
    "c",
    "layers.",
    {n: f"layers.{n - 1}.downsample" for n in _STAGES},  # there it ends the stage before
    "norm_head",
    "head",
)


def ours(state: Mapping[str, Tensor], rules: list[Rule]) -> names.State:
    """Backbone and "head" from their weights; tables of indices that some checkpoints hold are left out."""
    kept = {name: value for name, value in state.items() if not name.endswith("attention_bias_idxs")}
    return names.ours(kept, rules)
