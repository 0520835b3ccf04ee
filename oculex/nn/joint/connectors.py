"""Connectors: an image tower's features become so many vectors of a language model's width, its visual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oculex.contracts import UserError
from oculex.nn.language.bert import BertLayer
from oculex.nn.published.names import Rule, State, join_qkv, ours

Grid = tuple[int, int]


class Connector(Protocol):
    def count(self, grid: Grid) -> int:
        """Visual tokens that it makes of an image with so many rows and columns of patches."""
        ...

    def __call__(self, features: Tensor, grid: Grid) -> Tensor:
        """[B, N, E] features of a tower, patches in row-major order after any class token, to [B, count, D]."""
        ...


@dataclass(frozen=True)
class ConnectorConfig:
    connector: str = "query"
    """linear (LLaVA), mlp (LLaVA 1.5) or query (BLIP-2's query transformer, and one linear layer)."""
    queries: int = 32
    query_width: int = 768
    query_layers: int = 12
    query_heads: int = 12
    query_std: float = 0.02
    """Deviation of its fresh weights: BERT's, at its width; a narrow one wants about width ** -0.5."""
    positions: bool = False
    """linear, mlp: a learned position is added to each patch's features, for a tower whose features tell none, such as a
    residual one."""

    def unused(self) -> dict[str, str]:
        """Fields that the others leave without effect, and why; setting one is a mistake."""
        sizes = ("queries", "query_width", "query_layers", "query_heads", "query_std")
        idle = ("positions",) if self.connector == "query" else sizes
        return dict.fromkeys(idle, f"has no effect on connector={self.connector}")


class Projector(nn.Module):
    """Each patch becomes a visual token by ``depth`` linear layers with GELU between them; the class token is dropped.

    LLaVA (Liu et al. 2023, section 4.1) has one layer, LLaVA 1.5 (section 3.2) two. With ``places`` each of so many
    patches has a learned position, as in front of a vision transformer (Dosovitskiy et al. 2021, equation 1), drawn with
    deviation 1: beside what a tower tells of a patch, positions of ``features`` ** -0.5 are too faint to be learnt from.
    """

    def __init__(self, features: int, width: int, depth: int, places: int = 0) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(places, features)) if places else None
        layers: list[nn.Module] = [nn.Linear(features, width)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(width, width)]
        self.layers = nn.Sequential(*layers)

    def count(self, grid: Grid) -> int:
        return grid[0] * grid[1]

    def forward(self, features: Float[Tensor, "b n e"], grid: Grid) -> Float[Tensor, "b t d"]:
        patches = features[:, features.shape[1] - self.count(grid) :]
        return self.layers(patches if self.positions is None else patches + self.positions)


class QueryTransformer(nn.Module):
    """BLIP-2's query transformer (Li et al. 2023, section 3.1): learned queries through BERT's layers, every second of
    which, from the first on, attends to the image's features, class token included.

    The features are normed first. Weights are drawn as BERT's: normal of deviation ``std``. BLIP-2 trains it with dropout
    0.1; whoever takes it frozen has none.
    """

    def __init__(
        self,
        features: int,
        width: int,
        layers: int,
        heads: int,
        queries: int,
        dropout: float = 0.0,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        self.features_norm = nn.LayerNorm(features)
        self.queries = nn.Parameter(std * torch.randn(queries, width))
        self.norm, self.dropout = nn.LayerNorm(width, 1e-12), nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            BertLayer(width, heads, depth % 2 == 0, dropout, 1e-12, features) for depth in range(layers)
        )
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)

    def forward(self, features: Float[Tensor, "b n e"]) -> Float[Tensor, "b q d"]:
        image = self.features_norm(features)
        x = self.dropout(self.norm(self.queries).expand(features.shape[0], -1, -1))
        for layer in self.layers:
            x = layer(x, None, image)
        return x


class QueryConnector(nn.Module):
    """The query transformer's vectors, as many as there are queries, by one linear layer (BLIP-2, section 3.3)."""

    def __init__(self, features: int, width: int, config: ConnectorConfig) -> None:
        super().__init__()
        c = config
        self.query = QueryTransformer(
            features, c.query_width, c.query_layers, c.query_heads, c.queries, std=c.query_std
        )
        self.projection = nn.Linear(c.query_width, width)

    def count(self, grid: Grid) -> int:
        return self.query.queries.shape[0]

    def forward(self, features: Float[Tensor, "b n e"], grid: Grid) -> Float[Tensor, "b t d"]:
        return self.projection(self.query(features))


DEPTH = {"linear": 1, "mlp": 2}
"""Layers of the projectors."""
CONNECTORS = (*DEPTH, "query")


def connector(config: ConnectorConfig, features: int, width: int, grid: Grid) -> Any:
    """A ``Connector`` from features of that width, ``grid`` patches of them, to a language model's; UserError for an
    unknown name."""
    c = config
    if c.connector not in CONNECTORS:
        raise UserError(f"connector={c.connector!r} is not one of {', '.join(CONNECTORS)}")
    if c.connector == "query":
        return QueryConnector(features, width, c)
    return Projector(features, width, DEPTH[c.connector], grid[0] * grid[1] if c.positions else 0)


# ------------------------------------------------------------------------------------------- published weights

_LAYER = {
    "attention.q": "attention.self.query",
    "attention.k": "attention.self.key",
    "attention.v": "attention.self.value",
    "attention.out": "attention.output.dense",
    "norm_1": "attention.output.LayerNorm",
    "cross.q": "crossattention.self.query",
    "cross.k": "crossattention.self.key",
    "cross.v": "crossattention.self.value",
    "cross.out": "crossattention.output.dense",
    "norm_2": "crossattention.output.LayerNorm",
    "up": "intermediate_query.dense",
    "down": "output_query.dense",
    "norm_3": "output_query.LayerNorm",
}
BLIP2 = [
    *(
        Rule(f"layers.{{}}.{a}.{part}", f"Qformer.bert.encoder.layer.{{}}.{b}.{part}")
        for a, b in _LAYER.items()
        for part in ("weight", "bias")
    ),
    *(Rule(f"norm.{part}", f"Qformer.bert.embeddings.LayerNorm.{part}") for part in ("weight", "bias")),
    *(Rule(f"features_norm.{part}", f"ln_vision.{part}") for part in ("weight", "bias")),
    Rule("queries", "query_tokens", lambda x: x[0] if x.ndim == 3 else x[None]),
]
"""Names of LAVIS and MiniGPT-4."""


def from_blip2(weights: Mapping[str, Tensor]) -> State:
    """A ``QueryTransformer``'s weights among those of a BLIP-2 or MiniGPT-4, whose text side is left out."""
    told = {rule.theirs.replace("{}", "#") for rule in BLIP2}
    own = {name: value for name, value in weights.items() if _numberless(name) in told}
    state = join_qkv(ours(own, BLIP2))
    out: State = {}
    for name, value in state.items():
        if ".cross.k." in name:
            other = state.get(name.replace(".cross.k.", ".cross.v."))
            if other is None or other.shape != value.shape:
                raise UserError(f"the weights of {name!r} do not belong together: key and value")
            out[name.replace(".cross.k.", ".cross.kv.")] = torch.cat([value, other])
        elif ".cross.v." not in name:
            out[name] = value
    return out


def _numberless(name: str) -> str:
    return ".".join("#" if part.isdigit() else part for part in name.split("."))
