"""RT-2: actions are answers, learnt beside answers; only actions are said to a robot; it learns to act by looking."""

import importlib.util
import json
from fnmatch import fnmatch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning_fabric import Fabric

from oculex import catalog, inference, runs
from oculex.contracts import Acts, Answers, BadSample, UserError
from oculex.data.actions import ActionSpace
from oculex.data.assets import RunAssets
from oculex.data.collate import collate
from oculex.nn.language.causal import language_model
from oculex.systems.embodied.rt2 import RT2, SYSTEM, RT2Config
from oculex.training.folder import read_lines
from oculex.training.reopen import load
from oculex.training.step import Trainee, backward

pytest.importorskip("mujoco", reason="the simulator needs oculex[robot]")
pytest.importorskip("gymnasium", reason="the simulator needs oculex[robot]")

SIZES = {"image_tower": "vit", "image_size": 32, "patch": 8, "width": 64, "layers": (2,), "heads": 2,
         "language": "llama", "language_width": 48, "language_layers": 2, "language_heads": 4, "context": 96,
         "vocabulary": 320, "tokenizer": "corpus:320", "after_image": "", "bins": 21,
         "action_tokens": "least_used"}  # fmt: skip
SPACE = ActionSpace(("terminate", "x", "y"), (0.0, -1.0, -1.0), (1.0, 1.0, 1.0), (2, 0, 0))


class Squares:
    """What a robot sees, is told and does: it goes to where the square is."""

    classes: tuple[str, ...] = ()
    name, actions = "squares", SPACE

    def __len__(self):
        return 40

    def fingerprint(self):
        return "squares"

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        x, y = rng.integers(0, 3, 2)
        image = np.full((32, 32, 3), 120, np.uint8)
        image[10 * y + 2 : 10 * y + 10, 10 * x + 2 : 10 * x + 10] = (220, 20, 20)
        return {"id": f"{index}.0", "image": image, "instruction": "go to the square",
                "action": np.array([index % 2, x - 1.0, y - 1.0], np.float32)}  # fmt: skip


def model(classes=(), **changes):
    torch.manual_seed(0)
    source = Squares()
    texts = ["go to the square", "what colour is the square", "red", "blue"]
    return RT2(
        RT2Config(**{**SIZES, "dimensions": 3} | changes),
        RunAssets(None, lambda: texts, classes, sources=(source,)),
    )


def test_a_demonstration_is_a_question_and_an_answer_of_action_tokens():
    system = model()
    sample = Squares()[3]
    view = system.view(sample, np.random.default_rng(0))
    learnt = [t for t, m in zip(view["tokens"], view["trained"], strict=True) if m]
    assert learnt == [*system.actions.encode(sample["action"]), system.tokenizer.end]
    assert set(learnt[:-1]) <= set(system.actions.ids.tolist())
    assert sum(view["visual"]) == system.visual == 16
    asked = system.view({key: sample[key] for key in ("id", "image", "instruction")}, None)
    assert view["tokens"][: len(asked["tokens"])] == asked["tokens"]
    assert "trained" not in asked
    words = [t for t, v in zip(asked["tokens"], asked["visual"], strict=True) if not v]
    shown = system.tokenizer.backend.decode(words, skip_special_tokens=True)
    assert " ".join(shown.split()) == "q: what action should the robot take to go to the square? a:"
    talk = {"id": "q", "image": sample["image"], "questions": [
        {"question": "What colour is the square?", "answer": "red", "kind": "colour"}]}  # fmt: skip
    answer = system.view(talk, np.random.default_rng(0))
    assert set(answer) == set(view)  # so both go into one batch
    assert (
        system.tokenizer.decode([t for t, m in zip(answer["tokens"], answer["trained"], strict=True) if m])
        == "red"
    )
    with pytest.raises(BadSample, match="has no action"):
        system.view({"id": "a", "image": sample["image"], "instruction": "go"}, np.random.default_rng(0))
    with pytest.raises(BadSample, match="more than context=30"):
        model(context=30).view(sample, np.random.default_rng(0))
    with pytest.raises(UserError, match="action_tokens='letters'"):
        model(action_tokens="letters")
    with pytest.raises(UserError, match="set dimensions=3"):
        model(dimensions=8)


def test_where_things_are_is_asked_of_a_picture_shown_whole():
    """Of the only one of a class; in bins of the square that the picture is fitted into."""
    boxes = np.array([[0, 0, 8, 8], [20, 4, 28, 12], [32, 12, 40, 20], [38, 18, 44, 24], [0, 0, 4, 4]])
    sample = {"id": "w", "image": np.full((20, 40, 3), 90, np.uint8), "boxes": boxes,
              "box_labels": np.array([0, 1, 1, 2, -1])}  # fmt: skip
    named = ("ball", "cube", "cone")
    system = model(named, places="where is the {}?", place_bins=10)
    # the middle of the first is (4, 4) of 40; the last is partly outside, two are no one place, and one has no class
    assert dict(system._places(sample)) == {"where is the ball?": "1 1", "where is the cone?": "9 5"}
    view = system.view(sample, np.random.default_rng(0))
    learnt = [t for t, m in zip(view["tokens"], view["trained"], strict=True) if m]
    assert system.tokenizer.decode(learnt).split() in (["1", "1", "9", "5"], ["9", "5", "1", "1"])
    assert view["image"].shape == (3, 32, 32)
    assert (view["image"][:, :16] == 90).all()
    assert (view["image"][:, 17:] != 90).all()  # the rest is filled
    with pytest.raises(BadSample, match="has neither captions"):
        model(named).view(sample, np.random.default_rng(0))
    with pytest.raises(UserError, match="a box has class 0, but there are 0 class names"):
        model(places="where is the {}?").view(sample, np.random.default_rng(0))


def test_micro_batches_of_robots_and_questions_change_nothing():
    """An action has as many tokens as it has, an answer another number: a mean of means would weigh them wrongly."""
    fabric, gradients = Fabric(accelerator="cpu", devices=1), []
    source = Squares()
    talk = {"id": "q", "image": source[0]["image"], "questions": [
        {"question": "What colour is the square?", "answer": "red", "kind": "colour"}]}  # fmt: skip
    for accumulate in (1, 3):
        system = model()
        samples = [source[0], talk, source[1], talk, source[2], source[3]]
        views = [system.view(s, np.random.default_rng(n)) for n, s in enumerate(samples)]
        backward(fabric, fabric.setup(Trainee(system)), collate(views), accumulate=accumulate, seed=0, step=0)
        gradients.append({n: p.grad for n, p in system.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], value, atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_an_untrained_model_says_valid_actions():
    system = model().eval()
    assert isinstance(system, Acts)
    assert isinstance(system, Answers)
    samples = [{k: Squares()[n][k] for k in ("id", "image", "instruction")} for n in range(12)]
    with torch.inference_mode():
        actions = system.act(collate([system.view(s, None) for s in samples])).numpy()
        blind = system.act(collate([system.view({"id": "a", "instruction": "go to the square"}, None)]))
    assert actions.shape == (12, 3)
    assert blind.shape == (1, 3)
    assert set(actions[:, 0]) <= {0.0, 1.0}
    assert (np.abs(actions[:, 1:]) <= 1).all()
    long = {"id": "a", "instruction": "go to the square " * 20}
    with pytest.raises(UserError, match="more than context=96; say it in fewer words"):
        system.act(collate([system.view(long, None)]))


def test_what_met_no_robot_is_asked_for_no_action():
    system = RT2(RT2Config(**SIZES, dimensions=3), RunAssets(None, lambda: ["what is red", "a ball"])).eval()
    with pytest.raises(UserError, match="was trained on no actions"):
        system.act(collate([system.view({"id": "a", "instruction": "go to the square"}, None)]))


TRAINING = {"language": "llama", "language_width": 48, "language_layers": 2, "language_heads": 4, "language_std": 0.125,
            "image_tower": "resnet", "image_size": 48, "width": 16, "layers": [1, 1, 1], "heads": 4, "positions": True,
            "context": 96, "vocabulary": 320, "tokenizer": "corpus:299", "after_image": "", "bins": 21,
            "instruction": "{}", "batch": 32, "precision": "32-true", "optimizer.lr": 2e-3, "optimizer.clip_norm": 1.0,
            "init.run": "", "data.workers": 0, "evaluation.limit": 200, "logging.every": 20}  # fmt: skip
"""A residual tower learns to see from so few pictures; a transformer from fresh weights does worse than a constant."""
ONE = "table:objects=1,episodes=600,size=48"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """On tables with one thing each."""
    changes = {**TRAINING, "data.sources": [ONE], "evaluation.tasks": ["imitation"],
               "evaluation.on": [ONE.replace("600", "40") + ",split=test"]}  # fmt: skip
    return runs.train(
        "rt2", out=tmp_path_factory.mktemp("rt2") / "run", budget="400steps", changes=changes, quiet=True
    )


def test_it_learns_what_a_demonstrator_does_by_looking(trained, evidence):
    found = list(read_lines(trained.evaluations))[-1]["metrics"]
    metrics = {name.rpartition("/")[2]: value for name, value in found.items()}
    assert metrics["gain_over_constant"]["low"] > 0
    assert metrics["gain_over_no_image"]["low"] > 0


def test_the_preset_learns_to_do_what_it_is_told(tmp_path, evidence):
    """In the closed loop, on held-out tables: better than by chance, untrained, blind, or told of another thing."""
    if not evidence.recording:
        pytest.skip("trains the whole preset, minutes; with --record-evidence")
    run = runs.train("rt2", out=tmp_path / "run", quiet=True)
    found = list(read_lines(run.evaluations))[-1]["metrics"]
    seen = {n.rpartition("/")[2]: v for n, v in found.items() if n.startswith("table/control/")}
    assert seen["success"]["n"] == 100
    for name in ("random_success", "untrained_success", "no_image_success", "wrong_instruction_success"):
        assert seen["success"]["low"] > seen[name]["high"]
    assert seen["gain_over_any_thing"]["low"] > 0
    evidence("rt2", "learning", task="the preset tiny: pushes the thing that it is told to, closed loop on 100 held-out "
             "tables of three things", unseen=found["unseen-table/control/success"], **{
                 name: seen[name] for name in ("success", "random_success", "untrained_success", "no_image_success",
                                               "wrong_instruction_success", "any_thing_success", "gain_over_any_thing",
                                               "expert_success")})  # fmt: skip


def test_runs_are_reloaded_played_and_shown(trained, evidence):
    """The command line's evaluation plays episodes; bounds and tokens of actions come with the weights."""
    system = load(trained)
    assert system.actions.bounds[1, 1] == pytest.approx(0.04)
    result = runs.evaluate(trained.path, on=[ONE.replace("600", "6") + ",split=test"])
    names = {name.rpartition("/")[2] for name in result["metrics"]}
    assert {
        "success",
        "random_success",
        "any_thing_success",
        "expert_success",
        "no_image_success",
        "untrained_success",
        "error",
    } <= names
    expert = result["metrics"]["table/control/expert_success"]
    assert expert["value"] == 1.0
    films = json.loads((trained.path / "films.json").read_text())
    assert len(films) == 6
    from oculex.report.page import write_report

    page = write_report(trained.path).read_text()
    assert page.count('<video src="data:video/mp4;base64,') == 6
    assert "media-src data:" in page
    evidence("rt2", "usable", saved_and_reloaded="oculex evaluate plays episodes with the reloaded run", expert=expert,
             films=f"{len(films)} episodes as MP4 in the run's page")  # fmt: skip


def test_it_says_what_it_would_do(trained, tmp_path, capsys):
    """From the command line and from Python, as the system itself."""
    from PIL import Image

    from oculex import cli

    paths = [tmp_path / f"{n}.png" for n in range(2)]
    for n, path in enumerate(paths):
        Image.fromarray(Squares()[n]["image"]).save(path)
    arguments = ["act", str(trained.path), "--instruction", "push the red cross"]
    cli.main([*arguments, "--image", *map(str, paths), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told == inference.act(trained.path, "push the red cross", paths)
    system = load(trained).eval()
    views = [
        system.view({"id": "a", "image": p.read_bytes(), "instruction": "push the red cross"}, None)
        for p in paths
    ]
    with torch.inference_mode():
        assert system.act(collate(views)).tolist() == [each["action"] for each in told]
    cli.main([*arguments, "--image", str(paths[0])])
    assert len(capsys.readouterr().out.split()) == 8
    cli.main(arguments)  # it sees nothing
    assert len(capsys.readouterr().out.split()) == 8
    with pytest.raises(UserError, match="give --instruction TEXT"):
        inference.act(trained.path, " ")


# ------------------------------------------------------------------------------------------------- presets

LANGUAGE = {"pali_x_5b": ("lmsys/vicuna-7b-v1.5", 6_738_415_616), "palm_e_12b": ("lmsys/vicuna-13b-v1.5", 13_015_864_320),
            "pali_x_55b": ("huggyllama/llama-65b", 65_285_660_672)}  # fmt: skip
"""Of the public models that stand for PaLI-X and PaLM-E, as counted on transformers' own classes of these shapes."""
PUBLISHED = {"pali_x_5b": (1e-3, 2048, "270000steps"), "palm_e_12b": (4e-4, 512, "1000000steps"),
             "pali_x_55b": (1e-3, 2048, "80000steps")}  # fmt: skip
"""Appendix E: learning rate, batch, updates."""


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_have_the_papers_hyper_parameters_and_public_models(preset, evidence):
    pytest.importorskip("timm")
    recipe = SYSTEM.presets[preset]()
    assert (recipe.optimizer.lr, recipe.batch, recipe.budget) == PUBLISHED[preset]
    assert recipe.model.bins == 256
    assert recipe.model.dimensions == 8
    with torch.device("meta"):
        system = RT2(recipe.model, RunAssets(None, None))
        language = language_model(recipe.model, weights=False)
    name, count = LANGUAGE[preset]
    counted = sum(p.numel() for p in system.language.parameters())
    assert recipe.model.language == name
    assert counted == sum(p.numel() for p in language.parameters()) == count
    total = sum(p.numel() for p in system.parameters())
    evidence("rt2", "preset", parameters={preset: total}, language=f"{name}: {count:,}", equals=(
        "hyper-parameters of appendix E; PaLI-X and PaLM-E are not public, a public language model and image tower stand "
        "for each"))  # fmt: skip


def test_tiny_mixes_as_the_paper_does_and_trains_all_of_it():
    recipe = SYSTEM.presets["tiny"]()
    share = {"world": 0, "table": 0}
    for source in recipe.data.sources:
        share[source.partition(":")[0]] += int(source.rpartition("@")[2])
    assert share["world"] == share["table"]
    assert all(fnmatch("language.x", pattern) for stage in recipe.stages for pattern in stage.trainable)
    claims = {claim.name: claim for claim in SYSTEM.claims}
    both, alone = (arm.set for arm in claims["the_web_kept"].arms)
    assert both["batch"] == 2 * alone["batch"]  # as many robot samples in as many updates
    assert catalog.find("rt2").family == "embodied"


# ------------------------------------------------------------------------------------- real demonstrations


def adroit(folder, demos, episodes, side=48, every=4):
    """Human demonstrations of opening a door (Rajeswaran et al. 2018), seen by replaying each in MuJoCo, as LeRobot's
    version 2.1 keeps episodes: one Parquet file and one MP4 each. Every ``every``-th step."""
    from oculex.evaluation.filmed import film
    from tests.systems.adroit import replay

    rows, lengths = 0, []
    for number, key in enumerate(episodes):
        actions, seen, opened = replay(demos, key, side, every)
        assert opened > 1.0  # radians: the person's actions open the door in this simulator too
        path = folder / f"data/chunk-000/episode_{number:06d}.parquet"
        video = folder / f"videos/chunk-000/observation.images.front/episode_{number:06d}.mp4"
        for each in (path, video):
            each.parent.mkdir(parents=True, exist_ok=True)
        count = len(actions)
        pq.write_table(pa.table({"action": pa.array(actions.tolist(), pa.list_(pa.float32())),
            "timestamp": np.arange(count, dtype=np.float32) / 10, "frame_index": np.arange(count),
            "episode_index": np.full(count, number), "index": rows + np.arange(count),
            "task_index": np.zeros(count, np.int64)}), path)  # fmt: skip
        video.write_bytes(film(seen, rate=10))
        rows += count
        lengths.append(count)
    meta = folder / "meta"
    meta.mkdir(exist_ok=True)
    features = {"action": {"dtype": "float32", "shape": [28], "names": None},
                "observation.images.front": {"dtype": "video", "shape": [side, side, 3],
                                             "names": ["height", "width", "channel"]}}  # fmt: skip
    (meta / "info.json").write_text(json.dumps({
        "codebase_version": "v2.1", "robot_type": "adroit", "total_episodes": len(lengths), "total_frames": rows,
        "fps": 10, "chunks_size": 1000, "features": features,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"}))  # fmt: skip
    (meta / "tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "open the door"}) + "\n")
    (meta / "episodes.jsonl").write_text("".join(
        json.dumps({"episode_index": n, "tasks": ["open the door"], "length": length}) + "\n"
        for n, length in enumerate(lengths)))  # fmt: skip
    return folder


def test_it_learns_from_human_demonstrations(real_data, tmp_path, evidence):
    """A hand of 24 joints opens a door: 28 dimensions, seen, acted and held out by whole episodes."""
    if importlib.util.find_spec("gymnasium_robotics") is None:
        pytest.skip(
            "the model of the hand and the door comes with gymnasium-robotics; pip install gymnasium-robotics"
        )
    demos = np.load(real_data / "robot_adroit_door" / "door-v0_demos.npz")
    keys = sorted({name.partition("/")[0] for name in demos.files})[: 25 if evidence.recording else 5]
    folder = adroit(tmp_path / "door", demos, keys)
    steps = 400 if evidence.recording else 8
    changes = {**TRAINING, "data.sources": [str(folder)], "dimensions": 28, "bins": 33, "context": 80,
               "evaluation.on": [], "data.holdout": 0.2, "evaluation.tasks": ["imitation"]}  # fmt: skip
    run = runs.train("rt2", out=tmp_path / "run", budget=f"{steps}steps", changes=changes, quiet=True)
    losses = [line["loss"] for line in read_lines(run.metrics)]
    assert losses[-1] < losses[0] or steps < 20
    metrics = {n.rpartition("/")[2]: v for n, v in list(read_lines(run.evaluations))[-1]["metrics"].items()}
    assert metrics["error"]["n"] > 50
    if evidence.recording:
        assert metrics["gain_over_constant"]["low"] > 0
        assert metrics["gain_over_no_image"]["low"] > 0
        evidence("rt2", "real_data", data=f"{len(keys)} human demonstrations of hand_dapg, replayed in MuJoCo, as "
                 "LeRobot 2.1, a fifth of the episodes held out", budget=f"{steps} steps of 32 from fresh weights",
                 error=metrics["error"], best_constant=metrics["constant_error"], blind=metrics["no_image_error"],
                 gain=metrics["gain_over_constant"])  # fmt: skip
