"""A system's language model as a transformers folder, with its tokenizer and the chat template it was trained under."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from oculex.contracts import Assets
from oculex.data.text import save_tokenizer_config
from oculex.export.parity import Parity, check, inputs
from oculex.nn.language.causal import Speaks
from oculex.nn.lora import adapted, merged


@torch.no_grad()
def export(system: Speaks, assets: Assets, out: Path) -> list[Parity]:
    """Writes a folder that ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer.from_pretrained`` open. What
    makes a system see, its image tower and connector, is not in it. Low-rank parts are merged into the weights they
    adapt, so that it opens without peft.

    Raises UserError where what was written gives other logits than the run.
    """
    from transformers import AutoModelForCausalLM

    tokenizer: Any = assets.tokenizer(system.config.tokenizer)
    own: Any = merged(system.language) if adapted(system.language) else system.language
    own = own.eval()
    own.config.bos_token_id, own.config.eos_token_id = tokenizer.start, tokenizer.end
    own.generation_config.bos_token_id, own.generation_config.eos_token_id = tokenizer.start, tokenizer.end
    out.mkdir(parents=True, exist_ok=True)
    own.save_pretrained(str(out))
    tokenizer.backend.save(str(out / "tokenizer.json"))
    chat = getattr(system, "chat", None)
    save_tokenizer_config(tokenizer, out, chat.template if chat is not None else tokenizer.template)
    peer = AutoModelForCausalLM.from_pretrained(str(out), trust_remote_code=False, dtype=torch.float32).eval()
    _, ids = inputs(8, tokenizer, system.config.context)
    pairs = [(own(torch.tensor([each])).logits, peer(torch.tensor([each])).logits) for each in ids]
    return [check("logits", *(torch.cat(side, 1) for side in zip(*pairs, strict=True)))]
