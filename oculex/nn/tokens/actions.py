"""Robot actions as tokens of a language model: which token stands for which bin, and which may come next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from oculex.contracts import UserError
from oculex.data.actions import ActionSpace, binned, unbinned


class ActionTokens(nn.Module):
    """D dimensions of ``bins`` bins each, a token for every bin, the same in all dimensions (RT-2, section 3.2).

    Which tokens these are and the actions' bounds are state: a finished run reads them with its weights.
    """

    ids: Tensor
    """[bins]: the token of each bin; -1 until data tell which."""
    bounds: Tensor
    """[2, D]: least and largest action."""
    values: Tensor
    """[D]: of a discrete dimension how many values it has, else 0."""
    told = ("ids", "bounds", "values")
    """Buffers that are the data's and that no training changes."""

    def __init__(self, dimensions: int, bins: int) -> None:
        super().__init__()
        if bins < 2 or dimensions < 1:
            raise UserError(
                f"bins={bins} and dimensions={dimensions}: an action has 1 dimension and 2 bins at least"
            )
        self.bins, self.dimensions = bins, dimensions
        self.register_buffer("ids", torch.full((bins,), -1))
        self.register_buffer(
            "bounds", torch.tensor([[0.0], [1.0]], dtype=torch.float64).repeat(1, dimensions)
        )
        self.register_buffer("values", torch.zeros(dimensions, dtype=torch.long))

    def settle(self, space: ActionSpace, ids: Sequence[int]) -> None:
        """Takes bounds and tokens, once the data is known. UserError where the data has other dimensions, or more values
        of one than there are bins."""
        if len(space) != self.dimensions:
            raise UserError(
                f"the data's actions have {len(space)} dimensions ({', '.join(space.names[:9])}); set "
                f"dimensions={len(space)}"
            )
        if max(space.values) > self.bins:
            raise UserError(
                f"a dimension of {max(space.values)} values needs as many bins; set bins={max(space.values)}"
            )
        self.ids.copy_(torch.tensor(ids))
        self.bounds.copy_(torch.tensor([space.low, space.high], dtype=torch.float64))
        self.values.copy_(torch.tensor(space.values))

    @property
    def settled(self) -> bool:
        return bool((self.ids >= 0).all())

    @property
    def space(self) -> ActionSpace:
        low, high = (tuple(row) for row in self.bounds.tolist())
        names = tuple(f"action_{n}" for n in range(self.dimensions))
        return ActionSpace(names, low, high, tuple(self.values.tolist()))

    def encode(self, action: np.ndarray) -> list[int]:
        """D token ids of an action [D]."""
        numbers = binned(np.asarray(action, np.float64), self.space, self.bins)
        return self.ids[torch.from_numpy(numbers)].tolist()

    def decode(self, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 [B, D] of B times D token ids. ValueError for one that stands for no bin."""
        place = {token: number for number, token in enumerate(self.ids.tolist())}
        strange = {token for row in tokens for token in row} - place.keys()
        if strange:
            raise ValueError(f"token {min(strange)} stands for no action")
        numbers = np.array([[place[token] for token in row] for row in tokens], np.int64)
        return unbinned(numbers.reshape(-1, self.dimensions), self.space, self.bins)

    def allowed(self, vocabulary: int, end: int) -> Bool[Tensor, "s v"]:
        """Which tokens may stand at each place of an action and after it (RT-2, section 3.2, output constraint): the D
        dimensions' own, then ``end``."""
        out = torch.zeros(self.dimensions + 1, vocabulary, dtype=torch.bool, device=self.ids.device)
        for place, values in enumerate(self.values.tolist()):
            out[place, self.ids[: values or self.bins]] = True
        out[self.dimensions, end] = True
        return out


def number_tokens(tokenizer: Any, bins: int, vocabulary: int) -> list[int]:
    """PaLI-X: bin n is the token of the integer n, as it is written after a space. UserError where one has none."""
    found = []
    for number in range(bins):
        for text in (f" {number}", str(number)):
            ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
            if len(ids) == 1 and ids[0] not in found:
                found.append(ids[0])
                break
        else:
            raise UserError(
                f"this tokenizer has no token of its own for the integer {number}; set action_tokens=least_used, or "
                "fewer bins"
            )
    return found


def least_used_tokens(tokenizer: Any, bins: int, vocabulary: int) -> list[int]:
    """PaLM-E: the tokens that are used least are overwritten. They are the last of the model's ``vocabulary``: its order
    is that of use; so OpenVLA takes them (Kim et al. 2024, section 3.2); what lies beyond the tokenizer's own is never
    used at all. So they are the model's, whatever it is trained on.

    Never those that begin or end a text. UserError where the vocabulary has too few.
    """
    special = {tokenizer.start, tokenizer.end} | set(tokenizer.backend.get_added_tokens_decoder())
    free = [token for token in reversed(range(vocabulary)) if token not in special]
    if len(free) < bins:
        raise UserError(
            f"the vocabulary of {vocabulary} has no room for {bins} bins; take a larger one, or fewer bins"
        )
    return free[:bins]


ACTION_TOKENS: Mapping[str, Callable[[Any, int, int], list[int]]] = {
    "numbers": number_tokens,
    "least_used": least_used_tokens,
}
"""How the tokens that stand for actions are chosen, by the name that a configuration gives."""
