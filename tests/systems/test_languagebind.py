"""LanguageBind against its authors' towers; what is trained and what stands still; low-rank parts merged and exported."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import oculex
from oculex import embeddings, runs
from oculex.contracts import BadSample, EncodesImages, EncodesModalities, EncodesText, Features, UserError
from oculex.data.assets import RunAssets
from oculex.data.collate import collate
from oculex.data.sources import open_source
from oculex.evaluation.embed import embed
from oculex.evaluation.statistics import wilson
from oculex.nn.image.modality import ModalityEncoder
from oculex.nn.image.vit import VisionTransformer
from oculex.nn.joint.dual_encoder import DualEncoder
from oculex.nn.lora import adapt, merged
from oculex.objectives.contrastive import contrastive
from oculex.systems.contrastive.languagebind import MODALITIES, SYSTEM, LanguageBind, LanguageBindConfig
from oculex.training import optimizers
from oculex.training.folder import read_lines
from tests import toys

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
    found = open_clip.export(alone, system._assets, tmp_path)
    assert all(parity.max_abs_error < 1e-4 for parity in found)
    for name, why in (("video", "is no CLIP"), ("audio", "is no CLIP"), ("smell", "not 'smell'")):
        with pytest.raises(UserError, match=why):
            system.dual_encoder(name)


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


# ------------------------------------------------------------------------------------------------------- learning

ROWS, COLUMNS = ("top", "upper", "lower", "bottom"), ("far left", "left", "right", "far right")
KINDS = {"image": ((40, 220, 12), 255), "depth": ((8000, 1000, 250), 9999), "infrared": ((180, 60, 12), 255)}
"""Values elsewhere and at the place, their deviation, and the largest: light, near, cold."""
TOY = toys.SMALL | toys.TEXT | {"patch": 4, "layers": [2], "embedding": 32, "activation": "gelu"}
BOUND = {"rank": 4, "patch_dropout": 0.0, "optimizer.lr": 1e-2, "evaluation.tasks": ["emergent"]}


def place(n):
    return f"something at the {ROWS[n // 4]}, {COLUMNS[n % 4]}"


def places(folder, kinds, count, seed):
    """One of 16 places of a noisy picture stands out; ``kinds`` show the same one, and the caption tells which."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        row = {"caption": place(n % 16)}
        for kind in kinds:
            (elsewhere, there, deviation), most = KINDS[kind]
            values = np.full((4, 4), float(elsewhere))
            values[divmod(n % 16, 4)] = there
            values = values.repeat(4, 0).repeat(4, 1) + deviation * rng.standard_normal((16, 16))
            values = values.clip(1, most).astype(np.uint16 if most > 255 else np.uint8)
            row[kind] = f"{n}-{kind}.png"
            Image.fromarray(np.stack([values] * 3, -1) if kind == "image" else values).save(
                folder / row[kind]
            )
        rows.append(row)
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


@pytest.fixture(scope="module")
def bound(tmp_path_factory):
    """(run, its twin that was not trained, held-out places that all see): depth and infrared never met."""
    folder = tmp_path_factory.mktemp("bound")
    data = {kind: places(folder / kind, [kind], 320, seed) for seed, kind in enumerate(KINDS)}
    held = places(folder / "held", KINDS, 48, 9)
    clip = runs.train(
        "clip", data=[data["image"]], out=folder / "clip", budget="200steps", changes=TOY, quiet=True
    )
    whole = SYSTEM.presets["tiny"]()
    stages = [dataclasses.asdict(dataclasses.replace(stage, share=0.5, sources=(data[stage.name],)))
              for stage in whole.stages if stage.name in data]  # fmt: skip
    changes = TOY | BOUND | {"foundation": str(clip.path), "tokenizer": f"from:{clip.path}", "stages": stages,
                             "modalities": ["depth", "infrared"], "data.sources": [data["image"]],
                             "max_depth": 10.0, "evaluation.on": [held]}  # fmt: skip
    trained, untrained = (
        runs.train("languagebind", out=folder / str(lr), budget="160steps" if lr else "2steps",
                   changes=changes | {"optimizer.lr": lr}, quiet=True)
        for lr in (1e-2, 0.0)
    )  # fmt: skip
    return trained, untrained, held


def emergent(run):
    metrics = list(read_lines(run.evaluations))[-1]["metrics"]
    return {name.rsplit("/", 1)[1]: found for name, found in metrics.items()}


def test_what_never_met_finds_each_other(bound, evidence):
    trained, untrained = map(emergent, bound[:2])
    chance = trained["chance_never_paired_r1"]["value"]
    assert chance == pytest.approx(1 / 16)
    assert trained["never_paired_r1"]["value"] >= 0.6
    assert untrained["never_paired_r1"]["value"] <= 0.25
    both = [trained[name] for name in ("depth_to_infrared_r1", "infrared_to_depth_r1")]
    assert min(found["low"] for found in both) > chance
    evidence("languagebind", "learning", task="16 places seen by depth and infrared, each taught with captions alone, 80 "
             "updates of 32; recall at 1 among 16", chance=chance, untrained=untrained["never_paired_r1"],
             never_paired_r1=trained["never_paired_r1"], depth_to_infrared_r1=both[0],
             infrared_to_depth_r1=both[1])  # fmt: skip


def test_what_it_learnt_is_used_elsewhere(bound, tmp_path, evidence):
    """Evaluated again with equal numbers, searched by text, one encoder opened by another library with equal outputs."""
    open_clip = pytest.importorskip("open_clip")
    from oculex import export

    trained, _, held = bound
    again = runs.evaluate(trained.path)["metrics"]
    for name, found in emergent(trained).items():
        assert again[f"held/emergent/{name}"]["value"] == pytest.approx(found["value"], abs=1e-6)

    right = {}
    for kind in ("image", "depth", "infrared"):
        assert embeddings.index(trained.path, held, tmp_path / kind, modality=kind) == 48
        hits = [embeddings.search(tmp_path / kind, place(n), 3) for n in range(16)]
        right[kind] = sum(
            int(hit["id"].split("-")[0]) % 16 == n for n, found in enumerate(hits) for hit in found
        )
    assert min(right.values()) >= 24  # of 48, where chance finds 3
    with pytest.raises(UserError, match="encodes image, depth, infrared, not 'audio'"):
        embeddings.index(trained.path, held, tmp_path / "no", modality="audio")

    system, sample = oculex.load(trained.path), open_source(held)[5]
    batch = collate([system.view(sample, None)])
    ids, values = embedded(trained.path, tmp_path / "depth.parquet", held, "depth")
    with torch.no_grad():
        mine = system.encode_modality("depth", batch)[0]
        text = system.encode_text(collate([system.view({"id": "q", "caption": place(5)}, None)]))[0]
    assert values[ids.index(sample["id"])] == pytest.approx(mine.numpy(), abs=1e-5)

    parities = export.export_run(trained.path, "open_clip", tmp_path / "clip", modality="depth")
    peer, *_ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'clip'}")
    grey = (255 * batch["depth"].expand(-1, 3, -1, -1) - system.mean) / system.std
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'clip'}")([place(5)])
    with torch.no_grad():
        theirs = peer.eval().encode_image(grey, normalize=True)[0]
        torch.testing.assert_close(theirs, mine, atol=1e-4, rtol=0)
        torch.testing.assert_close(peer.encode_text(ids, normalize=True)[0], text, atol=1e-4, rtol=0)
    error = {"open_clip": max(parity.max_abs_error for parity in parities)}
    assert error["open_clip"] <= 1e-4
    evidence("languagebind", "usable", search="of the 48 best for 16 texts so many are right, by chance 3: "
             + ", ".join(f"{kind} {count}" for kind, count in right.items()),
             reloaded="evaluated again with equal metrics", export_max_abs_error=error,
             exported="the encoder of depth, its low-rank parts merged")  # fmt: skip


def embedded(run, out, source, kind):
    import pyarrow.parquet as pq

    assert embeddings.embed(run, out, images=source, modality=kind) == 48
    table = pq.read_table(out)
    return table["id"].to_pylist(), np.array(table["embedding"].to_pylist(), np.float32)


# ------------------------------------------------------------------------------------------------------ real sounds

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TOWERS = {"image_tower": "vit", "image_size": 64, "patch": 8, "width": 128, "layers": [3], "heads": 2, "embedding": 128,
          "activation": "gelu", "text_width": 128, "text_layers": 2, "text_heads": 2, "context": 32, "vocabulary": 2048,
          "data.workers": 0, "logging.every": 10}  # fmt: skip
PHOTOS = TOWERS | {"tokenizer": "corpus:2048", "crop": [0.4, 1.0], "batch": 128, "optimizer.lr": 1e-3,
                   "evaluation.tasks": ["retrieval"]}  # fmt: skip
SOUNDS = TOWERS | {"batch": 60, "precision": "bf16-mixed", "optimizer.lr": 4e-3, "optimizer.weight_decay": 0.1,
                   "optimizer.clip_norm": 1.0, "stages.0.schedule.warmup": 0.05, "bins": 64, "length": 64,
                   "mel": [-7.7, 5.1], "data.holdout": 0.0}  # fmt: skip


def spoken(wavs, folder, held):
    """Recordings 0, 2, 4 and 6 of each digit and speaker, or, held out, number 8; the caption says which digit it is."""
    folder.mkdir()
    rows = ["audio,caption"]
    for path in sorted(wavs.glob("*.wav")):
        digit, _, number = path.stem.split("_")
        if (number == "8") == held:
            shutil.copy(path, folder)
            rows.append(f"{path.name},the digit {DIGITS[int(digit)]}")
    (folder / "captions.csv").write_text("\n".join(rows))
    return str(folder)


def test_spoken_digits_are_found_by_their_words(real_data, tmp_path, evidence):
    """From a CLIP of real photos; for the record with enough updates that held-out recordings are named beyond chance."""
    full = evidence.recording
    data, held = (spoken(real_data / "fsdd", tmp_path / str(out), out) for out in (False, True))
    clip = runs.train("clip", data=[str(real_data / "flickr8k_thumbs")], out=tmp_path / "clip",
                      budget="40steps" if full else "4steps", changes=PHOTOS, quiet=True)  # fmt: skip
    changes = SOUNDS | {"foundation": str(clip.path), "tokenizer": f"from:{clip.path}"}
    steps = 400 if full else 20
    run = runs.train("languagebind", "audio", data=[data], out=tmp_path / "run", budget=f"{steps}steps",
                     changes=changes, quiet=True)  # fmt: skip
    system, source = oculex.load(run.path), open_source(held)
    _, sounds = embed(system, source, "audio")
    words = collate([system.view({"id": word, "caption": f"the digit {word}"}, None) for word in DIGITS])
    with torch.no_grad():
        answers = (torch.from_numpy(sounds) @ system.encode_text(words).T).argmax(1)
    truth = [DIGITS.index(sample["captions"][0].split()[-1]) for sample in source]
    right = float((answers == torch.tensor(truth)).float().mean())
    assert len(truth) == len(sounds) == 60
    assert np.allclose(np.linalg.norm(sounds, axis=1), 1, atol=1e-5)
    if full:
        losses = [line["loss"] for line in read_lines(run.metrics)]
        assert losses[-1] < losses[0]
        low, high = wilson(right, len(truth))
        assert low > 0.1
        evidence("languagebind", "real_data", data="Free Spoken Digit Dataset: 240 recordings of ten digits by six "
                 "speakers, 60 others of the same held out; the text tower is of 40 updates on Flickr8k",
                 budget=f"{steps} steps of {SOUNDS['batch']}", chance=0.1,
                 right={"value": right, "low": low, "high": high, "n": len(truth)})  # fmt: skip
