"""To transformers' CLIPModel; ``oculex.nn.published.transformers`` reads what comes from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from oculex.contracts import Assets, UserError
from oculex.data.collate import Ragged
from oculex.data.text import END, START
from oculex.export import language, llava
from oculex.export.parity import Parity, check, inputs
from oculex.nn.joint.dual_encoder import DualEncoder
from oculex.nn.language.causal import Speaks
from oculex.nn.published import names
from oculex.nn.published.transformers import ENDS, their_config


def export(system: DualEncoder | Speaks, assets: Assets, out: Path) -> list[Parity]:
    """Writes a folder that ``CLIPModel.from_pretrained`` and ``CLIPProcessor.from_pretrained`` open, or those of a
    LLaVA (``oculex.export.llava``) or of a language model (``oculex.export.language``)."""
    from transformers import CLIPConfig as TheirConfig
    from transformers import CLIPImageProcessor, CLIPModel

    if not isinstance(system, DualEncoder):
        return (llava if llava.fits(system) else language).export(system, assets, out)
    c = system.config
    if c.image_tower != "vit":
        raise UserError(
            f"transformers' CLIP has a vision transformer only, this run has image_tower={c.image_tower!r}"
        )
    tokenizer: Any = assets.tokenizer(system.config.tokenizer)
    ends = dict(zip(ENDS, (tokenizer.start, tokenizer.end, tokenizer.end), strict=True))
    peer = CLIPModel(TheirConfig(**their_config(c, ends))).eval()
    missing, unexpected = peer.load_state_dict(
        names.theirs(names.split_qkv(system.state_dict()), names.TRANSFORMERS), strict=False
    )
    if unexpected or [name for name in missing if not name.endswith("position_ids")]:
        raise UserError(
            f"this transformers version names CLIP's weights differently: {[*missing, *unexpected][:2]}"
        )
    peer.save_pretrained(str(out), safe_serialization=True)
    side = {"height": c.image_size, "width": c.image_size}
    CLIPImageProcessor(
        size={"shortest_edge": c.image_size}, crop_size=side, image_mean=list(c.mean), image_std=list(c.std)
    ).save_pretrained(str(out))
    save_tokenizer(tokenizer, c.context, out)
    return compare(system, tokenizer, CLIPModel.from_pretrained(str(out)).eval())


def save_tokenizer(tokenizer: Any, context: int, out: Path) -> None:
    """The tokenizer as a transformers folder: start and end are added, padding is the end on the right.

    Raises UserError without transformers, by which open_clip too opens a vocabulary that is not CLIP's.
    """
    from tokenizers import Tokenizer, processors

    try:
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise UserError(
            "a vocabulary of its own is kept by transformers; pip install 'oculex[transformers]'"
        ) from error

    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    pieces = [(START, tokenizer.start), (END, tokenizer.end)]
    backend.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=pieces)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=START, eos_token=END, pad_token=END, model_max_length=context
    ).save_pretrained(str(out))


@torch.no_grad()
def compare(system: DualEncoder, tokenizer: Any, peer: Any) -> list[Parity]:
    """Embeddings of both on the same inputs."""
    images, ids = inputs(system.config.image_size, tokenizer, system.config.context)
    mine = system.embed({"image": images, "tokens": Ragged.of(ids)})
    pixels = (images.float() - system.mean.cpu()) / system.std.cpu()
    longest = max(map(len, ids))
    tokens = torch.tensor([each + [tokenizer.end] * (longest - len(each)) for each in ids])
    mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in ids])
    out = peer(input_ids=tokens, attention_mask=mask, pixel_values=pixels)
    return [
        check("image embedding", mine["image"], out.image_embeds),
        check("text embedding", mine["text"], out.text_embeds),
        check("temperature", system.log_scale.exp(), peer.logit_scale.exp()),
    ]
