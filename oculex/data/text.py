"""Text to token ids: CLIP's own vocabulary, or byte pairs learnt from a corpus, both by the tokenizers library."""

from __future__ import annotations

import gzip
import html
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from oculex.contracts import UserError

START, END = "<start_of_text>", "<end_of_text>"


class BytePair:
    """Byte-level byte-pair encoding; any text can be encoded."""

    def __init__(self, backend: Backend, clean: Callable[[str], str] = str) -> None:
        self.backend, self._clean = backend, clean
        self.size = backend.get_vocab_size()
        start, end = backend.token_to_id(START), backend.token_to_id(END)
        if start is None or end is None:
            raise UserError(f"the tokenizer has no {START} and {END}; make it with oculex")
        self.start, self.end = start, end

    def encode(self, text: str, context: int) -> list[int]:
        """[start, ids..., end], at most ``context`` of them."""
        ids = self.backend.encode(self._clean(text), add_special_tokens=False).ids
        return [self.start, *ids[: context - 2], self.end]

    def decode(self, ids: Sequence[int]) -> str:
        return self.backend.decode([i for i in ids if i not in (self.start, self.end)]).strip()

    def save(self, path: Path) -> None:
        self.backend.save(str(path))

    @classmethod
    def load(cls, path: Path) -> BytePair:
        try:
            return cls(Backend.from_file(str(path)))
        except UserError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"cannot read tokenizer {path}: {str(error)[:100]}") from error


def train_tokenizer(texts: Iterable[str], size: int) -> BytePair:
    """Byte pairs of a corpus, lower-cased; equal corpora give equal vocabularies."""
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return BytePair(backend)


@lru_cache(maxsize=1)
def clip_tokenizer() -> BytePair:
    """CLIP's 49,408 ids, built from the vocabulary that open_clip carries; equal to open_clip's ids."""
    found = find_spec("open_clip")
    if found is None or found.origin is None:
        raise UserError(
            "CLIP's vocabulary comes with open_clip; pip install 'oculex[openclip]', or use tokenizer=corpus:8192"
        )
    path = Path(found.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = [
        tuple(line.split())
        for line in gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    ]
    letters = _byte_letters()
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(merge) for merge in merges),
        START,
        END,
    ]
    backend = Backend(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=merges,  # type: ignore[arg-type]
            end_of_word_suffix="</w>",
        )
    )
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("</w>", " "), decoders.ByteLevel()]  # type: ignore[list-item]
    )
    return BytePair(backend, _clip_clean())


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte, in the order of CLIP's vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + index) for index in range(len(other))]


def _clip_clean() -> Callable[[str], str]:
    import ftfy  # comes with open_clip, whose cleaning this repeats

    def clean(text: str) -> str:
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
        return " ".join(text.split()).lower().strip()

    return clean
