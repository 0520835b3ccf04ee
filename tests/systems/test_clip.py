"""CLIP against its authors' code and open_clip: parameter counts, embeddings, loss and gradients, for both kinds of image
tower; and that it learns, a toy task to a stated score and real photos."""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from oculex import embeddings, export, runs
from oculex.contracts import Features, UserError
from oculex.data.assets import RunAssets
from oculex.data.collate import Ragged
from oculex.nn.published import names
from oculex.nn.published.open_clip import clip_config, model_cfg, rules
from oculex.systems.contrastive.clip import CLIP, SYSTEM, CLIPConfig
from oculex.training.folder import read_lines
from tests import toys

open_clip = pytest.importorskip("open_clip", reason="parity needs open_clip")

VIT = CLIPConfig(image_size=32, patch=8, width=48, layers=(3,), heads=3, embedding=24, text_width=32, text_layers=2,
                 text_heads=2, context=16, vocabulary=100)  # fmt: skip
RESNET = replace(VIT, image_tower="resnet", image_size=64, width=8, layers=(1, 2, 1, 1), heads=4)
PUBLISHED = {"vit_b_32": 151_277_313, "vit_b_16": 149_620_737, "vit_l_14": 427_616_513, "vit_l_14_336": 427_944_193,
             "rn50": 102_007_137, "rn101": 119_688_033, "rn50x4": 178_300_601, "rn50x16": 290_979_217,
             "rn50x64": 623_258_305}  # fmt: skip

GOLDEN = {"vit": replace(VIT, width=128, heads=2), "resnet": replace(RESNET, width=16, heads=8)}
"""The authors' classes fix heads of 64 channels."""

PHOTOS = {"image_tower": "resnet", "image_size": 64, "width": 24, "layers": [1, 1, 1], "heads": 6, "embedding": 128,
          "text_width": 128, "text_layers": 2, "text_heads": 2, "crop": [0.4, 1.0], "batch": 128, "data.workers": 0,
          "optimizer.lr": 1e-3, "evaluation.tasks": ["retrieval"], "logging.every": 10}  # fmt: skip
"""Settings under which 630 photos teach something before they are learnt by heart."""


def golden_weights(state):
    """Weights that follow from names and shapes alone, so that another implementation can be given the same."""
    made = {}
    for name, value in state.items():
        drawn = np.random.default_rng(zlib.crc32(name.encode())).random(value.shape, np.float32) - 0.5
        if value.ndim > 1:
            drawn *= 4 * (value[0].numel()) ** -0.5
        elif value.ndim == 0 or name.endswith(("weight", "running_var")):
            drawn += 1
        made[name] = torch.from_numpy(np.asarray(drawn, np.float32)) if value.is_floating_point() else value
    return made


def pair(config):
    """Our model and open_clip's with the same random weights."""
    torch.manual_seed(0)
    ours = CLIP(config, RunAssets(None, None)).train()
    for parameter in ours.parameters():  # also those that start at 0 or 1, so that swapped names would show
        parameter.data += 0.05 * torch.randn_like(parameter)
    cfg = model_cfg(config)
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
def test_parameter_counts_are_the_published_ones(preset, evidence):
    config = SYSTEM.presets[preset]().model
    with torch.device("meta"):
        count = sum(p.numel() for p in CLIP(config, RunAssets(None, None)).parameters())
    assert count == PUBLISHED[preset]
    name = {"vit_l_14_336": "ViT-L-14-336"}.get(
        preset, preset.replace("vit_b_", "ViT-B-").replace("vit_l_", "ViT-L-").replace("rn", "RN")
    )
    published = clip_config({**open_clip.get_model_config(name), "quick_gelu": True})
    assert CLIPConfig(**vars(published)) == config
    evidence("clip", "preset", parameters=count, equals=f"open_clip's {name}")


@pytest.mark.parametrize("preset", [preset for preset in SYSTEM.presets if preset != "tiny_map"])
def test_every_preset_has_its_counterpart_in_open_clip(preset):
    config = SYSTEM.presets[preset]().model
    with torch.device("meta"):
        ours, cfg = CLIP(config, RunAssets(None, None)), model_cfg(config)
        theirs = open_clip.CLIP(cfg["embed_dim"], cfg["vision_cfg"], cfg["text_cfg"], cfg["quick_gelu"])
        state = names.theirs(ours.state_dict(), rules(config))
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        name: tuple(value.shape) for name, value in theirs.state_dict().items()
    }


def test_a_tower_of_three_stages_has_no_counterpart():
    with pytest.raises(UserError, match="four stages, this one 3"):
        model_cfg(SYSTEM.presets["tiny_map"]().model)


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
    ours = CLIP(config, RunAssets(None, None)).eval()
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


@pytest.mark.parametrize("kind", GOLDEN)
def test_features_logits_and_loss_are_the_authors(kind, evidence):
    golden = np.load(Path(__file__).parents[1] / "golden" / "clip.npz")
    config = GOLDEN[kind]
    ours = CLIP(config, RunAssets(None, None)).eval()
    ours.load_state_dict(golden_weights(ours.state_dict()))
    texts = Ragged(torch.from_numpy(golden["texts"]), torch.from_numpy(golden["lengths"]))
    data = {"image": torch.from_numpy(golden[f"{kind}_image"]), "tokens": texts}
    with torch.no_grad():
        got = {
            "image_features": ours.image_projection(ours.represent_image(data)),
            "text_features": ours.text_projection(ours.text(texts)),
            "logits": ours.score_texts(data, data),
            "loss": ours.losses(Features(ours.encode(data)), data)["contrastive"].mean(),
        }
    error = {
        name: float((value - torch.from_numpy(golden[f"{kind}_{name}"])).abs().max())
        for name, value in got.items()
    }
    assert all(value < 1e-4 for value in error.values()), error
    evidence("clip", "golden", peer=str(golden["provenance"]), max_abs_error=error)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """(run, data): CLIP trained on squares of eight colours for 150 updates."""
    folder = tmp_path_factory.mktemp("coloured")
    data = toys.squares(folder / "data")
    changes = toys.SMALL | toys.TEXT | {"embedding": 32, "activation": "gelu"}
    return runs.train(
        "clip", data=[str(data)], out=folder / "run", budget="150steps", changes=changes, quiet=True
    ), data


def test_it_learns_to_name_colours(coloured, evidence):
    metrics = list(read_lines(coloured[0].evaluations))[-1]["metrics"]
    top1 = metrics["squares.parquet/zeroshot/top1"]
    assert top1["value"] >= 0.95
    evidence("clip", "learning", task="zero-shot naming of 8 colours, 150 steps of 32", top1=top1)


def test_what_it_learnt_is_used_elsewhere(coloured, tmp_path, evidence):
    """Searched by text here, opened with equal outputs there."""
    folder, data = coloured
    assert embeddings.index(folder.path, str(data), tmp_path / "index") == 240
    hits = embeddings.search(tmp_path / "index", "a photo of a pink.", 20)
    pinks = sum(int(hit["id"].split("#")[1]) % 8 == 6 for hit in hits)
    assert pinks >= 18
    errors = {
        to: max(parity.max_abs_error for parity in export.export_run(folder.path, to, tmp_path / to))
        for to in export.TARGETS
    }
    assert max(errors.values()) <= 1e-4
    evidence(
        "clip",
        "usable",
        search=f"{pinks} of the 20 best of 240 for a text are right",
        export_max_abs_error=errors,
    )


def test_it_learns_from_real_photos(real_data, tmp_path, evidence):
    """For the record with enough steps that held-out photos are found by their captions, beyond chance."""
    budget = "160steps" if evidence.recording else "30steps"
    folder = runs.train("clip", data=[str(real_data / "flickr8k_thumbs")], out=tmp_path / "run", budget=budget,
                        changes=PHOTOS, quiet=True)  # fmt: skip
    losses = [line["loss"] for line in read_lines(folder.metrics)]
    assert losses[-1] < 0.95 * losses[0]
    metrics = list(read_lines(folder.evaluations))[-1]["metrics"]
    found = {name.removeprefix("flickr8k_thumbs/retrieval/"): value for name, value in metrics.items()}
    assert found["image_to_text_r1"]["n"] == 70
    if evidence.recording:
        kept = {
            f"{way}_r{k}": found[f"{way}_r{k}"]
            for way in ("image_to_text", "text_to_image")
            for k in (1, 5, 10)
        }
        chance = found["text_to_image_chance_r1"]["value"]
        assert kept["text_to_image_r1"]["low"] > chance
        evidence("clip", "real_data", data="Flickr8k: 630 photos with 5 captions each, 70 more held out",
                 budget=f"{budget} of {PHOTOS['batch']}", chance_r1=chance, **kept)  # fmt: skip
