"""LanguageBind against its authors' towers; what is trained and what stands still; low-rank parts merged and exported."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oculex import runs
from oculex.contracts import BadSample, EncodesImages, EncodesModalities, EncodesText, Features, UserError
from oculex.data.assets import RunAssets
from oculex.data.collate import collate
from oculex.data.sources import open_source
from oculex.nn.dual_encoder import DualEncoder
from oculex.nn.lora import adapt, merged
from oculex.nn.modality import ModalityEncoder
from oculex.nn.vit import VisionTransformer
from oculex.objectives.contrastive import contrastive
from oculex.systems.contrastive.languagebind import MODALITIES, SYSTEM, LanguageBind, LanguageBindConfig
from oculex.training import optimizers

pytest.importorskip("peft", reason="LoRA needs peft")

SMALL = LanguageBindConfig(image_size=16, patch=8, width=16, layers=(2,), heads=2, activation="gelu", embedding=8,
                           text_width=16, text_layers=1, text_heads=2, context=16, vocabulary=300,
                           tokenizer="corpus:300", foundation="given", rank=2, frames=3, bins=16, length=24)  # fmt: skip
GOLDEN = Path(__file__).parents[1] / "golden" / "languagebind.npz"
WORLD = "world:scenes=6,size=16,most=1"


def source(*keys):
    return open_source(f"{WORLD},keys={'+'.join(keys or MODALITIES)}")


def foundation():
    torch.manual_seed(3)
    return DualEncoder(SMALL)


def trained_on(*sources, given=foundation):
    texts = [text for each in sources for n in range(len(each)) for text in each[n]["captions"]]
    return RunAssets(None, lambda: texts * 9, sources=sources, foundation=lambda name: given())


@pytest.fixture(scope="module")
def system():
    torch.manual_seed(0)
    return LanguageBind(SMALL, trained_on(source()))


@pytest.fixture(scope="module")
def batch(system):
    rng = np.random.default_rng(0)
    scenes = source()
    return collate([system.view(scenes[n], rng) for n in range(4)])


# -------------------------------------------------------------------------------------------- the authors' code


def tower(prefix, golden):
    """The authors' vision tower with our names."""
    c = {name: int(golden[f"{prefix}/{name}"]) for name in ("size", "patch", "width", "layers", "heads")}
    frames, rank = int(golden[f"{prefix}/frames"]), int(golden[f"{prefix}/rank"])
    plain = VisionTransformer(**c, activation="gelu")
    projection = nn.Linear(c["width"], c["width"], bias=False)
    encoder = ModalityEncoder(plain, projection, 0.0, rank, 16.0, frames)
    encoder.projection = nn.Identity()
    weights = {
        n.split("/weight/")[1]: torch.from_numpy(golden[n]) for n in golden.files if f"{prefix}/weight/" in n
    }
    missing, unexpected = encoder.tower.load_state_dict(weights, strict=False)
    assert not missing
    assert not unexpected
    return encoder.eval()


@pytest.mark.parametrize("prefix", ["depth", "video"])
def test_tuned_towers_give_what_the_authors_give(prefix, evidence):
    golden = np.load(GOLDEN)
    encoder = tower(prefix, golden)
    with torch.no_grad():
        got = encoder(torch.from_numpy(golden[f"{prefix}/pixels"]))
    wanted = torch.nn.functional.normalize(torch.from_numpy(golden[f"{prefix}/pooled"]), dim=-1)
    error = float((got - wanted).abs().max())
    assert error < 1e-5
    evidence("languagebind", "golden", peer=str(golden["provenance"]), **{f"{prefix}_max_abs_error": error})


def test_loss_is_the_authors(system):
    golden = np.load(GOLDEN)
    image, text = (torch.from_numpy(golden[f"loss/{name}"]) for name in ("modality", "text"))
    scale = torch.from_numpy(golden["loss/scale"])
    encoder = system.encoders["depth"]
    before = encoder.log_scale.data.clone()
    encoder.log_scale.data = scale.log()
    loss = system.losses(Features({"text": text, "modality": image[:, None]}), {"depth": None})[
        "depth"
    ].mean()
    encoder.log_scale.data = before
    assert abs(loss.item() - float(golden["loss/value"])) < 1e-5


@pytest.mark.parametrize("name", sorted(MODALITIES))
def test_a_preset_of_each_modality_has_the_published_size(name, evidence):
    recipe = SYSTEM.presets[name]()
    with torch.device("meta"):
        system = LanguageBind(recipe.model, RunAssets(None, None))
    counted = sum(
        p.numel()
        for part in (system.encoders, system.text, system.text_projection)
        for p in part.parameters()
    )
    published = int(np.load(GOLDEN)[f"published/{name}"])
    assert abs(counted / published - 1) < 0.01
    trained = {n for n, p in system.named_parameters() if _trains(system, recipe.stages[0], n, p)}
    assert not [n for n in trained if not n.startswith(f"encoders.{name}.")]
    evidence("languagebind", "preset", **{name: counted, f"{name}_published": published})


def _trains(system, stage, name, parameter):
    optimizers.freeze(system, stage)
    return parameter.requires_grad


# --------------------------------------------------------------------------------- what is trained, what stands still


def test_encoders_begin_as_the_image_tower(system, batch):
    clip = foundation().eval()
    system.eval()
    grey = MODALITIES["depth"].pixels(system, batch["depth"])
    with torch.no_grad():
        ours = system.encode_modality("depth", batch)
        theirs = torch.nn.functional.normalize(clip.image_projection(clip.image(grey)), dim=-1)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_a_stage_moves_its_own_modality_alone(system, batch):
    stages = {stage.name: stage for stage in SYSTEM.presets["tiny"]().stages}
    assert list(stages) == list(MODALITIES)
    for name, stage in stages.items():
        optimizers.freeze(system, stage)
        system.zero_grad()
        losses = system.train().losses(Features(system.encode(batch)), batch)
        losses[name].mean().backward()
        moved = {n for n, p in system.named_parameters() if p.grad is not None}
        assert moved
        assert all(n.startswith(f"encoders.{name}.") for n in moved)
        assert any("lora_B" in n for n in moved)
        assert not any("base_layer" in n for n in moved)
    system.requires_grad_(True)


def test_each_modality_is_compared_with_text_and_nothing_else(system, batch):
    features = system.eval().encode(batch)
    losses = system.losses(Features(features), batch)
    assert list(losses) == list(MODALITIES)
    for n, name in enumerate(MODALITIES):
        scale = system.encoders[name].log_scale.exp()
        torch.testing.assert_close(
            losses[name], contrastive(features["modality"][:, n], features["text"], scale)
        )


def test_views_have_what_the_sample_has(system):
    rng = np.random.default_rng(0)
    sample = source("depth")[0]
    assert set(system.view(sample, rng)) == {"depth", "tokens"}
    assert set(system.view(sample, None)) == {"depth", "image", "tokens"}
    with pytest.raises(BadSample, match="has no video or audio or depth or infrared"):
        system.view({k: sample[k] for k in ("id", "image", "captions")}, rng)
    assert all(isinstance(system, asked) for asked in (EncodesImages, EncodesText, EncodesModalities))
    assert system.modalities == ("image", *MODALITIES)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="must name some of video, audio, depth, infrared"):
        LanguageBind(LanguageBindConfig(modalities=("smell",)), RunAssets(None, None))
    with pytest.raises(UserError, match="give it and the model the same sizes"):
        LanguageBind(SMALL, trained_on(source("depth"), given=lambda: nn.Linear(2, 2)))
    with pytest.raises(UserError, match="needs the patches of our own vision transformer"):
        LanguageBind(
            LanguageBindConfig(image_tower="resnet", width=16, layers=(1, 1), heads=2), RunAssets(None, None)
        )


# ------------------------------------------------------------------------------------------------------ low rank


def tuned():
    """A tower whose low-rank parts are not 0."""
    torch.manual_seed(1)
    network = VisionTransformer(16, 8, 16, 2, 2)
    adapt(network, 2, 16.0)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return network.eval()


def test_low_rank_parts_merge_into_a_plain_tower():
    network, pixels = tuned(), torch.randn(2, 3, 16, 16)
    plain = merged(network)
    assert set(plain.state_dict()) == set(VisionTransformer(16, 8, 16, 2, 2).state_dict())
    torch.testing.assert_close(plain(pixels), network(pixels), atol=1e-5, rtol=1e-5)
    assert any("lora_A" in name for name in network.state_dict())  # the network itself is as it was


def test_adapting_changes_nothing_at_first_and_needs_attention():
    torch.manual_seed(1)
    network, pixels = VisionTransformer(16, 8, 16, 2, 2).eval(), torch.randn(2, 3, 16, 16)
    before = network(pixels)
    adapt(network, 2, 16.0)
    torch.testing.assert_close(network(pixels), before)
    with pytest.raises(UserError, match="finds no 'attention'"):
        adapt(nn.Linear(2, 2), 2, 16.0)


def test_an_encoder_is_exported_as_a_dual_encoder(system, batch, tmp_path):
    pytest.importorskip("open_clip")
    from oculex.export import open_clip

    system.eval()
    for name, parameter in system.encoders["infrared"].named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    alone = system.dual_encoder("infrared")
    grey = MODALITIES["infrared"].pixels(system, batch["infrared"])
    with torch.no_grad():
        theirs = torch.nn.functional.normalize(alone.image_projection(alone.image(grey)), dim=-1)
        torch.testing.assert_close(system.encode_modality("infrared", batch), theirs, atol=1e-5, rtol=1e-5)
    assert all(parity.max_abs_error < 1e-4 for parity in open_clip.export(alone, system.tokenizer, tmp_path))
    with pytest.raises(UserError, match="is no CLIP"):
        system.dual_encoder("video")


def test_patch_dropout_leaves_the_same_patches_in_all_frames():
    torch.manual_seed(0)
    encoder = ModalityEncoder(VisionTransformer(32, 8, 16, 1, 2), nn.Linear(16, 4), 0.0, 2, 16.0, 3, 0.5)
    seen = []
    encoder.tower.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    still = torch.randn(2, 1, 3, 32, 32).expand(-1, 3, -1, -1, -1)
    with torch.no_grad():
        for block in encoder.tower.blocks:
            block.times.zero_()
        encoder.train()(still)
        assert seen[-1] == (6, 9, 16)
        # frames that are alike and of which the same is left out give what one of them gives
        tokens = encoder.tower.embed(
            still.flatten(0, 1), encoder.tower.kept(still[:, 0]).repeat_interleave(3, 0)
        )[0]
        assert all(torch.equal(tokens[0], tokens[n]) for n in (1, 2))
        encoder.eval()(still)
        assert seen[-1] == (6, 17, 16)


def test_data_of_which_a_stage_would_not_hear_is_refused():
    """Each stage has data of its own; --data changes what they share."""
    with pytest.raises(
        UserError, match=r"stage 'video' of languagebind has data of its own.*stages\.0\.sources="
    ):
        runs.customised(SYSTEM.presets["tiny"](), data=["photos"])
