"""Fine-tuning on few labels: who is tuned, on what, and what "untrained" is compared with."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oculex import runs
from oculex.contracts import UserError
from oculex.evaluation import EvalSet, Untrained, evaluate, finetune
from oculex.evaluation.finetune import Settings, few, tune
from oculex.systems.baselines.dino import DINO, DINOConfig
from oculex.systems.baselines.mae import MAE, MAEConfig
from oculex.training import reopen
from tests import toys
from tests.evaluation.test_fakes import Listed

SHORT = Settings(shots=3, updates=6, batch=4)
SIZES = {"image_size": 16, "patch": 8, "width": 16, "layers": (2,), "heads": 2, "pool": "mean"}
CLASSES = ("dark", "middle", "bright")


def mae(seed=0):
    torch.manual_seed(seed)
    return MAE(MAEConfig(**SIZES, decoder_width=8, decoder_layers=1, decoder_heads=2)).eval()


def dino():
    torch.manual_seed(0)
    return DINO(DINOConfig(**SIZES, prototypes=8, hidden=8, bottleneck=4, small_size=8, small_crops=1)).eval()


def greys(count, name="greys", broken=(), seed=0):
    """Noisy pictures of three greys, one after the other."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        pixels = np.clip(60 + 60 * (index % 3) + rng.normal(0, 10, (20, 20, 3)), 0, 255)
        made.append({"id": f"{name}-{index}", "image": pixels.astype(np.uint8), "label": index % 3})
    return Listed(made, CLASSES, name, broken)


def weights(system):
    return {name: value.clone() for name, value in system.state_dict().items()}


def same(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


# ------------------------------------------------------------------------------------- labelled images


def test_so_many_readable_images_of_each_class_are_chosen():
    view = mae().view
    chosen = few(greys(60), view, SHORT)
    assert sorted(example.label for example in chosen) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [example.sample["id"] for example in chosen] == [
        e.sample["id"] for e in few(greys(60), view, SHORT)
    ]
    broken = [int(chosen[0].sample["id"].split("-")[1])]
    again = few(greys(60, broken=broken), view, SHORT)
    assert chosen[0].sample["id"] not in {example.sample["id"] for example in again}
    assert sorted(example.label for example in again) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_fewer_shots_are_among_more_and_a_small_class_gives_all_it_has():
    view = mae().view
    one = {e.sample["id"] for e in few(greys(60), view, replace(SHORT, shots=1))}
    assert one < {e.sample["id"] for e in few(greys(60), view, SHORT)}
    assert len(few(greys(7), view, replace(SHORT, shots=100))) == 7


class Counted(Listed):
    """Counts what is read."""

    read = 0

    def __getitem__(self, index):
        self.read += 1
        return super().__getitem__(index)


def test_the_source_is_read_no_further_than_is_needed():
    source = Counted(greys(600).samples, CLASSES)
    few(source, mae().view, SHORT)
    assert source.read < 60


def test_a_label_that_is_no_class_is_named():
    source = greys(6)
    source.samples[2]["label"] = 3
    with pytest.raises(UserError, match=r"greys-2 has label 3, not 0\.\.2"):
        few(source, mae().view, SHORT)


# ------------------------------------------------------------------------------------------ what is tuned


def test_a_copy_is_tuned_and_all_else_stays():
    system = mae()
    before, state = weights(system), torch.get_rng_state()
    with torch.inference_mode():
        tuned = tune(system, few(greys(60), system.view, SHORT), 3, settings=SHORT)
    assert same(before, weights(system))
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in system.parameters())
    now = tuned.system.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, now[name])}
    encoder = {name for name, _ in system.named_parameters() if name.startswith("image.")}
    assert moved == encoder  # neither the decoder nor the fixed positions
    assert not tuned.training


def test_tuning_repeats_itself_and_follows_its_seed():
    system = mae()
    first, second, other = (
        tune(system, few(greys(60), system.view, s), 3, settings=s)
        for s in (SHORT, SHORT, replace(SHORT, seed=1))
    )
    assert same(weights(first), weights(second))
    assert not torch.equal(first.head.weight, other.head.weight)


def test_a_teacher_that_represents_images_is_tuned_itself():
    """DINO shows its teacher's encoder, whose weights are buffers while it follows."""
    system = dino()
    before = weights(system)
    tuned = tune(system, few(greys(60), system.view, SHORT), 3, settings=SHORT)
    now = tuned.system.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, now[name])}
    assert moved == {f"teacher.image.{name}" for name, _ in system.image.named_parameters()}
    assert same(before, weights(system))
    assert not dict(system.teacher.named_parameters())


def test_gains_and_biases_are_not_decayed():
    model = finetune.Tuned(mae(), 3, 16, 0)
    model({"image": torch.zeros(1, 3, 16, 16, dtype=torch.uint8)}).sum().backward()
    decayed, spared = finetune._optimizer(model, SHORT).param_groups
    assert decayed["weight_decay"] == SHORT.weight_decay
    assert spared["weight_decay"] == 0
    assert any(parameter is model.head.weight for parameter in decayed["params"])
    assert {parameter.ndim for parameter in spared["params"]} == {1}
    tuned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert len(decayed["params"]) + len(spared["params"]) == len(tuned)


# ------------------------------------------------------------------------------------------- what is said


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(finetune, "SETTINGS", Settings(shots=8, updates=40, batch=8, lr=3e-3))


def asked(system, untrained=None, **more):
    sets = {"s": EvalSet("s", greys(30, "held", seed=1), greys(60))}
    return evaluate(system, sets, tasks=["finetune"], untrained=untrained, **more)


def test_it_learns_from_labels_and_is_paired_with_the_untrained(short):
    found = asked(mae(), Untrained(lambda: mae(seed=5)))
    metrics = found.metrics
    assert metrics["s/finetune/top1"].value > 0.9
    assert metrics["s/finetune/top1"].n == 30
    assert metrics["s/finetune/chance_top1"].value == pytest.approx(1 / 3)
    gain = metrics["s/finetune/top1"].value - metrics["s/finetune/untrained_top1"].value
    assert metrics["s/finetune/gain_over_untrained"].value == pytest.approx(gain)
    assert len(found.table) == 60


def test_it_learns_under_an_evaluation_of_half_precision_too(short):
    """Its autocast keeps cast weights for as long as it lasts: those of the first update are not what is asked."""
    found = asked(mae(), Untrained(lambda: mae(seed=5)), precision="bf16-mixed").metrics
    assert found["s/finetune/top1"].value > 0.9
    assert found["s/finetune/untrained_top1"].value > 0.9


def test_a_system_gains_nothing_over_itself(short):
    """Equal weights, images, order, crops and first classifier: every answer is the same."""
    found = asked(mae(), Untrained(mae)).table
    own, fresh = (found.rows(found.where(control=control)) for control in ("", "untrained"))
    assert own["output"].tolist() == fresh["output"].tolist()
    gain = asked(mae(), Untrained(mae)).metrics["s/finetune/gain_over_untrained"]
    assert gain.value == 0
    assert -gain.low == gain.high > 0  # of these images alone, no more is known


def test_the_untrained_is_tuned_once(short):
    built = []
    untrained = Untrained(lambda: built.append(0) or mae(seed=5))
    first, second = asked(mae(), untrained), asked(mae(seed=2), untrained)
    assert len(built) == 1
    assert first.metrics["s/finetune/untrained_top1"] == second.metrics["s/finetune/untrained_top1"]


def test_what_was_answered_is_not_tuned_for_again(short, tmp_path, monkeypatch):
    first = asked(mae(), Untrained(lambda: mae(seed=5)), cache=tmp_path)
    monkeypatch.setattr(finetune, "tune", lambda *_: pytest.fail("tuned again"))
    assert asked(mae(), Untrained(lambda: mae(seed=5)), cache=tmp_path).metrics == first.metrics


def test_it_is_run_where_it_is_named_alone(short):
    sets = {"s": EvalSet("s", greys(30, "held", seed=1), greys(60))}
    everything = evaluate(mae(), sets)
    assert {"knn", "probe"} <= set(everything.table["task"])
    assert "finetune" not in everything.table["task"]
    assert not any(name.endswith("finetune") for name in everything.refused)
    assert {"knn", "finetune"} <= set(evaluate(mae(), sets, also=["finetune"]).table["task"])
    with pytest.raises(UserError, match="no evaluation task finetuning"):
        evaluate(mae(), sets, also=["finetuning"])


def test_a_training_part_is_needed():
    found = evaluate(mae(), {"s": EvalSet("s", greys(9))}, tasks=["finetune"])
    assert found.refused == {"s/finetune": "the set has no training part"}


# --------------------------------------------------------------------------------------------- of runs

SMALL = ["image_size=16", "patch=8", "width=16", "layers=[1]", "heads=2", "decoder_width=8", "decoder_layers=1",
         "decoder_heads=2", "batch=8", "data.workers=0", "data.holdout=0.25", "precision=32-true"]  # fmt: skip


def test_fresh_weights_are_those_that_the_run_began_with(short, tmp_path):
    """So a run whose rate is 0 gains nothing, and `oculex evaluate` says again what the run said."""
    data = [str(toys.squares(tmp_path / "data"))]
    still = [*SMALL, "optimizer.lr=0", 'evaluation.tasks=["finetune"]']
    run = runs.train("mae", data=data, out=tmp_path / "run", budget="2steps", changes=still, quiet=True)
    fresh = reopen.fresh(reopen.load_recipe(run), run)
    assert same(weights(fresh), weights(runs.load(run.path)))
    metrics = runs.evaluate(run.path)["metrics"]
    assert metrics["squares.parquet/finetune/gain_over_untrained"]["value"] == 0
    assert metrics["squares.parquet/finetune/untrained_top1"]["n"] == 60
    assert "squares.parquet/knn/top1" in metrics
