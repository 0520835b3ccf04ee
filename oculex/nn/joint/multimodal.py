"""A language model that sees: visual tokens among a text's, and what is learnt of the text."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from oculex.data.collate import Ragged
from oculex.nn.blocks import Packing
from oculex.objectives.captioning import next_token


def interleave(
    words: Float[Tensor, "b l d"], visual: Bool[Tensor, "b l"], tokens: Float[Tensor, "n t d"]
) -> Float[Tensor, "b l d"]:
    """The words' embeddings with n images' visual tokens at the ``visual`` places, in the order of the batch.

    Raises ValueError where there are more or fewer places than visual tokens.
    """
    places, given = int(visual.sum()), tokens.shape[0] * tokens.shape[1]
    if places != given:
        raise ValueError(f"{given} visual tokens were given for {places} places in the texts")
    return words.masked_scatter(visual[..., None], tokens.to(words.dtype))


def answer_losses(
    language: Any, embeddings: Float[Tensor, "b l d"], text: Ragged, trained: Ragged
) -> Float[Tensor, "k"]:
    """Cross-entropy of each of the k ``trained`` tokens given what stands before it in its own sequence.

    Sequences are packed, which changes neither losses nor gradients. The first token of a sequence follows nothing and
    has no loss; ``answers`` counts the others. Gathers nothing; reduces by the mean over all these tokens of the global
    batch.
    """
    from oculex.nn.language.packed import logits

    packing = Packing.of(text.lengths, text.values.shape[1])
    learnt = packing.pack(trained.values).bool().index_fill(0, packing.first, False).nonzero()[:, 0]
    said = logits(language, packing.pack(embeddings), packing, learnt - 1)
    return next_token(said, packing.pack(text.values)[learnt])


def answers(trained: Ragged) -> int:
    """How many losses ``answer_losses`` gives."""
    return int(trained.values[:, 1:].sum())
