"""Conversations about images as token ids: what is learnt of them, and where each image's visual tokens stand.

Chat templates are Jinja as tokenizers carry them, rendered by transformers in its sandbox. A turn's text is encoded in
stretches, cut at images and where an answer begins and ends, so that a prompt has the same ids with and without the
answer that follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from oculex.contracts import BadSample, UserError
from oculex.data.text import BytePair

PLAIN = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'assistant' %}Assistant: {{ message.content }}{{ eos_token }}"
    "{% elif message.role == 'user' %}Human: {{ message.content }}\n"
    "{% else %}{{ message.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For vocabularies that come without a chat template."""

_MARKS = range(0xE000, 0xF900)
"""Unicode's private characters: one that a conversation does not have stands for its images."""


class Place(Enum):
    """What may stand in a turn beside text."""

    IMAGE = "image"


IMAGE = Place.IMAGE


@dataclass(frozen=True)
class Turn:
    role: str
    """system, user or assistant."""
    content: tuple[str | Place, ...]


@dataclass(frozen=True)
class Encoded:
    """A conversation of n tokens."""

    tokens: list[int]
    """[n]; 0 where a visual token stands."""
    trained: list[int]
    """[n]: 1 on the tokens of the assistant's answers and on the token that ends each."""
    visual: list[int]
    """[n]: 1 on visual tokens, those of the first image first."""

    def __len__(self) -> int:
        return len(self.tokens)

    def cut(self, context: int, key: str) -> Encoded:
        """The first ``context`` tokens; BadSample where these lack an image or have nothing that is learnt."""
        if len(self) <= context:
            return self
        kept = Encoded(self.tokens[:context], self.trained[:context], self.visual[:context])
        if sum(kept.visual) < sum(self.visual) or not any(kept.trained):
            raise BadSample(
                key, f"takes {len(self)} tokens, of which the context of {context} holds no answer"
            )
        return kept


class ChatFormat:
    """How conversations are written for a language model: its tokenizer's template, or another one.

    Raises UserError where answers cannot be told from the rest: the template cannot be rendered, writes earlier turns
    otherwise once later ones follow, drops images, or ends answers by another token than the tokenizer's end of text.
    """

    def __init__(self, tokenizer: BytePair, template: str = "") -> None:
        self.tokenizer, self.template = tokenizer, template or tokenizer.template or PLAIN
        backend = tokenizer.backend
        added = backend.get_added_tokens_decoder()
        self._special = {number for number, token in added.items() if token.special}
        self._special |= {tokenizer.start, tokenizer.end}
        self._names: dict[str, Any] = {
            "bos_token": backend.id_to_token(tokenizer.start),
            "eos_token": backend.id_to_token(tokenizer.end),
        }

    def encode(self, turns: Sequence[Turn], counts: Sequence[int], key: str) -> Encoded:
        """A whole conversation whose images have ``counts`` visual tokens, in order; ``key`` names the sample.

        Raises BadSample where nobody answers, and where a text holds a token that only a template may write.
        """
        mark = self._mark(turns, key)
        text = self._render(turns, mark, False)
        spans = []
        for n, turn in enumerate(turns):
            if turn.role == "assistant":
                before, after = (
                    self._render(turns[:n], mark, True),
                    self._render(turns[: n + 1], mark, False),
                )
                if not (text.startswith(after) and after.startswith(before)):
                    raise UserError(
                        "the chat template writes a turn otherwise once another one follows, so answers cannot be "
                        "found in it; give another template"
                    )
                spans.append((len(before), len(after)))
        if not spans:
            raise BadSample(key, "is a conversation in which nobody answers")
        return self._joined(list(_stretches(text, spans)), mark, counts)

    def prompt(self, turns: Sequence[Turn], counts: Sequence[int], key: str) -> Encoded:
        """What the model reads before it answers the last turn."""
        mark = self._mark(turns, key)
        return self._joined([(self._render(turns, mark, True), False)], mark, counts)

    def shown(self, encoded: Encoded) -> str:
        """The conversation as a person reads it: what is learnt stands in ⟦ ⟧, n visual tokens as ▣n."""
        out, at = [], 0
        kinds = list(zip(encoded.visual, encoded.trained, strict=True))
        while at < len(kinds):
            stop = next((n for n in range(at, len(kinds)) if kinds[n] != kinds[at]), len(kinds))
            text = self.tokenizer.backend.decode(encoded.tokens[at:stop], skip_special_tokens=False)
            visual, trained = kinds[at]
            out.append(f"▣{stop - at}" if visual else f"⟦{text}⟧" if trained else text)
            at = stop
        return "".join(out)

    def _mark(self, turns: Sequence[Turn], key: str) -> str:
        """A character that neither the template nor a turn has, to stand for images."""
        texts = [part for turn in turns for part in turn.content if isinstance(part, str)]
        for text in texts:
            found = self._special.intersection(
                self.tokenizer.backend.encode(text, add_special_tokens=False).ids
            )
            if found:
                token = self.tokenizer.backend.id_to_token(min(found))
                raise BadSample(key, f"its text holds {token}, which only the chat template may write")
        used = set(self.template).union(*texts)
        mark = next((chr(code) for code in _MARKS if chr(code) not in used), None)
        if mark is None:
            raise BadSample(key, "its text uses all of Unicode's private characters")
        return mark

    def _render(self, turns: Sequence[Turn], mark: str, asks: bool) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        messages = [
            {
                "role": turn.role,
                "content": "".join(mark if part is IMAGE else str(part) for part in turn.content),
            }
            for turn in turns
        ]
        try:
            rendered: Any = render_jinja_template(
                conversations=[messages],
                chat_template=self.template,
                add_generation_prompt=asks,
                **self._names,
            )
        except Exception as error:  # a template from outside: whatever it runs into
            raise UserError(
                f"the chat template cannot write a conversation of {', '.join(turn.role for turn in turns)}: "
                f"{str(error)[:160]}; give another template"
            ) from error
        return rendered[0][0]

    def _joined(self, stretches: Sequence[tuple[str, bool]], mark: str, counts: Sequence[int]) -> Encoded:
        found = sum(text.count(mark) for text, _ in stretches)
        if found != len(counts):
            raise UserError(
                f"{len(counts)} images were given for a conversation that, as the chat template writes it, has {found}; "
                "give each image its place in a turn"
            )
        tokens, trained, visual, left = [], [], [], iter(counts)
        for text, answers in stretches:
            ids, seen = self._ids(text, mark, left)
            learnt = self._learnt(ids) if answers else 0
            tokens += ids
            visual += seen
            trained += [int(n < learnt and not place) for n, place in enumerate(seen)]
        return Encoded(tokens, trained, visual)

    def _ids(self, text: str, mark: str, counts: Iterator[int]) -> tuple[list[int], list[int]]:
        """Ids of a stretch, and 1 where they are visual."""
        ids: list[int] = []
        seen: list[int] = []
        for n, part in enumerate(text.split(mark)):
            if n:
                count = next(counts)
                ids += [0] * count
                seen += [1] * count
            own = self.tokenizer.backend.encode(part, add_special_tokens=False).ids
            ids += own
            seen += [0] * len(own)
        return ids, seen

    def _learnt(self, ids: list[int]) -> int:
        """How many tokens of an answer are learnt: up to the one that ends it."""
        end = self.tokenizer.end
        if end not in ids:
            raise UserError(
                f"the chat template ends no answer by {self._names['eos_token']}, the tokenizer's end of text, so "
                "generation would not stop; give a template that does, or a tokenizer whose end of text it writes"
            )
        return ids.index(end) + 1


def _stretches(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """The text cut at the answers' spans, and whether a stretch is an answer."""
    at = 0
    for start, stop in spans:
        yield text[at:start], False
        yield text[start:stop], True
        at = stop
    yield text[at:], False
