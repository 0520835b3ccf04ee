"""Closed loops: a policy that knows succeeds, one that is blind or deaf does not, and records play again."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from oculex.data.sources import open_source
from oculex.evaluation import EvalSet, Untrained, evaluate, metrics
from oculex.evaluation.filmed import FILMS, SIDE, film, filmed
from oculex.simulation.layout import HIGH, SKILLS
from oculex.world.vocabulary import COLOUR

pytest.importorskip("mujoco", reason="the simulator needs oculex[robot]")
pytest.importorskip("gymnasium", reason="the simulator needs oculex[robot]")

SPEC = "table:split=test,episodes=10,size=64"


class Seer(nn.Module):
    """Finds the darkest spot, its hand, and the spot of the colour that it is told, and goes there; learns nothing."""

    config = None

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def view(self, sample, rng):
        return {"image": np.ascontiguousarray(sample.get("image", np.zeros((64, 64, 3), np.uint8))),
                "told": sample["instruction"]}  # fmt: skip

    def act(self, batch):
        out = []
        for image, told in zip(batch["image"].numpy().astype(float), batch["told"], strict=True):
            colour = told.removeprefix(SKILLS["push"].format("")).split()[0]
            hue = np.array(COLOUR[colour].rgb, float)
            hue /= np.linalg.norm(hue)
            norm = np.linalg.norm(image, axis=2) + 1e-6
            saturated = image.max(2) - image.min(2) > 60
            near = (image @ hue) / norm * saturated
            hand = norm < 90
            action = np.zeros(8)
            if hand.any() and near.max() > 0.9:
                place = [np.array(np.nonzero(mask)).mean(1) for mask in (near > near.max() - 0.03, hand)]
                way = (place[0] - place[1])[::-1] * (1, -1)
                action[1:3] = way / max(np.linalg.norm(way), 1e-6) * HIGH[1]
            out.append(action)
        return torch.from_numpy(np.array(out))


class Still(Seer):
    def act(self, batch):
        return torch.zeros(len(batch["told"]), 8)


@pytest.fixture(scope="module")
def found():
    source = open_source(SPEC)
    sets = {"table": EvalSet("table", source)}
    return evaluate(Seer(), sets, tasks=("control",), untrained=Untrained(Still)), source


def test_who_looks_and_listens_succeeds_and_nobody_else(found):
    """Colours of the three things differ often enough that going by colour alone mostly does."""
    values = {name.rpartition("/")[2]: e for name, e in found[0].metrics.items()}
    assert values["expert_success"].value == 1.0
    assert values["success"].value >= 0.5
    for name in ("no_image_success", "untrained_success", "random_success"):
        assert values[name].value <= 0.1
    # one in three of each table's things is the right one
    assert 0.1 <= values["any_thing_success"].value <= 0.6
    assert values["wrong_instruction_success"].value <= 0.3
    assert values["gain_over_no_image"].low > 0
    assert 0 < values["success"].low < values["success"].high <= 1
    assert values["success"].n == 10
    assert 3 < values["steps"].value <= 24
    table = found[0].table
    wild = [json.loads(text)["actions"] for text in table["output"][table.where(control="random")]]
    ends = found[1].actions.names.index(found[1].actions.ends)
    assert {action[ends] for actions in wild for action in actions} == {0.0}  # else most would end at once


def test_metrics_follow_from_the_records_and_episodes_play_again(found):
    result, source = found
    assert metrics(result.table) == result.metrics
    films = filmed(result.table, {"table": source})
    assert len(films) == min(FILMS, 10)
    assert {each["success"] for each in films} == {True, False} or len(
        {r for r in result.table["status"]}
    ) == 1
    assert all(each["film"].startswith("data:video/mp4;base64,") for each in films)
    # what is recorded reaches what was judged: the simulator, given the actions alone, comes to the same end
    from oculex.simulation.remote import Simulator

    layouts = {f"test-{n}": source.layout(n) for n in range(10)}
    with Simulator() as simulator:
        for row in result.table.where(control="").tolist():
            layout = layouts[result.table["item"][row]]
            simulator.call("begin", source.config(), 16, {0: layout}, False)
            for action in json.loads(result.table["output"][row])["actions"]:
                _, success, over = simulator.call("step", {0: np.array(action)}, False)[0]
            assert over
            assert success == (result.table["status"][row] == "right")


def test_a_limit_takes_the_first_episodes_and_more_than_go_together_are_played(monkeypatch):
    monkeypatch.setattr("oculex.evaluation.control.TOGETHER", 2)
    source = open_source("table:split=test,episodes=4,size=16")
    result = evaluate(Still(), {"t": EvalSet("t", source)}, tasks=("control",), limit=3)
    assert result.table["item"][result.table.where(control="")].tolist() == ["test-0", "test-1", "test-2"]
    assert result.metrics["t/control/success"].value == 0


def test_single_steps_are_compared_with_a_demonstrators():
    source = open_source(SPEC)
    result = evaluate(Seer(), {"table": EvalSet("table", source)}, tasks=("imitation",), limit=60)
    values = {name.rpartition("/")[2]: e for name, e in result.metrics.items()}
    assert values["error"].n == 60
    assert values["gain_over_constant"].low > 0
    assert values["gain_over_no_image"].low > 0


def test_a_film_is_what_it_shows_and_the_page_trusts_no_file(tmp_path):
    from oculex.contracts import BadSample
    from oculex.data.decode_media import every_frame
    from oculex.report import filmed as page

    frames = np.stack([np.full((SIDE, SIDE, 3), 40 * n, np.uint8) for n in range(5)])
    written = film(frames)
    read = every_frame(written, 50, "x").astype(int)
    assert np.abs(read[:5] - frames).max() <= 4
    with pytest.raises(BadSample, match="more than 3 frames"):
        every_frame(written, 3, "x")
    import base64

    good = {"set": "table", "told": "<b>push</b>", "success": True, "steps": 3}
    uri = "data:video/mp4;base64," + base64.b64encode(written).decode()
    bad = [
        "data:text/html;base64,PGI+",
        "data:video/mp4;base64,!!",
        "data:video/mp4;base64,AAAA",
        "javascript:1",
    ]
    (tmp_path / "films.json").write_text(json.dumps([good | {"film": each} for each in (uri, *bad)]))
    shown = page.section(tmp_path)
    assert [each["told"] for each in shown] == ["<b>push</b>"]
    assert page.section(tmp_path / "nothing") == []
