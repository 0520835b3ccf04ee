"""RoBERTa's text tower, whose layers can be asked one by one and let another modality in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.contracts import UserError
from oculex.data.collate import Ragged
from oculex.nn.language.bert import BertLayer

FIRST = 2
"""Row of the table of positions that a text's first token takes: row 1 belongs to padding, row 0 to nobody."""

Look = Callable[[Tensor], Tensor]
"""What attention found, and what it becomes."""


def alone(found: Tensor) -> Tensor:
    """Nobody else is looked at."""
    return found


class RobertaLayer(BertLayer):
    """Post-norm: norm(x + look(attention x)), norm(x + mlp x). ``look`` takes in what lies outside the text."""

    def __init__(self, width: int, heads: int, dropout: float, eps: float) -> None:
        super().__init__(width, heads, False, dropout, eps)

    def forward(  # type: ignore[override]
        self,
        x: Float[Tensor, "b n d"],
        seen: Bool[Tensor, "b 1 1 n"] | None,
        look: Look = alone,
        norm: bool = True,
    ) -> Float[Tensor, "b n d"]:
        """``norm``: whether the second norm is taken."""
        x = self.norm_1(x + look(self.dropout(self.attention(x, seen))))
        x = x + self.dropout(self.down(F.gelu(self.up(x))))
        return self.norm_3(x) if norm else x


@dataclass(frozen=True)
class RobertaConfig:
    """Sizes of a RoBERTa (Liu et al. 2019); the defaults are roberta-base's."""

    vocabulary: int = 50_265
    positions: int = 514
    """Rows of the table; texts are two tokens shorter."""
    width: int = 768
    layers: int = 12
    heads: int = 12
    dropout: float = 0.1
    """Of embeddings, branches and attention."""
    eps: float = 1e-5


class Roberta(nn.Module):
    """The tower without a pooler. Weights are drawn as BERT's: normal of deviation 0.02."""

    def __init__(self, config: RobertaConfig) -> None:
        super().__init__()
        c = self.config = config
        self.words, self.positions = nn.Embedding(c.vocabulary, c.width), nn.Embedding(c.positions, c.width)
        self.types = nn.Embedding(1, c.width)
        self.norm, self.dropout = nn.LayerNorm(c.width, c.eps), nn.Dropout(c.dropout)
        self.layers = nn.ModuleList(RobertaLayer(c.width, c.heads, c.dropout, c.eps) for _ in range(c.layers))
        self.apply(drawn_as_berts)

    def embed(self, text: Ragged) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b 1 1 n"]]:
        """What the first layer takes, and which tokens are no padding. Raises ValueError beyond the positions."""
        length, most = text.values.shape[1], self.config.positions - FIRST
        if length > most:
            raise ValueError(f"a text of {length} tokens is longer than {most} positions")
        seen = (torch.arange(length, device=text.values.device) < text.lengths[:, None])[:, None, None]
        x = self.words(text.values) + self.types.weight[0] + self.positions.weight[FIRST : FIRST + length]
        return self.dropout(self.norm(x)), seen

    def through(self, layers: Iterable[Any], x: Tensor, seen: Tensor) -> Tensor:
        """What these of its layers make of a text alone."""
        for layer in layers:
            x = layer(x, seen)
        return x

    def forward(self, text: Ragged) -> Float[Tensor, "b n d"]:
        x, seen = self.embed(text)
        return self.through(self.layers, x, seen)


class WordHead(nn.Module):
    """BERT's masked-word head with output weights of its own."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.transform, self.norm = nn.Linear(width, width), nn.LayerNorm(width, 1e-12)
        self.decoder, self.bias = (
            nn.Linear(width, vocabulary, bias=False),
            nn.Parameter(torch.zeros(vocabulary)),
        )
        self.apply(drawn_as_berts)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        return self.decoder(self.norm(F.gelu(self.transform(x)))) + self.bias


def drawn_as_berts(module: nn.Module, deviation: float = 0.02) -> None:
    """Normal of a deviation, biases 0: for ``nn.Module.apply``."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=deviation)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


_LAYER = {
    "attention.out": "attention.output.dense",
    "norm_1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm_3": "output.LayerNorm",
}


def take_roberta(own: Roberta, name: str) -> None:
    """Takes the weights of a RoBERTa that transformers can open (a folder or a name on the hub).

    Raises UserError where transformers is missing, the model cannot be opened, or its sizes are others.
    """
    found, wanted = _published(name), own.state_dict()
    for each, value in wanted.items():
        if each not in found or found[each].shape != value.shape:
            raise UserError(
                f"text_foundation={name!r} has no {each} of shape {tuple(value.shape)}; set text_width, text_layers, "
                "vocabulary and positions to what it has"
            )
    own.load_state_dict({each: found[each] for each in wanted})


def _published(name: str) -> dict[str, Tensor]:
    try:
        from transformers import RobertaModel
    except ImportError as error:
        raise UserError("transformers is not installed; pip install 'oculex[transformers]'") from error
    try:
        theirs = RobertaModel.from_pretrained(name, add_pooling_layer=False, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"text_foundation={name!r} is no RoBERTa that can be opened: {' '.join(str(error).split())[:160]}; give a "
            "folder with config.json and safetensors, or a name on the hub"
        ) from error
    return renamed(theirs.state_dict())


def renamed(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' names of a ``RobertaModel``'s weights as ours."""
    found = {
        "words.weight": theirs["embeddings.word_embeddings.weight"],
        "positions.weight": theirs["embeddings.position_embeddings.weight"],
        "types.weight": theirs["embeddings.token_type_embeddings.weight"],
        "norm.weight": theirs["embeddings.LayerNorm.weight"],
        "norm.bias": theirs["embeddings.LayerNorm.bias"],
    }
    depth = 0
    while f"encoder.layer.{depth}.output.dense.weight" in theirs:
        there, here = f"encoder.layer.{depth}.", f"layers.{depth}."
        for kind in ("weight", "bias"):
            parts = [theirs[f"{there}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            found[f"{here}attention.qkv.{kind}"] = torch.cat(parts)
            found |= {
                f"{here}{own}.{kind}": theirs[f"{there}{other}.{kind}"] for own, other in _LAYER.items()
            }
        depth += 1
    return found
