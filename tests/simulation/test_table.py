"""The simulated table: layouts tell nothing of what is meant, physics is real and repeats itself, the expert succeeds."""

import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from oculex.contracts import BadSample, UserError
from oculex.data.sources import open_source
from oculex.simulation import SOLIDS, TableConfig, make_layout
from oculex.simulation.layout import GRASPED, HAND, HIGH, LOW
from oculex.simulation.remote import Simulator
from oculex.world.vocabulary import COLOUR, SHAPE

pytest.importorskip("mujoco", reason="the simulator needs oculex[robot]")
pytest.importorskip("gymnasium", reason="the simulator needs oculex[robot]")


@pytest.fixture(scope="module")
def simulator():
    with Simulator() as made:
        yield made


def test_layouts_are_functions_of_seed_and_index_and_use_the_worlds_names():
    config = TableConfig(shapes=SOLIDS, colours=tuple(COLOUR), objects=4)
    layouts = [make_layout(3, index, config) for index in range(60)]
    assert layouts == [make_layout(3, index, config) for index in range(60)]
    assert layouts[0] != make_layout(4, 0, config)
    assert layouts[0] != make_layout(3, 0, replace(config, split="test"))
    for layout in layouts:
        assert len({thing.name for thing in layout.things}) == 4
        for thing in layout.things:
            assert thing.shape in SHAPE
            assert thing.colour in COLOUR
        assert layout.instruction == f"push the {layout.things[layout.target].name}"


def test_where_things_lie_does_not_tell_which_is_meant():
    """Every thing can be reached straight, none is favoured by its place in the list, near or far, left or right."""
    for part in ("seen", "unseen"):
        layouts = [make_layout(0, index, TableConfig(part=part)) for index in range(600)]
        places, nearest, leftmost = Counter(), 0, 0
        for layout in layouts:
            target = layout.things[layout.target]
            places[layout.target] += 1
            distances = [math.dist(layout.hand, (thing.x, thing.y)) for thing in layout.things]
            nearest += distances[layout.target] == min(distances)
            leftmost += target.x == min(thing.x for thing in layout.things)
            for other in layout.things:
                if other is not target:
                    way = np.array([target.x - layout.hand[0], target.y - layout.hand[1]])
                    to = np.array([other.x - layout.hand[0], other.y - layout.hand[1]])
                    along = np.clip(to @ way / (way @ way), 0, 1)
                    assert np.linalg.norm(to - along * way) >= other.footprint + HAND
        for count in (nearest, leftmost, *(places.values() if part == "seen" else ())):
            assert abs(count - 200) < 4 * math.sqrt(600 * 2 / 9)


@pytest.mark.parametrize("novel", ["pair", "colour"])
def test_what_is_withheld_is_in_no_seen_table_and_every_unseen_one(novel):
    seen, unseen = (TableConfig(part=part, novel=novel) for part in ("seen", "unseen"))
    withheld = {f"{colour} {shape}" for colour, shape in unseen.concepts("unseen")}
    known = {f"{colour} {shape}" for colour, shape in seen.concepts("seen")}
    assert not withheld & known
    assert len(withheld | known) == 25
    if novel == "pair":  # each word is known from other things
        for n in (0, 1):
            assert {name.split()[n] for name in withheld} <= {name.split()[n] for name in known}
    shown = {thing.name for index in range(200) for thing in make_layout(0, index, seen).things}
    assert shown == known
    assert all(
        layout.things[layout.target].name in withheld
        for layout in (make_layout(0, index, unseen) for index in range(100))
    )


def test_a_table_is_demonstrated_for_each_of_its_things():
    """In training, so that the table itself does not tell what is meant; tables of other splits are all different."""
    config = TableConfig()
    layouts = [make_layout(0, index, config) for index in range(60)]
    for first in range(0, 60, 3):
        same = layouts[first : first + 3]
        assert len({(each.things, each.hand, each.brightness) for each in same}) == 1
        assert {each.target for each in same} == {0, 1, 2}
    assert len({each.things for each in layouts}) == 20
    tested = [make_layout(0, index, replace(config, split="test")) for index in range(60)]
    assert len({each.things for each in tested}) == 60


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"shapes": ("cube", "torus")}, "shapes .'torus'. unknown"),
        ({"colours": ()}, "colours"),
        ({"objects": 9}, "objects=9"),
        ({"skills": ("lift",)}, "two fingers hold"),
        ({"part": "other"}, "part"),
    ],
)
def test_a_table_that_cannot_be_is_refused(wrong, says):
    with pytest.raises(UserError, match=says):
        TableConfig(**wrong)


@pytest.mark.parametrize(
    ("skill", "shapes"), [("push", SOLIDS), ("push", TableConfig().shapes), ("lift", GRASPED)], ids=str
)
def test_the_expert_succeeds_whatever_deflects_it(simulator, skill, shapes):
    config = TableConfig(skills=(skill,), shapes=shapes)
    rolled = [
        simulator.call("demonstrate", seed, index, config, 16, 0.3, False)
        for seed in (5, 6)
        for index in range(60)
    ]
    assert np.mean([success for _, success in rolled]) >= 0.95
    actions = np.array([step.action for steps, _ in rolled for step in steps])
    assert (actions >= np.array(LOW, np.float32) - 1e-6).all()
    assert (actions <= np.array(HIGH, np.float32) + 1e-6).all()
    assert actions[:, 1:3].std(0).min() > 0.005
    used = {"push": (3, 7), "lift": (3, 6, 7)}[skill]
    assert (np.abs(actions[:, used]).max(0) > 0).all() == (skill == "lift")


def test_contact_is_real_and_episodes_repeat_themselves(simulator):
    """Nothing moves untouched, a hand that goes through a thing pushes it, and equal actions give equal films."""
    config = TableConfig()
    layout = make_layout(0, 0, config)
    still = [np.zeros(8)] * 6
    seen = simulator.call("film", config, layout, still, 48)
    assert np.abs(seen[1].astype(int) - seen[-1]).max() <= 2
    steps, _ = simulator.call("demonstrate", 0, 0, config, 48, 0.0)
    actions = [step.action for step in steps]
    films = [simulator.call("film", config, layout, actions, 48) for _ in range(2)]
    assert (films[0] == films[1]).all()
    assert (films[0][0] == steps[0].image).all()
    assert np.abs(films[0][-1].astype(int) - films[0][0]).max() > 100
    simulator.call("begin", config, 48, {0: layout}, False)
    found = [simulator.call("step", {0: action}, False)[0] for action in actions]
    won = [success for _, success, _ in found]
    assert won == sorted(won)
    assert won[-1]
    assert not won[0]


def test_success_means_the_right_thing_alone(simulator):
    """The expert, told of another thing, does not do what was meant."""
    config = TableConfig()
    for index in range(6):
        layout = make_layout(0, index, config)
        other = replace(layout, target=(layout.target + 1) % 3)
        simulator.call("begin", config, 16, {0: other}, False)
        actions, over = [], False
        while not over:
            actions.append(simulator.call("advise", {0: other.target})[0])
            _, _, over = simulator.call("step", {0: actions[-1]}, False)[0]
        simulator.call("begin", config, 16, {0: layout}, False)
        assert not any(simulator.call("step", {0: action}, False)[0][1] for action in actions)


def test_physics_that_runs_away_is_a_failure(tmp_path, monkeypatch):
    """MuJoCo then lays everything anew, which looks like a push; and it writes no file beside the caller."""
    monkeypatch.chdir(tmp_path)
    from oculex.simulation.table import STEPS

    config = TableConfig(objects=1, split="test")
    rng, ends = np.random.default_rng(0), Counter()
    with Simulator() as made:
        for index in range(100):
            made.call("begin", config, 16, {0: make_layout(0, index, config)}, False)
            over, steps, success = False, 0, False
            while not over:
                action = rng.uniform(LOW, HIGH)
                action[0] = 0.0
                _, success, over = made.call("step", {0: action}, False)[0]
                steps += 1
            ends[success, steps < STEPS] += 1
    assert ends[False, True] > 0  # ended before its time, without success and without saying so
    assert not list(tmp_path.iterdir())


def test_it_is_a_gymnasium_environment():
    """Checked by Gymnasium's own checker, in a process of its own as everything that draws."""
    code = (
        "from gymnasium.utils.env_checker import check_env; from oculex.simulation.table import TableTop; "
        "import numpy as np; env = TableTop(size=32); check_env(env, skip_render_check=True); "
        "seen, _ = env.reset(seed=3, options={'index': 4}); again, _ = env.reset(seed=3, options={'index': 4}); "
        "assert (seen['image'] == again['image']).all() and seen['instruction'] == again['instruction']; "
        "out = env.step(env.action_space.sample()); print(out[0]['image'].shape)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "(32, 32, 3)"


def test_a_simulator_that_ends_says_so():
    made = Simulator()
    made._process.kill()
    made._process.wait()
    with pytest.raises(UserError, match="process has ended"):
        made.call("advise", {})


def test_demonstrations_are_a_source_that_is_simulated_once(tmp_path, monkeypatch):
    monkeypatch.setenv("OCULEX_CACHE", str(tmp_path))
    source = open_source("table:episodes=6,size=32")
    assert len(source) > 6
    sample = source[0]
    assert sample["image"].shape == (32, 32, 3)
    assert sample["action"].shape == (len(source.actions),) == (8,)
    assert sample["instruction"] == source.layout(0).instruction
    last = [n for n in range(len(source)) if n + 1 == len(source) or source[n + 1]["id"].endswith(".0")]
    assert all(source[n]["action"][0] == 1 for n in last)  # every episode ends by the robot's own word
    monkeypatch.setattr("oculex.data.sources.table._build", None)
    again = open_source("table:episodes=6,size=32")
    assert (again[5]["image"] == source[5]["image"]).all()
    assert again.fingerprint() == source.fingerprint() != source.held_out().fingerprint()
    assert source.held_out().table.split == "test"
    assert open_source("table:part=unseen").name == "unseen-table"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("table:colour=red", "has no 'colour'"),
        ("table:episodes=many", "must be int"),
        ("table:split=dev", "split='dev'"),
        ("table:shapes=cube+dodecahedron", "dodecahedron"),
        ("table:noise=2", "noise is a share"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(spec, says):
    with pytest.raises((UserError, BadSample), match=says):
        open_source(spec)
