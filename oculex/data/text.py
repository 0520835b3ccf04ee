"""Text to token ids by the tokenizers library: CLIP's own vocabulary, byte pairs learnt from a corpus, published ones."""

from __future__ import annotations

import gzip
import html
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from oculex.contracts import UserError

START, END = "<start_of_text>", "<end_of_text>"
CONFIG = "tokenizer_config.json"
"""Beside a tokenizer.json, as transformers keeps it: there the chat template stands."""


class BytePair:
    """A vocabulary of byte pairs, or any other of the library's; a text stands between its start and its end token.

    These are START and END, or those that the tokenizer's own template puts around a text. Raises UserError where it
    has neither.
    """

    def __init__(
        self, backend: Backend, clean: Callable[[str], str] = str, template: str | None = None
    ) -> None:
        """``template``: how it writes conversations, in Jinja (``oculex.data.chat``)."""
        backend.no_truncation()  # which a file may ask for
        backend.no_padding()
        self.backend, self._clean, self.template = backend, clean, template
        self.size = backend.get_vocab_size()
        own = [number for token in (START, END) if (number := backend.token_to_id(token)) is not None]
        around = own if len(own) == 2 else backend.encode("").ids
        if len(around) != 2:
            raise UserError(
                f"the tokenizer has neither {START} and {END} nor a template that puts a token before a text and one "
                "after it; make it with oculex, or name it as hub:FOLDER"
            )
        self.start, self.end = around

    def encode(self, text: str, context: int) -> list[int]:
        """[start, ids..., end], at most ``context`` of them."""
        ids = self.backend.encode(self._clean(text), add_special_tokens=False).ids
        return [self.start, *ids[: context - 2], self.end]

    def located(self, text: str, context: int) -> tuple[list[int], list[tuple[int, int]]]:
        """``encode``'s ids, and the characters of the text that each stands for: (start, end), (0, 0) for start and end.

        Raises UserError for a vocabulary that rewrites texts before it reads them, CLIP's, where it does.
        """
        if self._clean(text) != text and len(self._clean(text)) != len(text):
            raise UserError(
                f"this tokenizer rewrites {text[:60]!r} before it reads it, so words cannot be found in it; use "
                "corpus:SIZE or hub:NAME"
            )
        found = self.backend.encode(self._clean(text), add_special_tokens=False)
        inside = list(zip(found.ids, found.offsets, strict=True))[: context - 2]
        around = [(self.start, (0, 0)), *inside, (self.end, (0, 0))]
        return [number for number, _ in around], [place for _, place in around]

    def decode(self, ids: Sequence[int]) -> str:
        return self.backend.decode([i for i in ids if i not in (self.start, self.end)]).strip()

    def save(self, path: Path) -> None:
        """As a tokenizer.json, and where there is a chat template, in the file beside it that transformers reads."""
        if self.template is not None:
            save_tokenizer_config(self, path.parent, self.template)
        self.backend.save(str(path))

    @classmethod
    def load(cls, path: Path) -> BytePair:
        try:
            beside = path.with_name(CONFIG)
            kept = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
            template = kept.get("chat_template") if isinstance(kept, dict) else None
            return cls(
                Backend.from_str(path.read_text(encoding="utf-8")),
                template=template if isinstance(template, str) else None,
            )
        except UserError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"cannot read tokenizer {path}: {str(error)[:100]}") from error


def save_tokenizer_config(tokenizer: BytePair, folder: Path, template: str | None) -> None:
    """Writes what transformers' AutoTokenizer wants beside a tokenizer.json: its kind, the tokens around a text, and how
    conversations are written."""
    ends = {"bos_token": tokenizer.start, "eos_token": tokenizer.end, "pad_token": tokenizer.end}
    tree: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    tree |= {name: tokenizer.backend.id_to_token(number) for name, number in ends.items()}
    tree |= {} if template is None else {"chat_template": template}
    part = folder / f".{CONFIG}.{os.getpid()}"
    part.write_text(json.dumps(tree, ensure_ascii=False, indent=1), encoding="utf-8")
    part.replace(folder / CONFIG)


def published_tokenizer(name: str) -> BytePair:
    """A Hugging Face tokenizer by the path of its folder or its name on the hub. No code but transformers' own is run.

    Texts stand between its beginning- and end-of-text tokens; where it has no beginning (GPT-2 separates texts by one
    token), the end stands on both sides. Raises UserError where it cannot be read, or has no end of text.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UserError("transformers is not installed; pip install 'oculex[transformers]'") from error
    try:
        found = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)
        backend, start, end = found.backend_tokenizer, found.bos_token or found.eos_token, found.eos_token
        template = found.get_chat_template() if found.chat_template else None
    except Exception as error:  # files from outside: whatever the library meets in them
        raise UserError(
            f"tokenizer=hub:{name} is neither a folder with a tokenizer.json nor a tokenizer on the hub that can be "
            f"opened: {' '.join(str(error).split())[:160]}"
        ) from error
    if end is None:
        raise UserError(f"tokenizer=hub:{name} has no end-of-text token; name another")
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys((start, end))],
    )
    return BytePair(backend, template=template)


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
