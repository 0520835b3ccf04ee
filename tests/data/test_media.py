"""Real and hostile files of sound, video, depth and infrared; spectrograms and views against the authors' own."""

import io
import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oculex.contracts import BadSample, UserError
from oculex.data.collate import collate
from oculex.data.decode_media import MAX_SECONDS, RATE, frames, metres, thermal, waveform
from oculex.data.modalities import audio_view, depth_view, infrared_view, video_view
from oculex.data.sources import open_source
from oculex.data.spectrogram import log_mel

GOLDEN = Path(__file__).parents[1] / "golden" / "languagebind.npz"
av = pytest.importorskip("av", reason="sound and video need PyAV")


def clip(count=12, size=(48, 32), codec="mpeg4"):
    """An mp4 whose frame n is of the grey 20 n."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for n in range(count):
            picture = np.full((size[1], size[0], 3), 20 * n, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def tone(hertz=440.0, seconds=0.5, rate=8000, channels=2):
    at = np.arange(int(seconds * rate)) / rate
    samples = (0.5 * np.sin(2 * np.pi * hertz * at) * 32767).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.repeat(samples, channels).tobytes())
    return file.getvalue()


def deep(values):
    file = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint16)).save(file, "PNG")
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------- files


def test_frames_are_spread_evenly_from_the_first_to_the_last():
    found = frames(clip(), 4, "k")
    assert found.shape == (4, 32, 48, 3)
    assert np.abs(found.mean((1, 2, 3)) - 20 * np.array([0, 3, 7, 11])).max() < 4
    assert len(frames(clip(count=2), 5, "k")) == 5
    array = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    assert frames(array, 3, "k")[:, 0, 0, 0].tolist() == [0, 2, 5]


def test_sound_is_resampled_to_one_channel():
    found = waveform(tone(), "k")
    assert found.dtype == np.float32
    assert abs(len(found) - RATE // 2) < 64
    power = np.abs(np.fft.rfft(found))
    assert abs(np.fft.rfftfreq(len(found), 1 / RATE)[power.argmax()] - 440) < 4
    assert 0.3 < np.abs(found).max() < 0.8
    assert len(waveform(np.zeros(int((MAX_SECONDS + 1) * RATE), np.float32), "k")) == MAX_SECONDS * RATE


def test_depth_is_millimetres_and_infrared_hundredths_of_a_kelvin():
    assert metres(deep([[0, 1500], [65535, 250]]), "k").tolist() == [[0.0, 1.5], [0.0, 0.25]]
    found = thermal(deep([[27315, 30315]]), (273.15, 333.15), "k")
    assert found == pytest.approx(np.array([[0.0, 0.5]]), abs=1e-5)
    grey = io.BytesIO()
    Image.fromarray(np.array([[0, 51, 255]], np.uint8)).save(grey, "PNG")
    assert thermal(grey.getvalue(), (0.0, 1.0), "k") == pytest.approx(np.array([[0.0, 0.2, 1.0]]), abs=1e-6)
    with pytest.raises(BadSample, match="must be grey of 16 bits"):
        metres(grey.getvalue(), "k")


READERS = {
    "video": lambda content: frames(content, 3, "k"),
    "audio": lambda content: waveform(content, "k"),
    "depth": lambda content: metres(content, "k"),
    "infrared": lambda content: thermal(content, (200.0, 300.0), "k"),
}


@pytest.mark.parametrize("kind", READERS)
def test_whatever_is_broken_is_a_bad_sample(kind):
    whole = {
        "video": clip(),
        "audio": tone(),
        "depth": deep(np.ones((9, 9))),
        "infrared": deep(np.ones((9, 9))),
    }[kind]
    rng = np.random.default_rng(0)
    broken = [b"", b"no file at all", whole[: len(whole) // 2], whole[:40], 7, np.zeros((2, 2), complex)]
    for _ in range(60):
        bits = np.frombuffer(whole, np.uint8).copy()
        bits[rng.integers(len(bits), size=rng.integers(1, 30))] = rng.integers(256)
        broken.append(bits.tobytes())
    bad = 0
    for content in broken:
        try:
            READERS[kind](content)
        except BadSample:
            bad += 1
    assert bad >= 4
    for content in (b"", b"no file at all", 7, np.zeros((2, 2), complex)):
        with pytest.raises(BadSample):
            READERS[kind](content)


def test_a_file_of_the_other_kind_says_so():
    with pytest.raises(BadSample, match="has no audio"):
        waveform(clip(), "k")
    with pytest.raises(BadSample, match="has no video"):
        frames(tone(), 2, "k")


def test_real_clips_sounds_depth_and_infrared(real_data, evidence):
    videos = sorted((real_data / "video_mmaction").rglob("*.[ma][pv][4i]"))
    sounds = sorted((real_data / "fsdd").glob("*.wav"))[::10]
    depths = sorted((real_data / "rgbd_7scenes").glob("*.depth.png"))
    roads = sorted((real_data / "infrared_roadscene" / "cropinfrared").iterdir())
    for path in videos:
        seen = video_view(path.read_bytes(), 8, 64, None, path.name)
        assert seen.shape == (8, 3, 64, 64)
        assert seen.std() > 10
    for path in sounds:
        assert log_mel(waveform(path.read_bytes(), path.name), RATE, 64).std() > 1.0
    for path in depths:
        depth = metres(path.read_bytes(), path.name)
        assert depth.shape == (480, 640)
        assert 0.3 < np.median(depth[depth > 0]) < 8.0
    for path in roads:
        seen = infrared_view(path.read_bytes(), 64, (263.0, 343.0), path.name)
        assert seen.shape == (1, 64, 64)
        assert 0.0 <= seen.min() < seen.max() <= 1.05
    assert min(map(len, (videos, sounds, depths, roads))) >= 3
    evidence("languagebind", "real_data", read={"video, mp4 and avi": len(videos), "sound, wav": len(sounds),
             "depth, 16-bit png": len(depths), "infrared, 8-bit jpg": len(roads)})  # fmt: skip


# ------------------------------------------------------------------------------------------------ captions files


def test_a_captions_file_names_files_of_any_kind(tmp_path):
    (tmp_path / "a.mp4").write_bytes(clip())
    (tmp_path / "a.wav").write_bytes(tone())
    (tmp_path / "captions.csv").write_text(
        "video,audio,caption\na.mp4,a.wav,a grey\na.mp4,a.wav,grows\na.mp4,,mute\n"
    )
    both, mute = list(open_source(str(tmp_path)))
    assert both["captions"] == ["a grey", "grows"]
    assert both["audio"] == tone()
    assert set(mute) == {"id", "video", "captions"}
    assert both["id"] != mute["id"]


def test_an_image_may_have_files_beside_it(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "d.png").write_bytes(deep(np.full((8, 8), 1000)))
    rows = [
        {"image": "a.png", "depth": "d.png", "caption": "black"},
        {"image": "a.png", "depth": 3, "caption": "x"},
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = list(open_source(str(tmp_path / "c.jsonl")))
    assert metres(first["depth"], "k").max() == 1.0
    assert set(second) == {"id", "image", "captions"}
    (tmp_path / "c.jsonl").write_text(json.dumps({"sound": "a.wav", "caption": "black"}))
    with pytest.raises(UserError, match="one must be called image"):
        open_source(str(tmp_path / "c.jsonl"))


def test_a_batch_of_other_keys_is_refused():
    with pytest.raises(UserError, match="samples of one batch have a, b and a;"):
        collate([{"a": 1, "b": 2}, {"a": 1}])


# ------------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize("kind", ["long", "short"])
def test_spectrograms_are_the_authors(kind, evidence):
    golden = np.load(GOLDEN)
    normal = (-4.2677393, 4.5689974)
    bins, length = int(golden["audio/bins"]), int(golden["audio/length"])
    got = audio_view(golden[f"audio/{kind}/wave"], bins, length, normal, None, "k")
    error = float(np.abs(got - golden[f"audio/{kind}/mel"]).max())
    assert error < 1e-4
    evidence(
        "languagebind", "golden", peer=str(golden["provenance"]), **{f"audio_{kind}_max_abs_error": error}
    )


def test_depth_is_seen_as_the_authors_see_it(evidence):
    golden = np.load(GOLDEN)
    share = torch.from_numpy(depth_view(deep(golden["depth_view/mm"]), 224, 10.0, "k"))
    mean, std = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    pixels = (share - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    error = float((pixels[:, ::4, ::4] - torch.from_numpy(golden["depth_view/pixels"])).abs().max())
    assert error < 1e-5
    evidence("languagebind", "golden", peer=str(golden["provenance"]), depth_view_max_abs_error=error)


def test_views_have_one_shape_and_the_random_ones_differ():
    rng = np.random.default_rng(0)
    film = np.random.default_rng(1).integers(256, size=(5, 40, 60, 3), dtype=np.uint8)
    random, still = video_view(film, 4, 32, rng, "k"), video_view(film, 4, 32, None, "k")
    assert random.shape == still.shape == (4, 3, 32, 32)
    assert (video_view(film, 4, 32, None, "k") == still).all()
    assert (random != still).any()
    noise = np.random.default_rng(2).standard_normal(RATE).astype(np.float32)
    stretches = audio_view(noise, 16, 24, (0.0, 1.0), None, "k")
    assert stretches.shape == (3, 16, 24)
    assert not np.allclose(stretches[0], stretches[2])
    with pytest.raises(BadSample, match="shorter than 25 ms"):
        audio_view(noise[:300], 16, 24, (0.0, 1.0), None, "k")
