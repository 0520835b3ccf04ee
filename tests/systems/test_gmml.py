"""GMML against its authors' code: masks, corruption, decoder and loss; exactness under ranks and micro-batches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import oculex
from oculex import export, runs
from oculex.contracts import Features, UserError
from oculex.data.collate import rows
from oculex.evaluation import finetune
from oculex.nn.corruption import corrupted
from oculex.nn.masking import grouped_mask
from oculex.systems.selfsup.gmml import GMML, GMMLConfig
from oculex.training.folder import read_lines
from tests import toys
from tests.systems import ssl

SMALL = GMMLConfig(
    image_size=32, patch=8, width=32, layers=(4,), heads=2, drop_path=0.0, decoded=(2, 4), crops=1
)
PUBLISHED = {"vit_s_16": 22_404_099, "vit_b_16": 88_160_259}
"""The authors' backbone and their reconstruction head."""


def model(config=SMALL):
    torch.manual_seed(0)
    return GMML(config)


@pytest.fixture(scope="module")
def golden():
    return np.load(Path(__file__).parents[1] / "golden" / "gmml.npz")


@pytest.mark.parametrize(
    ("name", "share", "align", "seed"),
    [("pixels", 0.6, 1, 0), ("aligned", 0.6, 8, 1), ("oblong", 0.75, 16, 2), ("small", 0.3, 1, 3)],
)
def test_groups_are_the_authors(golden, name, share, align, seed):
    wanted = golden[f"mask_{name}"]
    assert np.array_equal(grouped_mask(wanted.shape, share, np.random.default_rng(seed), align), wanted)


def test_corruption_reconstruction_and_loss_are_the_authors(golden, evidence):
    ours = model()
    ours.load_state_dict(ssl.fixed_weights(ours))
    clean = (torch.from_numpy(golden["image"]).float() - ours.mean) / ours.std
    hidden = torch.from_numpy(golden["hidden"])
    other = torch.tensor([1, 2, 3, 4, 0])
    pixels = corrupted(clean, hidden, "noise", torch.ones(5, dtype=torch.bool), other)
    predicted = ours.decoder(ours._decoded(pixels))
    batch = {"hidden": hidden[:, None]}
    features = Features({"predicted": predicted, "clean": ours.image.cut(clean)[0]})
    total = ours.losses(features, batch)["reconstruction"].sum() / ours.items(batch)["reconstruction"]
    wanted, _ = ours.image.cut(torch.from_numpy(golden["reconstruction"]))
    given = {"corrupted": golden["corrupted"], "reconstruction": wanted.numpy(), "loss": golden["loss"]}
    got = {"corrupted": pixels, "reconstruction": predicted, "loss": total}
    error = ssl.errors(given, got)
    evidence("gmml", "golden", peer=str(golden["provenance"]), max_abs_error=error)


@pytest.mark.parametrize("preset", PUBLISHED)
def test_parameter_counts_are_the_published_ones(preset, evidence):
    count = runs.describe("gmml")["presets"][preset]["parameters"]
    assert count == PUBLISHED[preset]
    evidence(
        "gmml", "preset", parameters=count, equals=f"the authors' {preset} with their reconstruction head"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"mask": "stripes"}, "mask='stripes' is unknown; known: random, grouped, block"),
     ({"content": "rain"}, "content='rain' is unknown"), ({"decoded": (2, 6)}, "some of the 4 blocks")],
)  # fmt: skip
def test_a_mistake_in_the_configuration_is_named(wrong, message):
    with pytest.raises(UserError, match=message):
        model(replace(SMALL, **wrong))


@pytest.mark.parametrize("mask", ["grouped", "random", "block"])
def test_views_say_what_is_corrupted(mask):
    ours = model(replace(SMALL, crops=2, mask=mask, align=8))
    batch = ssl.training_batch(ours)
    share = batch["hidden"].float().mean(dim=(2, 3))
    alien = batch["alien"]
    assert alien.any()
    assert not alien.all()
    assert (share[alien] < 0.5).all()
    assert (share[~alien] >= 0.5 - 1 / 16).all()


def test_only_what_is_corrupted_counts():
    ours = model()
    batch = ssl.training_batch(ours)
    features = ours.encode(batch)
    loss = ours.losses(Features(features), batch)["reconstruction"]
    mask = ours._corrupted_values(batch["hidden"])
    elsewhere = features["clean"] + 5 * (1 - mask)
    same = ours.losses(Features({**features, "clean": elsewhere}), batch)["reconstruction"]
    torch.testing.assert_close(same, loss)
    inside = features["predicted"] + 1
    exact = ours.losses(Features({"predicted": inside, "clean": features["predicted"]}), batch)
    torch.testing.assert_close(
        exact["reconstruction"].sum(), torch.tensor(float(ours.items(batch)["reconstruction"]))
    )


def test_it_learns_what_was_there_before_the_corruption(evidence):
    """Pictures of one colour each: what is left tells what was corrupted; a constant errs by their spread."""
    ours = model(replace(SMALL, content="zeros", alien=0.0))
    optimizer = torch.optim.AdamW(ours.parameters(), lr=3e-3, weight_decay=0.0)
    batch, generator, errors = ssl.training_batch(ours, 32), torch.Generator().manual_seed(0), []
    values = ours.items(batch)["reconstruction"]
    for _ in range(200):
        colours = torch.randint(0, 256, (32, 1, 3, 1, 1), generator=generator, dtype=torch.uint8)
        batch["crops"] = colours.expand(batch["crops"].shape).clone()
        error = ours.losses(Features(ours.encode(batch)), batch)["reconstruction"].sum() / values
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    learned, spread = float(np.mean(errors[-5:])), float((256 / 4 / ours.std).mean())
    assert learned < 0.65 * spread
    evidence(
        "gmml", "learning", task="colours of corrupted patches, 200 steps of 32", error=learned, spread=spread
    )


def test_micro_batches_give_the_global_mean():
    """Micro-batches draw their own noise; with other content the update is the whole batch's."""
    config = replace(SMALL, content="zeros", alien=0.0)
    batch = ssl.training_batch(model(config))
    ssl.same(ssl.update(model(config), batch, accumulate=4), ssl.update(model(config), batch))


def quiet():
    return model(replace(SMALL, content="mean", alien=0.0))


def test_ranks_change_nothing(pool):
    wanted = ssl.update(quiet(), ssl.training_batch(quiet()))
    for got in pool.run(ssl.update_on_rank, quiet, pool.ranks, 8):
        ssl.same(got, wanted)


def test_alien_content_comes_from_another_row():
    image = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    hidden = torch.zeros(4, 2, 2, dtype=torch.bool)
    hidden[:, 0] = True
    alien = torch.tensor([True, False, True, False])
    out = corrupted(image, hidden, "zeros", alien, torch.tensor([3, 3, 1, 1]))
    assert out[:, 0, 0, 0].tolist() == [3, 0, 1, 0]
    assert out[:, 0, 1, 0].tolist() == [0, 1, 2, 3]


def test_a_batch_of_one_has_only_itself():
    ours = model(replace(SMALL, alien=1.0))
    batch = rows(ssl.training_batch(ours), 0, 1)
    assert torch.isfinite(ours.encode(batch)["predicted"]).all()


@pytest.mark.parametrize("name", ["gmml", "mae", "dino"])
def test_real_photographs_are_trained_on_and_judged_by(name, real_data, tmp_path):
    """CIFAR-10's files, a class in each folder of a tar: views, updates, and nearest neighbours on held-out ones."""
    small = ["image_size=32", "patch=8", "width=32", "layers=[2]", "heads=2", "batch=16", "data.workers=0"]
    own = {
        "gmml": ["decoded=[2]"],
        "mae": ["decoder_width=16", "decoder_layers=1", "decoder_heads=2"],
        "dino": ["prototypes=32", "hidden=32", "bottleneck=8", "small_size=16", "small_crops=2"],
    }
    changes = [*small, *own[name], 'evaluation.tasks=["knn"]', "precision=32-true"]
    data = [str(real_data / "cifar10")]
    folder = runs.train(name, data=data, out=tmp_path / name, budget="3steps", changes=changes, quiet=True)
    [line] = read_lines(folder.evaluations)
    accuracy = line["metrics"]["cifar10/knn/top1"]
    assert accuracy["n"] == 200
    assert accuracy["value"] > 0.1
    losses = [entry["loss"] for entry in read_lines(folder.metrics)]
    assert np.isfinite(losses).all()


def test_few_labels_of_real_photographs_go_further(real_data, tmp_path, monkeypatch, evidence):
    """For the record at full length: 1,000 photographs without labels, then ten labels of each class, asked of another
    1,000; beside the same network without the first. The interval of the gain leaves out 0. Seed 0 chose the budget."""
    budget = "300000samples" if evidence.recording else "3steps"
    if not evidence.recording:
        monkeypatch.setattr(finetune, "SETTINGS", replace(finetune.SETTINGS, updates=2))
    changes = ["seed=1", "data.holdout=0.5", "data.workers=0", 'evaluation.tasks=["finetune"]']
    folder = runs.train("gmml", data=[str(real_data / "cifar10")], out=tmp_path / "run", budget=budget,
                        changes=changes, quiet=True)  # fmt: skip
    [line] = read_lines(folder.evaluations)
    found = {name.removeprefix("cifar10/finetune/"): value for name, value in line["metrics"].items()}
    assert found["gain_over_untrained"]["n"] == 1000
    if evidence.recording:
        assert found["gain_over_untrained"]["low"] > 0
        assert found["top1"]["low"] > found["chance_top1"]["value"]
        kept = ("top1", "untrained_top1", "gain_over_untrained")
        evidence("gmml", "real_data", data="CIFAR-10: 1,000 photographs, 10 labels of each class, 1,000 held out",
                 budget=budget, **{name: found[name] for name in kept})  # fmt: skip


# ------------------------------------------------------------------------------------ after training

TOY = ["image_size=16", "patch=8", "width=32", "layers=[2]", "heads=2", "batch=32", "data.workers=0", "data.holdout=0.25",
       "precision=32-true", "logging.every=20"]  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """(run, data): GMML trained on squares of eight colours for 60 updates."""
    folder = tmp_path_factory.mktemp("pretrained")
    data = [str(toys.squares(folder / "data"))]
    changes = [*TOY, "decoded=[1,2]", "optimizer.lr=3e-3", 'evaluation.tasks=["knn"]']
    return runs.train(
        "gmml", data=data, out=folder / "run", budget="60steps", changes=changes, quiet=True
    ), data


def test_what_it_learnt_is_saved_evaluated_again_exported_and_tuned(pretrained, tmp_path, evidence):
    run, data = pretrained
    [line] = read_lines(run.evaluations)
    wanted = line["metrics"]["squares.parquet/knn/top1"]
    again = runs.evaluate(run.path)["metrics"]["squares.parquet/knn/top1"]
    assert again == wanted
    assert wanted["low"] > 1 / 8
    (parity,) = export.export_run(run.path, "timm", tmp_path / "timm")
    still = [*TOY, "optimizer.lr=0", f"init.run={run.path}", 'evaluation.tasks=["classify"]']
    tuned = runs.train(
        "supervised", data=data, out=tmp_path / "tuned", budget="1steps", changes=still, quiet=True
    )
    image = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    ours, theirs = oculex.load(run.path), oculex.load(tuned.path)
    assert torch.equal(ours.represent_image({"image": image}), theirs.represent_image({"image": image}))
    evidence("gmml", "usable", evaluated_again=again, export_to_timm_max_abs_error=parity.max_abs_error,
             used="as the first weights of supervised, with equal features")  # fmt: skip
