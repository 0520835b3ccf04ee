"""Weights and configurations of strangers: nothing of them runs, nothing is fetched or allocated on their word."""

import json
import os
import pickle
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from oculex import export, runs
from oculex.contracts import UserError
from oculex.nn.joint.dual_encoder import DualEncoder
from oculex.nn.published import outside
from oculex.training.checkpoint import read_tensors
from tests.export.test_export import VIT

SMALL = replace(VIT, vocabulary=49_408, tokenizer="clip", context=77)


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def open_clip_folder(tmp_path):
    """A whole small CLIP as open_clip keeps it."""
    pytest.importorskip("open_clip")
    from oculex.nn.published import names
    from oculex.nn.published.open_clip import model_cfg, rules

    folder = tmp_path / "peer"
    folder.mkdir()
    torch.manual_seed(0)
    save_file(
        names.theirs(DualEncoder(SMALL).state_dict(), rules(SMALL)), folder / "open_clip_model.safetensors"
    )
    described = {
        "model_cfg": model_cfg(SMALL),
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    return folder


@pytest.fixture
def transformers_folder(tmp_path):
    """A whole small CLIP as transformers keeps it."""
    transformers = pytest.importorskip("transformers")
    from oculex.nn.published.transformers import their_config

    folder = tmp_path / "peer"
    ends = {"bos_token_id": 49_406, "eos_token_id": 49_407, "pad_token_id": 49_407}
    transformers.CLIPModel(transformers.CLIPConfig(**their_config(SMALL, ends))).save_pretrained(str(folder))
    said = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


def changed(path, change):
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize("kind", ["open_clip", "transformers"])
def test_pixels_are_normalised_as_the_folder_says(kind, request, tmp_path):
    folder = request.getfixturevalue(f"{kind}_folder")
    assert all(
        check.max_abs_error <= 1e-4 for check in export.import_run(kind, str(folder), tmp_path / "run")
    )
    config = runs.load(tmp_path / "run").config
    assert (tuple(config.mean), tuple(config.std)) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))


@pytest.mark.parametrize(("change", "said"), [
    (lambda t: t["model_cfg"]["vision_cfg"].update(timm_model_name="hf-hub:evil/model"), "timm_model_name"),
    (lambda t: t["model_cfg"]["text_cfg"].update(hf_model_name="evil/model"), "hf_model_name"),
    (lambda t: t["model_cfg"]["text_cfg"].update(hf_tokenizer_name="evil/tokenizer"), "no tokenizer.json"),
    (lambda t: t["model_cfg"]["text_cfg"].update(pool_type="cls"), "pools its text"),
    (lambda t: t["model_cfg"]["text_cfg"].update(vocab_size=10**12), "vocabulary=1000000000000"),
    (lambda t: t["model_cfg"]["vision_cfg"].update(layers=10**9), "layers"),
    (lambda t: t["model_cfg"]["vision_cfg"].update(layers=[4] * 1000), "layers|heads"),
    (lambda t: t["model_cfg"]["vision_cfg"].update(width=-64), "width|heads"),
    (lambda t: t["model_cfg"]["vision_cfg"].update(width="64"), "not whole|width"),
    (lambda t: t["model_cfg"]["vision_cfg"].update(width=16_384), "do not fit"),
    (lambda t: t["model_cfg"]["vision_cfg"].update(head_width=0), "not whole"),
    (lambda t: t["model_cfg"]["vision_cfg"].update(image_size=[32, 32]), "image_size"),
    (lambda t: t["model_cfg"].update(embed_dim=None), "embedding"),
    (lambda t: t["model_cfg"].pop("text_cfg"), "no 'text_cfg'"),
    (lambda t: t.update(model_cfg=[]), "no 'model_cfg'"),
    (lambda t: t["preprocess_cfg"].update(std=[0, 0, 0]), "std"),
    (lambda t: t["preprocess_cfg"].update(mean=[1]), "mean"),
])  # fmt: skip
def test_an_open_clip_configuration_is_numbers_that_fit_its_weights(open_clip_folder, tmp_path, change, said):
    changed(open_clip_folder / "open_clip_config.json", change)
    with pytest.raises(UserError, match=said):
        export.import_run("open_clip", str(open_clip_folder), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("change", "said"), [
    (lambda t: t.update(auto_map={"AutoModel": "evil.Model"}), "auto_map"),
    (lambda t: t.update(model_type="llama"), "not a CLIP"),
    (lambda t: t["vision_config"].update(num_hidden_layers=10**9), "layers"),
    (lambda t: t["text_config"].update(vocab_size=10**12), "no tokenizer.json"),
    (lambda t: t["vision_config"].update(hidden_size=10**6, intermediate_size=4 * 10**6), "width"),
    (lambda t: t["vision_config"].update(hidden_size=128, intermediate_size=512), "do not fit"),
    (lambda t: t["vision_config"].update(hidden_act="os.system"), "activations"),
    (lambda t: t.update(vision_config="x"), "no CLIP's"),
    (lambda t: t.update(projection_dim=-1), "embedding"),
])  # fmt: skip
def test_a_transformers_configuration_is_numbers_that_fit_its_weights(
    transformers_folder, tmp_path, change, said
):
    changed(transformers_folder / "config.json", change)
    with pytest.raises(UserError, match=said):
        export.import_run("transformers", str(transformers_folder), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_else_a_transformers_configuration_asks_for_is_ignored(transformers_folder, tmp_path):
    def change(tree):
        tree |= {
            "attn_implementation": "evil/kernel",
            "_attn_implementation": "evil/kernel",
            "torch_dtype": "os",
        }

    changed(transformers_folder / "config.json", change)
    assert export.import_run("transformers", str(transformers_folder), tmp_path / "run")


def header(tensors, body=b"", size=None):
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize("content", [
    b"", b"\0" * 7, b"\xff" * 200, pickle.dumps({"x": 1}), header({}, size=2**63), header({}, size=10**9),
    header({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),  # overlapping
    header({"a": entry([2], 8, 16)}, bytes(16)),  # a hole
    header({"a": entry([2], 0, 2**62)}, bytes(8)),
    header({"a": entry([2**40], 0, 8)}, bytes(8)),
    header({"a": entry([2**33, 2**33], 0, 0)}),
    header({"a": entry([-2], 0, 8)}, bytes(8)),
    header({"a": entry([2], 0, 8, "PICKLE")}, bytes(8)),
    header({"a": entry([2], 0, 8)}, bytes(4)),  # cut off
    header({"a": "x"}), header([1, 2]), header({"a": entry([1], 0, 8, "I64")}, bytes(8)),
])  # fmt: skip
def test_a_damaged_safetensors_file_is_one_line(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"w\.safetensors"):
        outside.read_weights([path])


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(header({"a": entry([2], 0, 2**62)}, bytes(8)))
    with pytest.raises(UserError, match="cannot read"):
        read_tensors(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("change", [
    lambda w: w.update({"visual.class_embedding": torch.zeros(1)}),
    lambda w: w.update({"visual.conv1.weight": torch.zeros(3)}),
    lambda w: w.update({"text_projection": torch.zeros(())}),
    lambda w: w.update({"evil.weight": torch.zeros(2)}),
    lambda w: w.update({"logit_scale": torch.zeros((), dtype=torch.int64)}),
    lambda w: w.pop("ln_final.weight"),
])  # fmt: skip
def test_weights_of_another_shape_or_name_are_refused(open_clip_folder, tmp_path, change):
    path = open_clip_folder / "open_clip_model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    with pytest.raises(UserError):
        export.import_run("open_clip", str(open_clip_folder), tmp_path / "run")


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "pytorch_model.bin", "w.safetensors"])
def test_no_pickle_runs_code(tmp_path, name):
    """By default none is opened; with the flag torch's restricted reader opens it, which holds tensors alone."""
    pytest.importorskip("open_clip")
    path = tmp_path / name
    torch.save({"state_dict": {"x": Trap(tmp_path / "ran")}}, path)
    for allow in (False, True):
        with pytest.raises(UserError):
            export.import_run("open_clip", "ViT-B-32", tmp_path / "run", str(path), allow_pickle=allow)
    assert not (tmp_path / "ran").exists()
    path.unlink()
    torch.save({"state_dict": {"module.x": torch.ones(2)}}, tmp_path / "w.pt")
    assert outside.read_weights([tmp_path / "w.pt"], allow_pickle=True)["x"].tolist() == [1, 1]


def test_a_tag_whose_weights_are_a_pickle_is_refused(tmp_path, monkeypatch):
    open_clip = pytest.importorskip("open_clip")
    torch.save({"x": Trap(tmp_path / "ran")}, tmp_path / "fetched.bin")
    monkeypatch.setattr(open_clip, "download_pretrained", lambda *_, **__: str(tmp_path / "fetched.bin"))
    with pytest.raises(UserError, match="is a pickle"):
        export.import_run("open_clip", "ViT-B-32", tmp_path / "run", "laion2b_s34b_b79k")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="one of open_clip's tags"):
        export.import_run("open_clip", "ViT-B-32", tmp_path / "run", "no_such_tag")


@pytest.mark.parametrize("model", ["hf-hub:evil/model", "local-dir:/nowhere", "../../nowhere"])
def test_a_model_name_is_not_looked_up_elsewhere(tmp_path, model):
    pytest.importorskip("open_clip")
    with pytest.raises(UserError, match="has no model"):
        export.import_run("open_clip", model, tmp_path / "run")


@pytest.mark.parametrize(
    "content", [b"{}", b"[" * 100_000, b"\x80\x04c", b"", b'{"version": "1.0", "model": {"type": "evil"}}']
)
def test_a_hostile_tokenizer_is_one_line(open_clip_folder, tmp_path, content):
    def change(tree):
        tree["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "."

    changed(open_clip_folder / "open_clip_config.json", change)
    (open_clip_folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer"):
        export.import_run("open_clip", str(open_clip_folder), tmp_path / "run")


def test_an_image_tower_is_not_fetched_from_a_hub():
    pytest.importorskip("timm")
    with pytest.raises(UserError, match="neither one of"):
        DualEncoder(replace(SMALL, image_tower="hf-hub:evil/model"))
