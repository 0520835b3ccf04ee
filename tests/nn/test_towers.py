"""Image towers by name: each keeps the contract; fields that a tower does not use cannot be set by mistake."""

from dataclasses import replace

import pytest
import torch

from oculex.contracts import UserError
from oculex.nn.image.backbones import NAMED
from oculex.nn.image.towers import FIELDS, TOWERS, image_tower, unused
from oculex.systems.contrastive.clip import SYSTEM
from oculex.training import recipes

SIZED = {"size": 32, "patch": 8, "width": 16, "layers": (1, 1, 1, 1), "heads": 2, "activation": "gelu"}
TIMM = ["resnet18", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "mobilenetv3_small_050"]
OURS = ["vit", "plain", "resnet", "tinyvit_mini", "tinyvit_nano", "tinyvit_5m"]


@pytest.mark.parametrize("part", OURS + TIMM)
@pytest.mark.parametrize("channels", [3, 4])
def test_every_tower_keeps_the_contract(part, channels):
    if part in TIMM:
        pytest.importorskip("timm")
    size = 224 if part.startswith("swin") else 64
    torch.manual_seed(0)
    tower = image_tower(part, **SIZED | {"size": size, "channels": channels}).eval()
    image = torch.randn(2, channels, size, size)
    with torch.no_grad():
        assert tower(image).shape == (2, tower.width)
        tokens, grid = tower.tokens(image)
        assert tokens.shape[0] == 2
        assert tokens.shape[1] - grid[0] * grid[1] in (0, 1)
        assert isinstance(tower.projection_bias, bool)
        if getattr(tower, "strides", ()):
            maps = tower.pyramid(image)
            assert [m.shape[1] for m in maps] == list(tower.channels)
            assert [size // m.shape[2] for m in maps] == list(tower.strides) == sorted(tower.strides)
            if part != "mobilenetv3_small_050":  # its head widens after the last map
                assert tokens.shape[2] == tower.channels[-1] == tower.width


def test_a_timm_model_of_one_resolution_has_no_pyramid():
    pytest.importorskip("timm")
    tower = image_tower("vit_tiny_patch16_224", size=64)
    with pytest.raises(UserError, match="vit_tiny_patch16_224 has no stages of falling resolution"):
        tower.pyramid(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("part", ["tinyvit_nano", "plain", "vit_tiny_patch16_224"])
def test_drop_path_reaches_the_tower(part):
    if part in TIMM:
        pytest.importorskip("timm")
    tower = image_tower(part, **SIZED | {"size": 64, "drop_path": 0.5}).train()
    torch.manual_seed(0)
    image = torch.randn(4, 3, 64, 64)
    for module in tower.modules():  # so that nothing but dropped paths can differ
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            torch.nn.init.normal_(module.weight)
    assert not torch.equal(tower(image), tower(image))


def test_an_unknown_name_is_named_with_the_known_ones():
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=r"image_tower='tinyvit_6m' is neither one of vit, .*tinyvit_5m"):
        image_tower("tinyvit_6m", size=64)


def test_a_tower_sized_by_fields_says_which_are_missing():
    with pytest.raises(
        UserError, match="'vit' is sized by patch, width, layers, heads, which this system does not have"
    ):
        image_tower("vit", size=64)


def test_fields_without_effect_are_known():
    assert unused("vit", FIELDS) == ()
    assert unused("resnet", FIELDS) == ("patch", "activation", "patch_dropout", "drop_path")
    assert unused("tinyvit_5m", FIELDS) == (
        "patch",
        "width",
        "layers",
        "heads",
        "activation",
        "patch_dropout",
    )
    assert set(NAMED) < set(TOWERS)


def test_setting_a_field_without_effect_is_a_mistake_and_keeping_the_presets_is_none():
    recipe = SYSTEM.presets["tiny_vit"]()
    changed = recipes.change(recipe, ["image_tower=tinyvit_5m", "embedding=64"])
    assert changed.model == replace(recipe.model, image_tower="tinyvit_5m", embedding=64)
    with pytest.raises(
        UserError, match=r"patch has no effect on image_tower=tinyvit_5m; width has no effect"
    ):
        recipes.change(recipe, ["image_tower=tinyvit_5m", "width=384", "model.patch=16"])
    with pytest.raises(UserError, match="heads has no effect on image_tower=tinyvit_5m"):
        recipes.change(changed, {"model.heads": 4})
    assert recipes.change(recipe, ["width=384"]).model.width == 384


def test_clip_trains_a_named_backbone():

    from oculex.data.assets import RunAssets
    from oculex.data.collate import Ragged

    model = replace(
        SYSTEM.presets["tiny"]().model,
        image_tower="tinyvit_nano",
        tokenizer="clip",
        vocabulary=100,
        context=8,
    )
    clip = SYSTEM.system.build(model, RunAssets(None, None))
    image = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    features = clip.encode({"image": image, "tokens": Ragged.of([[1, 2], [3], [4, 5], [6]])})
    (features["image"] * torch.randn(4, 128)).sum().backward()
    assert clip.image.stem[0].conv.weight.grad.abs().sum() > 0
