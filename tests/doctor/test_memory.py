"""The estimate against what real updates take."""

import resource
from dataclasses import replace

import pytest
import torch
from torch import nn

from oculex.contracts import Plugin, Recipe, System
from oculex.data.assets import RunAssets
from oculex.training import memory
from tests.doctor import peak

RESNET = {"image_tower": "resnet", "layers": [1, 1, 1], "width": 16, "heads": 4}
CHECKED: dict[str, dict] = {
    "vit": {"batch": 48},
    "fp32": {"batch": 32, "precision": "32-true"},
    "micro-batches": {"batch": 96, "accumulate": 6},
    "recomputed": {"batch": 96, "activation_checkpointing": True},
    "averaged": {"batch": 16, "ema": 0.9, "vocabulary": 20_000},
    "resnet": {"batch": 24, **RESNET},
    "pairs": {
        "batch": 2048,
        "accumulate": 64,
        "image_size": 32,
        "layers": [1],
        "width": 32,
        "heads": 1,
        "text_width": 32,
        "text_heads": 1,
        "text_layers": 1,
    },
}


@pytest.mark.parametrize("name", CHECKED)
def test_the_estimate_is_within_a_tenth_of_what_the_allocator_handed_out(name):
    estimate = memory.estimate(*peak.configured(CHECKED[name])).peak
    assert estimate == pytest.approx(peak.allocated(CHECKED[name]), rel=0.1)


@pytest.mark.skipif(not memory.Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_the_process_grows_by_what_was_estimated():
    """With room for what the libraries keep: a large enough batch makes that small."""
    changes = {"batch": 192, "precision": "32-true"}
    estimate = memory.estimate(*peak.configured(changes)).peak
    assert 0.85 * estimate < peak.resident_alone(changes) < 1.25 * estimate


def test_the_parts_sum_to_the_peak_and_are_what_they_are_called():
    recipe, assets, views = peak.configured({"batch": 32})
    found = memory.estimate(recipe, assets, views)
    assert sum(getattr(found, kind) for kind in memory.KINDS) == found.peak
    c = recipe.model
    weights = sum(p.numel() for p in peak.catalog.load("clip").system.build(c, assets).parameters())
    assert found.weights == pytest.approx(4 * weights, rel=0.01)
    assert found.optimizer == pytest.approx(8 * weights, rel=0.01)  # two moments in float32
    assert found.batch >= 32 * 3 * c.image_size**2
    sgd = replace(recipe, optimizer=replace(recipe.optimizer, part="sgd", momentum=0.0))
    assert memory.estimate(sgd, assets, views).optimizer < 0.01 * found.optimizer


def test_nothing_is_allocated():
    """A batch of which the activations would take gigabytes is estimated without them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = memory.estimate(*peak.configured({"batch": 64_000, "accumulate": 2}))
    assert found.activations > 1e10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


class Pairs(System, nn.Module):
    """All that it needs are the similarities of all pairs, [B, B] in float32."""

    gathers = ("a",)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    @classmethod
    def build(cls, config, assets):
        return cls()

    def encode(self, batch):
        return {"a": batch["x"] @ self.weight}

    def losses(self, features, batch):
        return {"pairs": (features["a"] @ features.all("a").T).exp().sum(dim=1)}


class Picks(Pairs):
    """Its shapes follow from ids and masks that have values, as masked losses do, or from features, which have none."""

    gathers = ()
    values = False

    def losses(self, features, batch):
        x = features["a"]
        where = torch.arange(len(x)) % 2 == 0 if not self.values else x[:, 0] > 0
        return {"picked": x[where].sum(dim=1)}

    def items(self, batch):
        return {"picked": 1}


class PicksByValue(Picks):
    values = True


def estimated(kind, monkeypatch, batch, tmp_path):
    plugin = Plugin(system=kind, config=type(None), presets={})
    monkeypatch.setattr(memory.catalog, "load", lambda name: plugin)
    recipe = Recipe(system="toy", model=None, batch=batch, precision="32-true")
    return memory.estimate(recipe, RunAssets(tmp_path, None), [{"x": torch.ones(4)}])


def test_the_losses_share_is_quadratic_in_the_batch(monkeypatch, tmp_path):
    small, large = (estimated(Pairs, monkeypatch, n, tmp_path).peak for n in (1000, 2000))
    assert large == pytest.approx(4 * small, rel=0.05)
    assert small >= 2 * 4 * 1000**2


def test_masks_with_values_are_followed_and_those_without_are_said(monkeypatch, tmp_path):
    assert estimated(Picks, monkeypatch, 100, tmp_path).peak > 0
    with pytest.raises(memory.DependsOnData, match="PicksByValue"):
        estimated(PicksByValue, monkeypatch, 100, tmp_path)
