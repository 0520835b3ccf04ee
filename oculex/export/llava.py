"""A language model that reads each patch of an image as a token, as transformers' LLaVA."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from torch import Tensor

from oculex.contracts import Assets, UserError
from oculex.data.collate import collate
from oculex.data.sources.conversations import PLACE
from oculex.data.text import BytePair, save_tokenizer_config
from oculex.export.parity import Parity, check, images
from oculex.nn.joint.connectors import Projector
from oculex.nn.joint.visual_language import VisualLanguageModel
from oculex.nn.lora import adapted, merged
from oculex.nn.published import names


def fits(system: Any) -> bool:
    """Whether transformers' LLaVA has a place for each part: CLIP's vision transformer, and two layers after it."""
    return (
        isinstance(system, VisualLanguageModel)
        and system.config.image_tower == "vit"
        and isinstance(system.connector, Projector)
        and len(system.connector.layers) == 3
        and system.connector.positions is None
    )


@torch.no_grad()
def export(system: VisualLanguageModel, assets: Assets, out: Path) -> list[Parity]:
    """Writes a folder that ``LlavaForConditionalGeneration`` and ``LlavaProcessor`` open. In a prompt <image> stands for
    the picture; the chat template is the one it was trained under.

    Raises UserError where what was written gives other logits than the run.
    """
    from transformers import LlavaForConditionalGeneration

    own: Any = assets.tokenizer(system.config.tokenizer)
    tokenizer = BytePair(Backend.from_str(own.backend.to_str()), template=system.chat.template)
    tokenizer.backend.add_special_tokens([AddedToken(PLACE, special=True, normalized=False)])
    place: Any = tokenizer.backend.token_to_id(PLACE)
    out.mkdir(parents=True, exist_ok=True)
    counterpart(system, own, place).save_pretrained(str(out))
    tokenizer.backend.save(str(out / "tokenizer.json"))
    save_tokenizer_config(tokenizer, out, tokenizer.template)
    _processor(system, out)
    peer = LlavaForConditionalGeneration.from_pretrained(str(out), dtype=torch.float32).eval()
    return compare(system, place, peer)


def counterpart(system: VisualLanguageModel, tokenizer: Any, place: int) -> Any:
    """Their model with the run's weights, low-rank parts of the language model merged; the vocabulary gets a row for
    ``place``, the place of an image, which is never read."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    c: Any = system.config
    language: Any = merged(system.language) if adapted(system.language) else deepcopy(system.language)
    language.resize_token_embeddings(max(place + 1, language.config.vocab_size), mean_resizing=False)
    vision = CLIPVisionConfig(
        hidden_size=c.width,
        intermediate_size=4 * c.width,
        num_hidden_layers=len(system.image.blocks),
        num_attention_heads=c.heads,
        image_size=c.image_size,
        patch_size=c.patch,
        hidden_act=c.activation,
    )
    peer: Any = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=language.config,
            image_token_index=place,
            projector_hidden_act="gelu",
            vision_feature_layer=-1,  # blocks that were left out are not there at all
            vision_feature_select_strategy="default",
            image_seq_length=system.visual,
            tie_word_embeddings=language.config.tie_word_embeddings,
        )
    )
    for config in (peer.config, peer.config.text_config, peer.generation_config):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = (
            tokenizer.start,
            tokenizer.end,
            tokenizer.end,
        )
    tower = {f"image.{name}": value for name, value in system.image.state_dict().items()}
    theirs = names.theirs(names.split_qkv(tower), names.TRANSFORMERS)
    first, _, second = system.connector.layers
    _load(peer.model.vision_tower, theirs)
    _load(peer.model.multi_modal_projector.linear_1, first.state_dict())
    _load(peer.model.multi_modal_projector.linear_2, second.state_dict())
    _load(peer.model.language_model, language.model.state_dict())
    _load(peer.lm_head, language.get_output_embeddings().state_dict())
    return peer


def _load(part: Any, state: dict[str, Tensor]) -> None:
    """UserError where a weight has no value: this transformers names them differently."""
    known = part.state_dict()
    found = {name: state.get(name, state.get(f"vision_model.{name}")) for name in known}
    lacking = [name for name, value in found.items() if value is None and not name.endswith("position_ids")]
    if lacking:
        raise UserError(f"this transformers version names LLaVA's weights differently: {lacking[0]!r}")
    part.load_state_dict({name: value for name, value in found.items() if value is not None}, strict=False)


def _processor(system: VisualLanguageModel, out: Path) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaProcessor

    c = system.config
    LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": c.image_size},
            crop_size={"height": c.image_size, "width": c.image_size},
            image_mean=list(c.mean),
            image_std=list(c.std),
        ),
        tokenizer=AutoTokenizer.from_pretrained(str(out)),
        patch_size=c.patch,
        vision_feature_select_strategy="default",
        chat_template=system.chat.template,
        num_additional_image_tokens=1,
    ).save_pretrained(str(out))


@torch.no_grad()
def compare(system: VisualLanguageModel, place: int, peer: Any) -> list[Parity]:
    """Logits of both after pictures and the first instruction."""
    shown = images(system.config.image_size)
    views = [
        system.view({"id": str(n), "image": image.permute(1, 2, 0).numpy()}, None)
        for n, image in enumerate(shown)
    ]
    batch = collate(views)
    logits = system.language(inputs_embeds=system.embedded(batch, system.encode(batch)["visual"])).logits
    ids = batch["tokens"].values.masked_fill(batch["visual"].values.bool(), place)
    pixels = (batch["image"].float() - system.mean.cpu()) / system.std.cpu()
    theirs = peer(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits
    return [check("logits", logits, theirs[..., : logits.shape[-1]])]
