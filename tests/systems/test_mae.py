"""MAE against its authors' code, its mask and decoder, and that it learns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from oculex.contracts import Features, UserError
from oculex.runs import describe
from oculex.systems.baselines.mae import MAE, SYSTEM, MAEConfig
from tests.systems import ssl

SMALL = MAEConfig(image_size=32, patch=8, width=32, layers=(2,), heads=2, decoder_width=16, decoder_layers=1,
                  decoder_heads=2)  # fmt: skip
PUBLISHED = {"vit_b_16": 111_907_840, "vit_l_16": 329_541_888, "vit_h_14": 657_074_508}
"""Of the authors' models, their fixed positions included."""


def model(config=SMALL):
    torch.manual_seed(0)
    return MAE(config)


@pytest.fixture(scope="module")
def golden():
    return np.load(Path(__file__).parents[1] / "golden" / "mae.npz")


def test_encoder_decoder_and_loss_are_the_authors(golden, evidence):
    ours = model()
    weights = ssl.fixed_weights(ours) | {"image.positions": torch.from_numpy(golden["positions"])}
    positions = ours.image.positions.clone()
    ours.load_state_dict(weights)
    keep = torch.from_numpy(golden["keep"])
    hidden = torch.from_numpy(np.stack([np.setdiff1d(np.arange(16), row) for row in golden["keep"]]))
    batch = {"image": torch.from_numpy(golden["image"]), "keep": keep, "hidden": hidden}
    features = ours.encode(batch)
    drawn, _ = ours.image.cut(torch.from_numpy(golden["prediction"]))
    wanted = drawn.gather(1, hidden[..., None].expand(-1, -1, drawn.shape[2]))
    predicted = ours.decoder(features["latent"], keep, hidden)
    loss = ours.losses(Features(features), batch)["reconstruction"]
    ours.config = replace(SMALL, normalise_targets=False)
    raw = ours.losses(Features(features), batch)["reconstruction"]
    given = {name: golden[name] for name in ("positions", "latent", "loss", "loss_of_pixels")}
    got = {"latent": features["latent"], "prediction": predicted, "positions": positions}
    got |= {"loss": loss.mean(), "loss_of_pixels": raw.mean()}
    error = ssl.errors(given | {"prediction": wanted.numpy()}, got)
    evidence("mae", "golden", peer=str(golden["provenance"]), max_abs_error=error)


@pytest.mark.parametrize("preset", PUBLISHED)
def test_parameter_counts_are_the_published_ones(preset, evidence):
    count = describe("mae")["presets"][preset]["parameters"]
    config = SYSTEM.presets[preset]().model
    positions = (1 + (config.image_size // config.patch) ** 2) * (config.width + config.decoder_width)
    assert count + positions == PUBLISHED[preset]
    evidence(
        "mae",
        "preset",
        parameters=count,
        equals=f"the authors' {preset}, whose {positions:,} fixed positions count too",
    )


def test_hidden_patches_are_never_encoded():
    """What a hidden patch shows changes nothing but its own target."""
    ours = model()
    batch = ssl.training_batch(ours)
    before = ours.encode(batch)["latent"]
    where = batch["hidden"][0, 0]
    row, column = divmod(int(where), 4)
    batch["image"] = batch["image"].clone()
    batch["image"][0, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 0
    assert torch.equal(ours.encode(batch)["latent"], before)
    seen = int(batch["keep"][0, 0])
    batch["image"][0, :, seen // 4 * 8, seen % 4 * 8] = 255
    assert not torch.equal(ours.encode(batch)["latent"], before)


def test_the_positions_are_never_trained():
    ours = model()
    assert "image.positions" in ours.state_dict()
    assert "image.positions" not in dict(ours.named_parameters())


def test_micro_batches_change_nothing():
    batch = ssl.training_batch(model())
    ssl.same(ssl.update(model(), batch, accumulate=4), ssl.update(model(), batch))


def test_another_tower_is_refused_in_one_line():
    pytest.importorskip("timm")
    with pytest.raises(UserError, match="image_tower=plain"):
        model(replace(SMALL, image_tower="resnet18"))


def test_it_learns_what_hidden_patches_look_like(evidence):
    """Pictures of one colour each: the seen patches tell the hidden ones', to a tenth of the colours' variance."""
    ours = model(replace(SMALL, normalise_targets=False))
    optimizer = torch.optim.AdamW(ours.parameters(), lr=3e-3, weight_decay=0.0)
    batch, generator, losses = ssl.training_batch(ours, 32), torch.Generator().manual_seed(0), []
    for _ in range(80):
        colours = torch.randint(0, 256, (32, 3, 1, 1), generator=generator, dtype=torch.uint8)
        batch["image"] = colours.expand(-1, -1, 32, 32)
        loss = ours.losses(Features(ours.encode(batch)), batch)["reconstruction"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    variance = float((256**2 / 12 / ours.std**2).mean())
    assert losses[0] > variance / 2
    learned = float(np.mean(losses[-5:]))
    assert learned < variance / 10
    evidence(
        "mae", "learning", task="colours of hidden patches, 80 steps of 32", error=learned, variance=variance
    )
