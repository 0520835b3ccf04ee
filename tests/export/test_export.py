"""A run goes out to other libraries and comes back, with equal embeddings."""

import sys
from dataclasses import replace

import pytest
import torch

from oculex import export, runs
from oculex.contracts import Checkpoint, UserError
from oculex.data.assets import RunAssets
from oculex.data.text import train_tokenizer
from oculex.systems.contrastive.clip import CLIP, SYSTEM, CLIPConfig
from oculex.training import checkpoint, recipes
from oculex.training.folder import RunFolder, write_json

VIT = CLIPConfig(image_size=32, patch=8, width=64, layers=(2,), heads=1, embedding=24, text_width=32, text_layers=2,
                 text_heads=2, context=16, vocabulary=300, tokenizer="corpus:300")  # fmt: skip


@pytest.fixture(params=["vit", "resnet"])
def run(request, tmp_path):
    """A run folder with random weights and a vocabulary of its own."""
    config = (
        VIT
        if request.param == "vit"
        else replace(VIT, image_tower="resnet", width=16, layers=(1, 1, 1, 1), heads=4)
    )
    folder = RunFolder.create(tmp_path / "run")
    train_tokenizer(["a red cube", "a photo of a small blue ball next to a cat"], 300).save(
        folder.assets / "tokenizer.json"
    )
    recipe = replace(recipes.preset(SYSTEM, "clip", "tiny"), model=config, checkpoint=Checkpoint())
    write_json(folder.recipe, recipes.to_tree(recipe))
    torch.manual_seed(0)
    system = CLIP(config, RunAssets(folder.assets, None))
    state = {"groups": [], "average_updates": 0, "scaler": None, "skips": [], "seen": 0, "lost": 0}
    checkpoint.save(folder, 1, state, {"weights": system.state_dict()}, 1)
    return folder.path


def test_open_clip_opens_it_and_it_comes_back(run, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    for parity in export.export_run(run, "open_clip", tmp_path / "out"):
        assert parity.max_abs_error <= 1e-4
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    ours = runs.load(run)
    texts = ["a small ball", "a red cube next to a cat"]
    from oculex.data.collate import collate

    mine = ours.encode_text(collate([ours.view({"id": "", "caption": text}, None) for text in texts]))
    torch.testing.assert_close(
        mine, model.eval().encode_text(tokenizer(texts), normalize=True), atol=1e-5, rtol=1e-4
    )
    assert preprocess.transforms[0].size == 32


def test_a_vocabulary_that_nobody_can_keep_is_one_line(run, tmp_path, monkeypatch):
    pytest.importorskip("open_clip")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'oculex\[transformers\]'"):
        export.export_run(run, "open_clip", tmp_path / "out")


def test_transformers_opens_it_and_it_comes_back(run, tmp_path):
    transformers = pytest.importorskip("transformers")
    if runs.load(run).config.image_tower == "resnet":
        with pytest.raises(UserError, match="vision transformer only"):
            export.export_run(run, "transformers", tmp_path / "out")
        return
    for parity in export.export_run(run, "transformers", tmp_path / "out"):
        assert parity.max_abs_error <= 1e-4
    tokens = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))(["a red cube"])["input_ids"][0]
    assert tokens == runs.load(run).view({"id": "", "caption": "a red cube"}, None)["tokens"]


def test_timm_opens_its_image_tower(run, tmp_path):
    timm = pytest.importorskip("timm")
    system = runs.load(run)
    if system.config.image_tower == "resnet":
        with pytest.raises(UserError, match="no counterpart in timm"):
            export.export_run(run, "timm", tmp_path / "out")
        return
    (parity,) = export.export_run(run, "timm", tmp_path / "out")
    assert (parity.n, parity.max_abs_error <= 1e-4) == (4 * 24, True)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    facts = timm.data.resolve_data_config({}, model=model)
    assert tuple(facts["input_size"]) == (3, 32, 32)
    mean, std = (torch.tensor(facts[name]).view(3, 1, 1) for name in ("mean", "std"))
    theirs = torch.nn.functional.normalize(model((images / 255 - mean) / std), dim=-1)
    torch.testing.assert_close(theirs, system.encode_image({"image": images}), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tower", ["resnet18", "vit_tiny_patch16_224"])
def test_a_timm_tower_goes_back_to_timm(tmp_path, tower):
    timm = pytest.importorskip("timm")
    from oculex.export.timm import export as to_timm
    from oculex.nn.joint.dual_encoder import DualEncoder

    system = DualEncoder(replace(VIT, image_tower=tower, image_size=64)).eval()
    (parity,) = to_timm(system, RunAssets(None, None), tmp_path / "out")
    assert parity.max_abs_error <= 1e-4
    assert (
        timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).num_features == system.image.width
    )


CLASSES = ("cat", "dog", "bird")


@pytest.mark.parametrize(
    ("tower", "pool"),
    [("plain", "class"), ("plain", "mean"), ("vit", "class"), ("tinyvit_nano", ""), ("tinyvit_11m", "")],
)
def test_a_classifier_goes_to_timm_with_its_classes(tmp_path, tower, pool):
    """Every weight is moved from where it starts, so that what is swapped or left out shows."""
    timm = pytest.importorskip("timm")
    from oculex.export.timm import export as to_timm
    from oculex.nn.image.classifier import Classifier, ClassifierConfig
    from oculex.systems.backbones.tinyvit import FastDistillation, TinyViTConfig

    assets, sizes = RunAssets(None, None, CLASSES), {"patch": 8, "width": 64, "layers": (2,), "heads": 2}
    if not pool:
        system = FastDistillation(TinyViTConfig(image_tower=tower, image_size=48), assets)
    else:
        system = Classifier(ClassifierConfig(image_tower=tower, image_size=32, pool=pool, **sizes), assets)
    torch.manual_seed(0)
    for value in (*system.parameters(), *system.buffers()):
        if value.is_floating_point() and len(value) > 3:  # not the pixels' mean and deviation
            value.data += 0.05 * torch.rand_like(value)
    (parity,) = to_timm(system.eval(), assets, tmp_path / "out")
    assert (parity.n, parity.max_abs_error <= 1e-4) == (4 * 3, True)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert model.pretrained_cfg["label_names"] == list(CLASSES)
    images = torch.randint(0, 256, (2, 3, *model.pretrained_cfg["input_size"][1:]), dtype=torch.uint8)
    facts = timm.data.resolve_data_config({}, model=model)
    mean, std = (torch.tensor(facts[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(
        model((images / 255 - mean) / std), system.classify({"image": images}), atol=1e-4, rtol=1e-3
    )


def test_an_encoder_without_a_classifier_gives_timm_its_features(tmp_path):
    timm = pytest.importorskip("timm")
    from oculex.export.timm import export as to_timm
    from oculex.nn.image.plain_encoder import PlainEncoder, PlainEncoderConfig

    config = PlainEncoderConfig(image_size=32, patch=8, width=64, layers=(2,), heads=2, pool="mean")
    (parity,) = to_timm(PlainEncoder(config).eval(), RunAssets(None, None), tmp_path / "out")
    assert (parity.n, parity.max_abs_error <= 1e-4) == (4 * 64, True)
    assert timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).num_classes == 0


@pytest.mark.parametrize("kind", ["open_clip", "transformers"])
def test_a_vocabulary_of_its_own_comes_back_with_the_model(run, tmp_path, kind):
    pytest.importorskip(kind)
    if kind == "transformers" and runs.load(run).config.image_tower == "resnet":
        pytest.skip("transformers' CLIP is a vision transformer")
    export.export_run(run, kind, tmp_path / "out")
    assert all(
        check.max_abs_error <= 1e-4
        for check in export.import_run(kind, str(tmp_path / "out"), tmp_path / "back")
    )
    sample = {"id": "", "caption": "a red cube"}
    assert runs.load(tmp_path / "back").view(sample, None) == runs.load(run).view(sample, None)


def test_onnx_runs_it_at_other_batch_sizes(run, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert all(p.max_abs_error <= 1e-4 for p in export.export_run(run, "onnx", tmp_path / "out"))


def test_public_weights_become_a_run(tmp_path):
    """An open_clip model of CLIP's own vocabulary, with random weights, is imported and encodes equally."""
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    peer = open_clip.create_model("RN50-quickgelu")
    save_file({k: v.contiguous() for k, v in peer.state_dict().items()}, tmp_path / "rn50.safetensors")
    checks = export.import_run(
        "open_clip", "RN50-quickgelu", tmp_path / "run", pretrained=str(tmp_path / "rn50.safetensors")
    )
    assert all(check.max_abs_error <= 1e-4 for check in checks)
    assert runs.load(tmp_path / "run").config.image_tower == "resnet"


def test_a_transformers_folder_becomes_a_run(tmp_path):
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**size, "vocab_size": 49_408, "eos_token_id": 49_407, "max_position_embeddings": 77},
        vision_config={**size, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    transformers.CLIPModel(config).save_pretrained(str(tmp_path / "hub"))
    checks = export.import_run("transformers", str(tmp_path / "hub"), tmp_path / "run")
    assert all(check.max_abs_error <= 1e-4 for check in checks)


def test_pickles_are_refused_unless_asked_for(tmp_path):
    pytest.importorskip("open_clip")
    torch.save({"x": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="pickle"):
        export.import_run("open_clip", "ViT-B-32", tmp_path / "run", pretrained=str(tmp_path / "weights.pt"))
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no safetensors"):
        export.import_run("transformers", str(tmp_path / "hub"), tmp_path / "run2")
