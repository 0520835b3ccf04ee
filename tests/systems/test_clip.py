"""CLIP against open_clip: parameter counts, embeddings, loss and gradients, for both kinds of image tower."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from oculex.contracts import Features
from oculex.data.assets import RunAssets
from oculex.data.collate import Ragged
from oculex.export import names
from oculex.export.open_clip import clip_config, model_cfg, rules
from oculex.systems.contrastive.clip import CLIP, SYSTEM, CLIPConfig

open_clip = pytest.importorskip("open_clip", reason="parity needs open_clip")

VIT = CLIPConfig(image_size=32, patch=8, width=48, layers=(3,), heads=3, embedding=24, text_width=32, text_layers=2,
                 text_heads=2, context=16, vocabulary=100)  # fmt: skip
RESNET = replace(VIT, image_tower="resnet", image_size=64, width=8, layers=(1, 2, 1, 1), heads=4)
PUBLISHED = {"vit_b_32": 151_277_313, "vit_b_16": 149_620_737, "vit_l_14": 427_616_513, "vit_l_14_336": 427_944_193,
             "rn50": 102_007_137, "rn101": 119_688_033, "rn50x4": 178_300_601, "rn50x16": 290_979_217,
             "rn50x64": 623_258_305}  # fmt: skip


def pair(config):
    """Our model and open_clip's with the same random weights."""
    torch.manual_seed(0)
    ours = CLIP(config, RunAssets(Path(), None)).train()
    for parameter in ours.parameters():  # also those that start at 0 or 1, so that swapped names would show
        parameter.data += 0.05 * torch.randn_like(parameter)
    cfg = model_cfg(config)
    if config.image_tower == "resnet":
        cfg["vision_cfg"]["head_width"] = config.width * 32 // config.heads
    theirs = open_clip.CLIP(embed_dim=cfg["embed_dim"], vision_cfg=cfg["vision_cfg"], text_cfg=cfg["text_cfg"],
                            quick_gelu=cfg["quick_gelu"]).train()  # fmt: skip
    missing, unexpected = theirs.load_state_dict(names.theirs(ours.state_dict(), rules(config)), strict=False)
    assert not unexpected
    assert set(missing) <= {"attn_mask"}
    return ours, theirs


def batch(config, rows=6):
    g = torch.Generator().manual_seed(1)
    size = config.image_size
    images = torch.randint(0, 256, (rows, 3, size, size), generator=g, dtype=torch.uint8)
    texts = [[98, *torch.randint(1, 98, (1 + i,), generator=g).tolist(), 99] for i in range(rows)]
    padded = torch.zeros(rows, config.context, dtype=torch.long)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = torch.tensor(text)
    return {"image": images, "tokens": Ragged.of(texts)}, padded


@pytest.mark.parametrize(
    "config", [VIT, replace(VIT, activation="gelu"), RESNET], ids=["vit", "vit-gelu", "resnet"]
)
def test_embeddings_loss_and_gradients_are_open_clips(config):
    ours, theirs = pair(config)
    data, padded = batch(config)
    features = ours.encode(data)
    loss = ours.losses(Features(features), data)["contrastive"].mean()
    pixels = (data["image"].float() - ours.mean) / ours.std
    image, text = theirs.encode_image(pixels, normalize=True), theirs.encode_text(padded, normalize=True)
    torch.testing.assert_close(features["image"], image, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features["text"], text, atol=1e-5, rtol=1e-4)
    peer = open_clip.ClipLoss()(image, text, theirs.logit_scale.exp())
    torch.testing.assert_close(loss, peer, atol=1e-5, rtol=1e-5)
    loss.backward()
    peer.backward()
    mine = names.theirs({n: p.grad for n, p in ours.named_parameters()}, rules(config))
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(
            mine[name], parameter.grad, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("preset", PUBLISHED)
def test_parameter_counts_are_the_published_ones(preset):
    config = SYSTEM.presets[preset]().model
    with torch.device("meta"):
        count = sum(p.numel() for p in CLIP(config, RunAssets(Path(), None)).parameters())
    assert count == PUBLISHED[preset]
    name = {"vit_l_14_336": "ViT-L-14-336"}.get(
        preset, preset.replace("vit_b_", "ViT-B-").replace("vit_l_", "ViT-L-").replace("rn", "RN")
    )
    assert clip_config({**open_clip.get_model_config(name), "quick_gelu": True}) == config


def test_padding_changes_nothing():
    ours, _ = pair(VIT)
    data, _ = batch(VIT)
    ours.eval()
    longer = Ragged(torch.nn.functional.pad(data["tokens"].values, (0, 5), value=7), data["tokens"].lengths)
    torch.testing.assert_close(
        ours.encode_text(data), ours.encode_text({"tokens": longer}), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
def test_other_input_sizes_work(config):
    ours, _ = pair(config)
    image = torch.randint(0, 256, (2, 3, config.image_size * 2, config.image_size * 3), dtype=torch.uint8)
    assert ours.eval().encode_image({"image": image}).shape == (2, config.embedding)


def test_a_timm_backbone_is_a_tower():
    pytest.importorskip("timm")
    config = replace(VIT, image_tower="resnet18", image_size=32)
    ours = CLIP(config, RunAssets(Path(), None)).eval()
    assert ours.encode_image({"image": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}).shape == (2, 24)


def test_patch_dropout_leaves_out_its_share_in_training_alone():
    ours, _ = pair(VIT)
    ours.image.patch_dropout = 0.5
    image = torch.rand(2, 3, 32, 32)
    assert ours.image.train().tokens(image)[0].shape[1] == 9
    assert ours.image.eval().tokens(image)[0].shape[1] == 17


def test_the_temperature_is_clamped_at_100():
    ours, _ = pair(VIT)
    ours.log_scale.data.fill_(9.0)
    ours.after_step(0, 1)
    assert float(ours.log_scale.exp()) == pytest.approx(100.0, rel=1e-5)
