"""LeRobot's episodes: every step with its own frame, whole episodes held out, nothing outside its folder, no trust."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oculex.contracts import BadSample, UserError
from oculex.data.actions import action_space
from oculex.data.sources import open_source
from oculex.data.split import split

pytest.importorskip("av", reason="films are read by PyAV")
LENGTHS = (7, 5, 6, 4)
CAMERA = "observation.images.front"


def frame(episode, step):
    """A grey that tells which frame it is."""
    return np.full((32, 48, 3), 20 + 50 * episode + 6 * step, np.uint8)


def written(folder, filmed=True, **changes):
    """A small dataset of version 2.1 as LeRobot lays it out."""
    from oculex.evaluation.filmed import film

    at = 0
    for number, length in enumerate(LENGTHS):
        frames = np.stack([frame(number, step) for step in range(length)])
        columns = {
            "action": pa.array([[number, step, 0.5] for step in range(length)], pa.list_(pa.float32())),
            "task_index": np.full(length, number % 2),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, number),
            "index": at + np.arange(length),
            "timestamp": np.arange(length) / 10,
        }
        if filmed:
            path = folder / f"videos/chunk-{number // 2:03d}/{CAMERA}/episode_{number:06d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(film(frames, rate=10))
        else:
            import io

            from PIL import Image

            files = []
            for each in frames:
                file = io.BytesIO()
                Image.fromarray(each).save(file, "PNG")
                files.append({"bytes": file.getvalue(), "path": ""})
            columns[CAMERA] = files
        path = folder / f"data/chunk-{number // 2:03d}/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        at += length
    info = {
        "codebase_version": "v2.1",
        "fps": 10,
        "chunks_size": 2,
        "features": {
            "action": {"dtype": "float32", "shape": [3], "names": {"motors": ["arm", "wrist", "grip"]}},
            CAMERA: {"dtype": "video" if filmed else "image", "shape": [32, 48, 3], "names": None},
        },
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (folder / "meta").mkdir()
    (folder / "meta/info.json").write_text(json.dumps(info | changes))
    tasks = [{"task_index": 0, "task": "open the drawer"}, {"task_index": 1, "task": "close the drawer"}]
    (folder / "meta/tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tasks))
    rows = [{"episode_index": n, "tasks": [], "length": length} for n, length in enumerate(LENGTHS)]
    (folder / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("filmed", [True, False], ids=["video", "pictures"])
def test_every_step_has_its_own_frame_action_and_task(tmp_path, filmed):
    from oculex.data.decode import opened

    source = open_source(str(written(tmp_path, filmed)))
    assert len(source) == sum(LENGTHS)
    place = 0
    for episode, length in enumerate(LENGTHS):
        for step in range(length):
            sample = source[place]
            assert sample["id"] == f"{episode}.{step}"
            assert sample["action"].tolist() == [episode, step, 0.5]
            assert sample["instruction"] == ("open", "close")[episode % 2] + " the drawer"
            seen = np.asarray(opened(sample["image"], sample["id"])).astype(int)
            assert np.abs(seen.mean() - frame(episode, step).mean()) < 3  # a film is not kept to the bit
            place += 1
    assert source.actions.names == ("arm", "wrist", "grip")
    assert source.actions.low == (0.0, 0.0, 0.5)
    assert source.actions.high == (3.0, 6.0, 1.5)


@pytest.mark.parametrize("version", ["stats.json", "episodes_stats.jsonl"])
def test_bounds_are_what_the_files_tell_where_they_do(tmp_path, version):
    folder = written(tmp_path)
    bounds = {"action": {"min": [-1, -2, -3], "max": [1, 2, 3]}}
    whole = version == "stats.json"
    (folder / "meta" / version).write_text(
        json.dumps(bounds if whole else {"episode_index": 0, "stats": bounds})
    )
    assert open_source(str(folder)).actions.low == (-1.0, -2.0, -3.0)
    (folder / "meta" / version).write_text(json.dumps({"action": {"min": [0]}, "stats": {}}))
    assert open_source(str(folder)).actions.low == (0.0, 0.0, 0.5)


def test_whole_episodes_are_held_out_and_both_parts_are_one_robots(tmp_path):
    source = open_source(str(written(tmp_path)))
    train, held = split(source, 0.25)
    parts = [{source[n]["id"].partition(".")[0] for n in range(len(source))} for source in (train, held)]
    assert not parts[0] & parts[1]
    assert (len(parts[0]), len(parts[1])) == (3, 1)
    assert len(train) + len(held) == sum(LENGTHS)
    assert action_space([train, held]) == source.actions
    assert train.fingerprint() != held.fingerprint()
    assert split(source, 0.0)[1] is None
    again, _ = split(open_source(str(tmp_path)), 0.25)
    assert [again[n]["id"] for n in range(len(again))] == [train[n]["id"] for n in range(len(train))]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"codebase_version": "v3.0"}, "version 3.0; 2.0 and 2.1 are read"),
        ({"features": {}}, "meta files lack 'action'"),
        ({"fps": "fast"}, "meta files lack"),
        ({"chunks_size": 0}, "have no steps"),
    ],
)
def test_what_is_not_lerobots_is_one_line(tmp_path, change, says):
    with pytest.raises(UserError, match=says):
        open_source(str(written(tmp_path, **change)))


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("../../etc/passwd", "cannot be read"),
        ("data/chunk-000/{episode_index.__class__}.parquet", "cannot be read"),
        ("meta/info.json", "cannot be read"),
    ],
)
def test_paths_stay_in_their_folder_and_format_nothing_else(tmp_path, pattern, says):
    source = open_source(str(written(tmp_path, data_path=pattern)))
    with pytest.raises(BadSample, match=says):
        source[0]


def test_damaged_episodes_are_named_and_the_others_read(tmp_path):
    folder = written(tmp_path)
    (folder / f"data/chunk-000/episode_{0:06d}.parquet").write_bytes(b"PAR1 no")
    (folder / f"videos/chunk-001/{CAMERA}/episode_{2:06d}.mp4").write_bytes(b"no film")
    short = pq.read_table(folder / f"data/chunk-001/episode_{3:06d}.parquet").slice(0, 2)
    pq.write_table(short, folder / f"data/chunk-001/episode_{3:06d}.parquet")
    source = open_source(str(folder))
    told = []
    for index in range(len(source)):
        try:
            source[index]
        except BadSample as bad:
            told.append((bad.key.partition(".")[0], bad.reason))
    assert {episode for episode, _ in told} == {"0", "2", "3"}
    assert len(told) == LENGTHS[0] + LENGTHS[2] + LENGTHS[3]
    assert any("not a readable video" in reason for _, reason in told)
    assert any("has 2 steps, meta says 4" in reason for _, reason in told)
