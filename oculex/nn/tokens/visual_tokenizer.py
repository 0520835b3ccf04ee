"""Images as words of a learned vocabulary, as many as an image needs (LaVIT, Jin et al. 2024, section 3.1).

A selector decides for each patch of a frozen tower whether it is kept; a merger lets the kept ones take up what the
others hold; a codebook names each kept vector by its nearest code; a decoder gives back all features from these names.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.nn.blocks import attend

FILL = 1e-6
"""Of all the weight that attention gives out, what is spread evenly over all keys."""
HELD = 4
"""An update's first vectors, so many for each code, are where unused codes may go."""


class TokenSelector(nn.Module):
    """Whether each patch is kept: a perceptron of its own features and the mean over the image's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.out = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Linear(width // 2, width // 4),
            nn.GELU(),
            nn.Linear(width // 4, 2),
        )
        _small_linears(self)

    def forward(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b n 2"]:
        """Log-probabilities of being kept and of being left out."""
        x = self.into(features)
        half = x.shape[2] // 2
        everywhere = x[..., half:].mean(1, keepdim=True).expand(-1, x.shape[1], -1)
        return self.out(torch.cat([x[..., :half], everywhere], -1)).log_softmax(-1)

    @staticmethod
    def choose(
        log_p: Float[Tensor, "b n 2"], chance: Float[Tensor, "#b n 2"], count: int | None = None
    ) -> Float[Tensor, "b n"]:
        """1 where a patch is kept: drawn by the Gumbel trick from ``chance``, uniform in 0..1, with the gradient of the
        soft choice (equation 1). Of an image none of whose patches was drawn the one nearest to it is kept.

        ``count``: each image keeps so many, those nearest to being drawn.
        """
        gumbel = -(-chance.clamp(1e-20, 1 - 1e-7).log()).log()
        odds = (log_p + gumbel)[..., 0] - (log_p + gumbel)[..., 1]
        soft = odds.sigmoid()
        if count is None:
            hard = (odds > 0).to(soft.dtype)
            nearest = F.one_hot(odds.argmax(1), odds.shape[1]).to(soft.dtype)
            hard = torch.where(hard.sum(1, keepdim=True) > 0, hard, nearest)
        else:
            hard = torch.zeros_like(soft).scatter(1, odds.topk(count, dim=1).indices, 1.0)
        return hard + soft - soft.detach()

    @staticmethod
    def likeliest(log_p: Float[Tensor, "b n 2"], count: int | None = None) -> Float[Tensor, "b n"]:
        """1 at the patches that are likeliest kept: ``count`` of them, otherwise as many as would be kept on average, and
        at least one. Nothing is drawn, so that an image has one name."""
        p = log_p[..., 0].exp()
        many = p.sum(1).round().clamp(min=1) if count is None else p.new_full((len(p),), count)
        rank = p.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return (rank < many[:, None]).to(p.dtype)


class TokenAttention(nn.Module):
    """Multi-head attention to the tokens of ``source`` that are ``seen``.

    A ``policy`` of numbers instead multiplies each key's weight before the weights are made to sum to 1, so that a
    choice of keys has a gradient (DynamicViT, Rao et al. 2021, equation 11).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        source: Float[Tensor, "b m d"],
        policy: Float[Tensor, "b #n m"] | None = None,
        seen: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.q(x), self.k(source), self.v(source))
        )
        if policy is None:
            mixed = attend(q, k, v, seen=None if seen is None else seen[:, None, None])
        else:
            scores = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).float()
            allowed = policy[:, None].float()
            # where no key is allowed all weigh alike, and the choice has no gradient: it would be 1 / FILL
            allowed = torch.where((allowed > 0.5).any(-1, keepdim=True), allowed, allowed.detach())
            weights = (scores - scores.amax(-1, keepdim=True)).exp() * allowed
            weights = (weights + FILL / weights.shape[-1]) / (weights.sum(-1, keepdim=True) + FILL)
            mixed = weights.to(v.dtype) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class TokenBlock(nn.Module):
    """Pre-norm: attention among the tokens, attention to others, then an mlp. Policies and ``seen`` are theirs."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_1, self.attention = nn.LayerNorm(width), TokenAttention(width, heads)
        self.norm_2, self.cross = nn.LayerNorm(width), TokenAttention(width, heads)
        self.norm_3 = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        source: Float[Tensor, "b m d"],
        own_policy: Tensor | None = None,
        policy: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Float[Tensor, "b n d"]:
        own = self.norm_1(x)
        x = x + self.attention(own, own, own_policy)
        x = x + self.cross(self.norm_2(x), source, policy, seen)
        return x + self.down(F.gelu(self.up(self.norm_3(x))))


class TokenMerger(nn.Module):
    """Kept tokens take up what those that are left out hold (section 3.1, token merger; figure 3 b)."""

    def __init__(self, width: int, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.features_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(TokenBlock(width, heads, hidden) for _ in range(layers))
        _small_linears(self)

    def forward(self, features: Float[Tensor, "b n d"], kept: Float[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Of every patch; what stands at those that are not kept means nothing. A token sees the kept ones before it, and
        itself, so that a sequence of them has causes and effects."""
        n = features.shape[1]
        own = torch.eye(n, dtype=kept.dtype, device=kept.device)
        seen = kept[:, None] + (1 - kept[:, None]) * own
        before, left_out = seen.tril(), 1 - kept[:, None]
        x, sources = features, self.features_norm(features)
        for block in self.blocks:
            x = block(x, sources, before, left_out)
        return self.norm(x)


class Codebook(nn.Module):
    """Unit vectors, the words of the vocabulary; each follows the mean of what is named by it.

    ``codes`` [K, C] move by exponential moving averages of normalised means (BEiT v2, Peng et al. 2022, appendix), from
    vectors of the first update on. A code whose share of the names falls below ``dead`` of an even one is put where one
    of the update's vectors lies. What is seen in an update is collected in micro-batches and on ranks as they come, and
    counts once.
    """

    codes: Tensor
    usage: Tensor
    begun: Tensor

    def __init__(self, codes: int, width: int, decay: float = 0.99, dead: float = 0.02) -> None:
        super().__init__()
        self.decay, self.dead = decay, dead
        self.register_buffer("codes", F.normalize(torch.randn(codes, width), dim=-1))
        self.register_buffer("usage", torch.full((codes,), 1.0 / codes))
        self.register_buffer("begun", torch.zeros((), dtype=torch.long))
        self.begin()

    def begin(self) -> None:
        """Forgets what an update that was skipped has left."""
        self._collected: Tensor | None = None
        self._candidates: Tensor | None = None

    def names(self, x: Float[Tensor, "t c"]) -> Int[Tensor, "t"]:
        """Index of the code that is nearest to each vector's direction."""
        return (F.normalize(x.float(), dim=-1) @ self.codes.T).argmax(-1)

    def forward(self, x: Float[Tensor, "t c"]) -> tuple[Float[Tensor, "t c"], Int[Tensor, "t"], Tensor]:
        """Each vector's code, through which gradients pass to the vector (straight-through); the code's index; and the
        squared distance of the two, [t], by which the vector is held to its code."""
        unit = F.normalize(x.float(), dim=-1)
        index = (unit.detach() @ self.codes.T).argmax(-1)
        code = self.codes[index]
        return unit + (code - unit).detach(), index, (unit - code).square().mean(-1)

    @torch.no_grad()
    def collect(self, x: Float[Tensor, "t c"], index: Int[Tensor, "t"]) -> None:
        unit = F.normalize(x.float(), dim=-1)
        count = torch.zeros(len(self.codes), device=x.device).index_add_(
            0, index, torch.ones_like(unit[:, 0])
        )
        sums = torch.zeros_like(self.codes).index_add_(0, index, unit)
        seen = torch.cat([sums, count[:, None]], 1)
        self._collected = seen if self._collected is None else self._collected + seen
        held = [] if self._candidates is None else [self._candidates]
        self._candidates = torch.cat([*held, unit])[: HELD * len(self.codes)]

    @torch.no_grad()
    def update(self) -> None:
        """Moves the codes, the same on every rank. Draws from torch's generator, alike on all of them. Raises
        RuntimeError where nothing was collected since the last update."""
        if self._collected is None or self._candidates is None:
            raise RuntimeError("nothing was collected in this update")
        seen, candidates = self._collected, self._candidates
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(seen)
            candidates = _of_all(candidates)[: HELD * len(self.codes)]
        sums, count = seen[:, :-1], seen[:, -1]
        spread = candidates[torch.randint(len(candidates), (len(self.codes),), device=candidates.device)]
        if not self.begun:
            self.codes.copy_(spread)
        else:
            moved = F.normalize(
                self.decay * self.codes + (1 - self.decay) * F.normalize(sums, dim=-1), dim=-1
            )
            self.codes.copy_(torch.where(count[:, None] > 0, moved, self.codes))
            self.usage.lerp_(count / count.sum(), 1 - self.decay)
            dead = self.usage < self.dead / len(self.codes)
            self.codes.copy_(torch.where(dead[:, None], spread, self.codes))
            self.usage.masked_fill_(dead, 1.0 / len(self.codes))
        self.begun.fill_(1)
        self.begin()


class FeatureDecoder(nn.Module):
    """All of an image's features from its codes: learned queries, one for each patch, attend to them (section 3.1)."""

    def __init__(self, codes: int, patches: int, width: int, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.into = nn.Linear(codes, width)
        self.positions = nn.Parameter(torch.empty(patches, width))
        self.queries = nn.Parameter(torch.empty(patches, width))
        self.blocks = nn.ModuleList(TokenBlock(width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.task = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        _small_linears(self)
        for table in (self.positions, self.queries):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, codes: Float[Tensor, "b t c"], real: Bool[Tensor, "b t"]) -> Float[Tensor, "b n d"]:
        """``real``: which of the padded codes are an image's own."""
        memory = self.into(codes) + self.positions[: codes.shape[1]]
        x = self.queries.expand(len(codes), -1, -1)
        for block in self.blocks:
            x = block(x, memory, seen=real)
        return self.task(self.norm(x))


class VisualTokenizer(nn.Module):
    """Selector, merger, codebook and decoder over the features [B, N, D] of a tower."""

    def __init__(
        self,
        width: int,
        patches: int,
        layers: int,
        heads: int,
        hidden: int,
        codes: int,
        code_width: int,
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        self.selector = TokenSelector(width)
        self.merger = TokenMerger(width, layers, heads, hidden)
        self.narrow = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, code_width))
        self.codebook = Codebook(codes, code_width, decay)
        self.decoder = FeatureDecoder(code_width, patches, width, layers, heads, hidden)
        _small_linears(self.narrow)

    def kept(
        self, features: Float[Tensor, "b n d"], draw: bool, count: int | None = None
    ) -> Float[Tensor, "b n"]:
        """1 where a patch is kept, drawn from torch's generator, or else the likeliest ones."""
        log_p = self.selector(features)
        if not draw:
            return self.selector.likeliest(log_p, count)
        return self.selector.choose(log_p, torch.rand_like(log_p), count)

    @torch.no_grad()
    def words(
        self, features: Float[Tensor, "b n d"], draw: bool = False, count: int | None = None
    ) -> list[list[int]]:
        """Each image as indices of codes, in the order of its patches; see ``kept``."""
        kept = self.kept(features, draw, count)
        where = kept > 0.5
        index = self.codebook.names(self.narrow(self.merger(features, kept)[where]))
        return [each.tolist() for each in index.split(where.sum(1).tolist())]

    def features(self, words: list[list[int]]) -> Float[Tensor, "b n d"]:
        """What the decoder makes of images given as indices of codes; no more than there are patches are looked at."""
        patches, device = len(self.decoder.positions), self.codebook.codes.device
        rows = [torch.tensor(each[:patches], dtype=torch.long, device=device) for each in words]
        codes, real = padded(
            self.codebook.codes[torch.cat(rows)], torch.tensor([len(row) for row in rows], device=device)
        )
        return self.decoder(codes, real)


def padded(x: Float[Tensor, "t c"], lengths: Int[Tensor, "b"]) -> tuple[Tensor, Tensor]:
    """Vectors of sequences one after the other as [B, L, C], padded by 0, and which are no padding, [B, L].

    A sequence of no vectors has one 0 that counts.
    """
    real = torch.arange(int(lengths.max().clamp(min=1)), device=x.device) < lengths[:, None]
    out = x.new_zeros(*real.shape, x.shape[1]).masked_scatter(real[..., None], x)
    return out, real | (torch.arange(real.shape[1], device=x.device) == 0)


def _small_linears(module: nn.Module) -> None:
    for each in module.modules():
        if isinstance(each, nn.Linear):
            nn.init.trunc_normal_(each.weight, std=0.02)
            nn.init.zeros_(each.bias)


def _of_all(x: Float[Tensor, "t c"]) -> Float[Tensor, "m c"]:
    """The ranks' rows, in rank order."""
    count = torch.tensor([len(x)], device=x.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    longest = int(max(map(int, counts)))
    rows = F.pad(x, (0, 0, 0, longest - len(x)))
    gathered = [torch.empty_like(rows) for _ in counts]
    dist.all_gather(gathered, rows)
    return torch.cat([each[: int(n)] for each, n in zip(gathered, counts, strict=True)])
