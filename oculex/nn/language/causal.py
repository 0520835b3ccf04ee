"""Causal language models: any of transformers', with published weights or fresh ones of a given shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from oculex.contracts import UserError
from oculex.data.collate import Ragged


@dataclass(frozen=True)
class LanguageConfig:
    language: str = "llama"
    """A model type of transformers for fresh weights (llama, gpt2, qwen2 ...), or the folder or hub name of a
    published model, whose own weights and sizes then count."""
    language_width: int = 768
    language_layers: int = 12
    language_heads: int = 12
    language_std: float = 0.02
    """Deviation of fresh weights. 0.02 suits widths of about a thousand; a narrow model hardly learns to look back in
    its text unless it has about width ** -0.5."""
    context: int = 1024
    """Most tokens of a sequence."""
    vocabulary: int = 50_257
    tokenizer: str = "hub:openai-community/gpt2"
    """hub:NAME, clip, corpus:SIZE for byte pairs learnt from the training texts, or a tokenizer.json."""


@runtime_checkable
class Speaks(Protocol):
    """A system that has a language model of transformers'."""

    language: Any
    config: Any
    """A ``LanguageConfig``."""


PUBLISHED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "huggyllama/llama-7b": ("llama", {}),
    "lmsys/vicuna-7b-v1.1": ("llama", {}),
    "lmsys/vicuna-7b-v1.5": ("llama", {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5}),
    "lmsys/vicuna-13b-v1.5": (
        "llama",
        {
            "hidden_size": 5120,
            "intermediate_size": 13_824,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        },
    ),
    "huggyllama/llama-65b": (
        "llama",
        {
            "hidden_size": 8192,
            "intermediate_size": 22_016,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "rms_norm_eps": 1e-5,
        },
    ),
}
"""Published models that presets name: their type, and where their shape is not the type's default. So they are shown and
counted, and finished runs of them opened, where the hub is out of reach."""


def language_model(config: LanguageConfig, weights: bool = True) -> Any:
    """A transformers model for causal language modelling. No code but transformers' own is run.

    Without ``weights`` a published model has its shape alone, for weights that come from elsewhere. Raises UserError for
    a type that transformers does not know, for a model that cannot be reached, and for one whose vocabulary or context
    is smaller than the configuration's.
    """
    try:
        from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

        from oculex.nn.language import packed
    except ImportError as error:
        raise UserError(
            f"language={config.language!r} is transformers' model; pip install 'oculex[transformers]'"
        ) from error

    c = config
    if c.language in CONFIG_MAPPING:
        shape = AutoConfig.for_model(
            c.language,
            hidden_size=c.language_width,
            num_hidden_layers=c.language_layers,
            num_attention_heads=c.language_heads,
            max_position_embeddings=c.context,
            vocab_size=c.vocabulary,
            tie_word_embeddings=True,
            initializer_range=c.language_std,
            **_REST.get(c.language, lambda c: {})(c),
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        return packed.prepare(AutoModelForCausalLM.from_config(shape))
    try:
        if weights:
            model = AutoModelForCausalLM.from_pretrained(
                c.language, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
            )
        else:
            kind, sizes = PUBLISHED.get(c.language, ("", {}))
            shape = AutoConfig.for_model(kind, **sizes) if kind else AutoConfig.from_pretrained(c.language)
            model = AutoModelForCausalLM.from_config(shape)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"language={c.language!r} is neither a model type of transformers nor a model that can be opened: "
            f"{' '.join(str(error).split())[:160]}; give llama, gpt2 or a folder with config.json and safetensors"
        ) from error
    known: int = model.get_input_embeddings().num_embeddings  # type: ignore[assignment, union-attr]
    longest = getattr(model.config, "max_position_embeddings", c.context)
    if known < c.vocabulary or longest < c.context:
        raise UserError(
            f"{c.language} has {known} tokens and a context of {longest}, the recipe wants vocabulary={c.vocabulary} "
            f"and context={c.context}; set both to what the model has"
        )
    return packed.prepare(model)


def _llama(c: LanguageConfig) -> dict[str, Any]:
    """Llama's inner width, 8/3 of the outer one, rounded up to a multiple of 32."""
    return {
        "intermediate_size": -(-c.language_width * 8 // 3 // 32) * 32,
        "num_key_value_heads": c.language_heads,
    }


_REST = {"llama": _llama, "qwen2": _llama, "mistral": _llama}
"""Sizes that follow from the width where a model type's own defaults are for one size alone."""


def check_vocabulary(size: int, config: LanguageConfig) -> None:
    """UserError where the tokenizer has more tokens, ``size``, than the model."""
    if size > config.vocabulary:
        raise UserError(
            f"tokenizer={config.tokenizer} has {size} tokens, the model vocabulary={config.vocabulary}; set "
            f"vocabulary={size}"
        )


def padding_mask(text: Ragged) -> Int[Tensor, "b l"]:
    """1 on tokens, 0 on padding, as transformers' models take it."""
    positions = torch.arange(text.values.shape[1], device=text.values.device)
    return (positions < text.lengths[:, None]).long()
