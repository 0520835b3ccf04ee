"""Curation: what is written is what is made, whoever makes it; killed runs go on; repeats and broken samples count."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from oculex import cli
from oculex.contracts import UserError
from oculex.curation import curate
from oculex.curation.parts import Worker
from oculex.curation.repeats import normal
from oculex.data.graphs.instructions import Instructions
from oculex.data.pipelines import survey, version, with_options
from oculex.data.sources import open_source
from tests.curation.toys import Echo, gqa, graph, png

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path):
    return str(gqa(tmp_path / "data", {str(n): graph(n) for n in range(1, 24)}))


def files(out):
    return {each.name: each.read_bytes() for each in sorted(out.glob("*.parquet"))}


def run(data, out, pipeline=None, **options):
    return curate(
        "provision", pipeline or Instructions(most=4), data, out, **{"part": 6, "workers": 1} | options
    )


def test_shards_hold_what_the_pipeline_makes_sample_by_sample(data, tmp_path):
    manifest = run(data, tmp_path / "out")
    written, made = open_source(str(tmp_path / "out")), open_source(f"made:provision,most=4:{data}")
    assert len(written) == len(made) == manifest["samples"] == 23
    for n in range(23):
        assert written[n]["questions"] == made[n]["questions"]
        assert written[n]["image"] == made[n]["image"]
    assert sum(manifest["kinds"].values()) == sum(len(written[n]["questions"]) for n in range(23)) == 4 * 23
    assert not list((tmp_path / "out").glob(".work*"))
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest


def test_how_it_is_cut_up_changes_nothing_but_the_files(data, tmp_path):
    run(data, tmp_path / "a", part=6)
    run(data, tmp_path / "b", part=23)
    rows = [
        [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
        for out in (tmp_path / "a", tmp_path / "b")
    ]
    assert rows[0] == rows[1]
    run(data, tmp_path / "c", seed=1)
    assert files(tmp_path / "c") != files(tmp_path / "a")


def test_several_pictures_are_kept_and_read_together(data, tmp_path):
    run(data, tmp_path / "out", Instructions(images=2, most=3))
    source = open_source(str(tmp_path / "out"))
    for n in range(len(source)):
        sample = source[n]
        assert len(sample["images"]) == 2
        assert sample["images"][0] != sample["images"][1]
        assert "image" not in sample
        assert 1 <= len(sample["questions"]) <= 3


def test_a_second_run_does_what_is_missing_and_no_more(data, tmp_path, monkeypatch):
    out, done, real = tmp_path / "out", [], Worker.make

    def make(self, part):
        if len(done) == 2:
            raise UserError("the machine is on fire")
        done.append(part)
        return real(self, part)

    monkeypatch.setattr(Worker, "make", make)
    with pytest.raises(UserError, match="on fire"):
        run(data, out)
    assert not list(out.glob("*.parquet"))
    first = list(done)
    done[:] = [-1]  # room for one more than before
    monkeypatch.setattr(Worker, "make", lambda self, part: done.append(part) or real(self, part))
    run(data, out)
    assert sorted([*first, *done[1:]]) == [0, 1, 2, 3]
    run(data, tmp_path / "whole")
    assert files(out) == files(tmp_path / "whole")
    done.clear()
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    run(data, out)
    assert not done
    assert before == {name: (out / name).stat().st_mtime_ns for name in files(out)}


KILLED = """
import sys
from pathlib import Path
from oculex.curation import curate
from tests.curation.toys import Echo
curate("provision", Echo(seconds=float(sys.argv[3])), sys.argv[1], Path(sys.argv[2]), part=3, workers=1)
"""


def test_a_run_that_is_killed_leaves_no_half_part_and_goes_on(data, tmp_path):
    script, out = tmp_path / "killed.py", tmp_path / "out"
    script.write_text(KILLED)
    told = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(script), data, str(out), "0.05"], env=told, cwd=tmp_path)
    limit = time.monotonic() + 60
    while len(list(out.glob(".work-*/make.done/*.json"))) < 2 and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(out.glob("*.parquet"))
    assert not (out / "manifest.json").exists()
    parts = sorted(out.glob(".work-*/parts/[0-9]*.parquet"))
    assert 2 <= len(parts) < 8
    for path in parts:
        assert pq.read_table(path).num_rows == 3
    half = parts[0].with_name(".000007.parquet.1.2")
    half.write_bytes(b"PAR1 and nothing more")
    before = {path: path.stat().st_mtime_ns for path in parts[:2]}
    kept = []
    run(data, out, Echo(seconds=0.05), part=5, progress=lambda step, done, of: kept.append((step, done, of)))
    assert ("make", 8, 8) in kept  # in parts of three, as it began
    assert min(done for step, done, _ in kept if step == "make") >= 2
    assert before  # those parts were not made once more: the first progress counts them
    run(data, tmp_path / "whole", Echo(seconds=0.0), part=3)
    rows = [pq.read_table(path).to_pylist() for path in sorted(out.glob("*.parquet"))]
    whole = [pq.read_table(path).to_pylist() for path in sorted((tmp_path / "whole").glob("*.parquet"))]
    assert rows == whole
    assert not list(out.glob(".work*"))


def test_what_is_there_twice_is_dropped_and_counted(tmp_path):
    """5 is 2 once more, with a picture of its own name; 9 is 2 with other writing."""
    graphs = {str(n): graph(n) for n in (1, 2, 3, 4)} | {"5": graph(2), "9": graph(2)}
    data = str(gqa(tmp_path / "data", graphs, {key: png((9, 9, 9)) for key in ("2", "5", "9")}))

    class Loud(Echo):
        def make(self, source, index, known, rng):
            sample = source[index]
            names = "the " * (sample["id"] == "9") + "chair and TWO lamps!"
            question = {"question": names, "answer": "(B) " * (sample["id"] == "5") + "yes", "kind": "k"}
            other = {"question": sample["id"], "answer": "no", "kind": "k"}
            kept = [question] if sample["id"] == "5" else [question, other]
            return [
                {"id": sample["id"], "image": sample["image"], "questions": kept, "captions": ["2 lamps"]}
            ]

    manifest = run(data, tmp_path / "out", Loud(), part=2)
    source = open_source(str(tmp_path / "out"))
    found = [source[n] for n in range(len(source))]
    # 5 says nothing new: its question is another's but for a letter, its caption another's to the letter
    assert manifest["dropped"] == {"repeated": 2, "nearly_repeated": 2}
    assert manifest["made"] == 6
    assert manifest["samples"] == 5
    assert [len(each["questions"]) for each in found] == [2, 2, 2, 2, 1]
    assert found[-1]["questions"][0]["question"] == "9"
    assert "captions" not in found[-1]
    assert normal("The  Two-Lamps, and a dog.") == "2 lamps and dog"
    assert normal("left of 12") != normal("12 left of")


BROKEN = {
    "no objects": {"objects": None},
    "boxes beyond": {"objects": {"1": {"name": "chair", "x": 0, "y": 0, "w": 900, "h": 8}}},
    "no number": {"objects": {"1": {"name": "chair", "x": "left", "y": 0, "w": 9, "h": 8}}},
    "endless": {"objects": {"1": {"name": "chair", "x": float("nan"), "y": 0, "w": 9, "h": 8}}},
    "nameless": {"objects": {"1": {"name": "", "x": 0, "y": 0, "w": 9, "h": 8}}},
    "unprintable": {"objects": {"1": {"name": "a\x1b[31mb", "x": 0, "y": 0, "w": 9, "h": 8}}},
    "related to none": {
        "objects": {
            "1": {"name": "a", "x": 0, "y": 0, "w": 9, "h": 8, "relations": [{"name": "on", "object": "7"}]}
        }
    },
    "flat": {"width": 0},
}


def test_broken_samples_are_told_with_their_reasons_and_too_many_stop_it(data, tmp_path):
    graphs = {str(n): graph(n) for n in range(1, 24)}
    for n, (_, change) in enumerate(list(BROKEN.items())[1:], 1):
        graphs[str(n)] = graph(n, **change)
    broken = str(gqa(tmp_path / "broken", graphs))
    (tmp_path / "broken" / "20.jpg").unlink()
    with pytest.raises(
        UserError, match=r"of 23 samples .* more than --most-refused 0.1; most often"
    ) as error:
        run(broken, tmp_path / "stopped", most_refused=0.1)
    assert "\n" not in str(error.value)
    manifest = run(broken, tmp_path / "out", most_refused=0.5)
    rows = [json.loads(line) for line in (tmp_path / "out" / "refused.jsonl").read_text().splitlines()]
    assert manifest["refused_in_all"] == len(rows) == 8
    assert manifest["made"] == 23 - 8
    assert {row["id"] for row in rows} == {*map(str, range(1, 8)), "20.jpg"}
    assert all(row["reason"] for row in rows)
    assert sum(manifest["refused"].values()) == 8
    text = (tmp_path / "broken" / "sceneGraphs.json").read_text().replace('"objects"', '"things"')
    (tmp_path / "broken" / "sceneGraphs.json").write_text(text)
    with pytest.raises(UserError):
        open_source(broken)


def test_a_folder_that_holds_something_else_is_left_alone(data, tmp_path):
    run(data, tmp_path / "out", Echo())
    before = files(tmp_path / "out")
    with pytest.raises(UserError, match="other options"):
        run(data, tmp_path / "out", Echo(suffix="!"))
    with pytest.raises(UserError, match="other options"):
        run(data, tmp_path / "out", Echo(), seed=3)
    assert files(tmp_path / "out") == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.parquet").write_bytes(b"kept")
    with pytest.raises(UserError, match="no manifest"):
        run(data, foreign, Echo())
    for options in ({"engine": "slurm"}, {"part": 0}, {"most_refused": 1.5}):
        with pytest.raises(UserError):
            run(data, tmp_path / "new", Echo(), **options)


def test_options_data_and_code_make_the_digest(data):
    assert version(Echo()) == version(Echo())
    assert version(Echo()) != version(Echo(suffix="?"))
    assert version(Echo()) != version(Instructions())
    assert survey(Echo(), open_source(data)) == 23 * 3 + 12
    assert with_options(Instructions, ["most=3", "choices=0.25", "generators=depth"], "x") == Instructions(
        generators="depth", most=3, choices=0.25
    )
    for pairs in (["moist=3"], ["most=many"], ["generators=depht"], ["images=0"], ["choices=2"]):
        with pytest.raises(UserError):
            with_options(Instructions, pairs, "x")


def test_made_sources_say_what_is_wrong_with_their_names(data):
    for spec in ("made:provision", "made:clip:world", "made:nobody:world", f"made:provision,seed=x:{data}"):
        with pytest.raises(UserError):
            open_source(spec)
    source = open_source(f"made:provision,seed=4,most=2:{data}")
    assert source.fingerprint() != open_source(f"made:provision,most=2:{data}").fingerprint()
    held = open_source("made:provision,most=2:world:scenes=40,keys=graph").held_out()
    assert held.source.world.split == "test"


def test_conversations_are_written_as_llava_reads_them(data, tmp_path, capsys):
    command = [
        "curate",
        "provision",
        "--data",
        data,
        "--out",
        str(tmp_path / "out"),
        "--workers",
        "1",
        "--part",
        "6",
    ]
    cli.main([*command, "--set", "most=3", "--chat", str(tmp_path / "chat" / "c.json")])
    told = capsys.readouterr().out
    assert "samples kept, in 4 shards" in told
    assert "23 conversations" in told
    source = open_source(str(tmp_path / "chat" / "c.json"))
    first, row = source[0], open_source(str(tmp_path / "out"))[0]
    assert first["image"] == row["image"]
    talk = [each for question in row["questions"] for each in (question["question"], question["answer"])]
    assert [turn["text"] for turn in first["conversation"]] == talk
    raw = json.loads((tmp_path / "chat" / "c.json").read_text())
    assert raw[0]["conversations"][0]["value"].startswith("<image>\n")
    cli.main([*command, "--set", "most=3", "--json"])
    assert json.loads(capsys.readouterr().out)["samples"] == 23


def test_conversations_about_several_pictures_are_read_again(data, tmp_path):
    from oculex.curation.chat import write_chat

    run(data, tmp_path / "out", Instructions(images=2, most=2))
    written = write_chat(tmp_path / "out", tmp_path / "c.json")
    source = open_source(str(tmp_path / "c.json"))
    assert len(source) == written
    sample = source[0]
    assert sample["images"] == open_source(str(tmp_path / "out"))[0]["images"]
    assert json.loads((tmp_path / "c.json").read_text())[0]["conversations"][0]["value"].startswith(
        "<image> <image>\n"
    )


RAY = """
import sys, time
from pathlib import Path
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": sys.argv[4]}})
from oculex.curation import curate
from tests.curation.toys import Echo
began = time.monotonic()
curate("provision", Echo(), sys.argv[1], Path(sys.argv[2]), part=8, engine="ray", workers=1)
print("took", time.monotonic() - began)
"""


def test_a_cluster_writes_the_same_shards(data, tmp_path):
    pytest.importorskip("ray", reason="no Ray; pip install 'oculex[ray]'")
    script, out = tmp_path / "on_ray.py", tmp_path / "out"
    script.write_text(RAY)
    told = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    try:
        done = subprocess.run(
            [sys.executable, str(script), data, str(out), "0", str(ROOT)],
            env=told, cwd=tmp_path, capture_output=True, text=True, timeout=180,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip("Ray did not start and end within three minutes on this machine")
    assert done.returncode == 0, done.stderr[-2000:]
    run(data, tmp_path / "here", Echo(), part=8)
    assert files(out) == files(tmp_path / "here")


def test_draws_are_functions_of_the_seed_and_the_place(data):
    made = open_source(f"made:provision,most=2:{data}")
    order = np.random.default_rng(0).permutation(len(made))
    once = {int(n): made[int(n)]["questions"] for n in order}
    assert all(made[n]["questions"] == once[n] for n in range(len(made)))
