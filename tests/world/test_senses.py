"""Sound from material and shape, temperature as a thermal camera reads it, and the scene through time."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from oculex.world import SENSORS, SceneConfig, look, make_scene
from oculex.world.infrared import KELVIN, apparent, infrared
from oculex.world.sound import FAMILY, RATE, RATIOS, SECONDS, partials, sound
from oculex.world.video import FPS, FRAMES
from oculex.world.vocabulary import MATERIAL, SHAPE

ONE = SceneConfig(objects=(1, 1), moving=0.0)


def made(**subject):
    scene = make_scene(0, 4, ONE)
    return replace(scene, objects=(replace(scene.subject, **subject),))


def spectrum(scene):
    return np.abs(np.fft.rfft(sound(scene))), np.fft.rfftfreq(int(RATE * SECONDS), 1 / RATE)


def test_a_strike_sounds_at_the_objects_partials():
    scene = made(material="metal", shape="bowl", size="large")
    power, hertz = spectrum(scene)
    found, _, loud = partials(scene.subject)
    loudest = float(found[loud.argmax()])
    assert abs(hertz[power.argmax()] - loudest) < 5.0


def test_small_is_higher_metal_rings_longer_and_shapes_have_their_ratios():
    def of(**kind):
        return partials(made(**kind).subject)

    small, large = (of(material="wood", shape="cube", size=size)[0][0] for size in ("small", "large"))
    assert small == pytest.approx(large * 0.60 / 0.26)
    assert (
        of(material="metal", shape="mug", size="large")[1][0]
        < of(material="wood", shape="mug", size="large")[1][0]
    )
    rubber = of(material="rubber", shape="star", size="large")[0]
    assert rubber / rubber[0] == pytest.approx(np.array(RATIOS["plate"])[: len(rubber)])
    assert set(FAMILY) == set(SHAPE)
    for shape in SHAPE:
        for material in MATERIAL:
            for size in ("small", "large"):
                hertz, decay, loud = of(material=material, shape=shape, size=size)
                assert 0 < hertz.min() <= hertz.max() < RATE / 2
                assert decay.min() > 0
                assert loud.sum() == pytest.approx(1.0)


def test_sound_is_a_function_of_the_scene_and_falls_silent():
    scene = made(material="rubber")
    first = sound(scene)
    assert first.dtype == np.float32
    assert first.shape == (int(RATE * SECONDS),)
    assert (first == sound(scene)).all()
    assert np.abs(first).max() <= 1.0
    assert np.abs(first[-RATE // 10 :]).max() < 0.01 * np.abs(first).max()
    moving = replace(scene, objects=(replace(scene.subject, vx=0.5),))
    assert sound(moving)[-RATE // 10 :].std() > 10 * first[-RATE // 10 :].std()


def test_sound_tells_materials_apart():
    scenes = [make_scene(0, n, SceneConfig(objects=(1, 1))) for n in range(250)]
    heard = np.stack(
        [np.log(np.abs(np.fft.rfft(sound(s)))[:8000].reshape(40, -1).mean(1) + 1e-3) for s in scenes]
    )
    away = ((heard[:, None] - heard[None]) ** 2).sum(-1)
    np.fill_diagonal(away, np.inf)
    materials = [s.subject.material for s in scenes]
    right = np.mean([materials[n] == materials[m] for n, m in enumerate(away.argmin(1))])
    assert right > 0.6 > 2 * max(Counter(materials).values()) / len(scenes)


def test_a_black_surface_shows_its_temperature_and_a_mirror_the_rooms():
    assert apparent(60.0, 1.0, 20.0) == pytest.approx(60.0 + KELVIN)
    assert apparent(60.0, 0.0, 20.0) == pytest.approx(20.0 + KELVIN)
    hot = {material: apparent(80.0, MATERIAL[material].emissivity, 20.0) for material in MATERIAL}
    assert max(hot, key=hot.get) == "rubber"
    assert min(hot, key=hot.get) == "metal"


def test_infrared_is_the_temperature_of_what_stands_there():
    scene = made(material="rubber", temperature=80.0)
    seen = look(scene, 48)
    image = infrared(scene, seen.instances)
    assert image.dtype == np.float32
    assert np.unique(image[seen.instances == 0]).tolist() == [
        np.float32(scene.domain.ambient_temperature + KELVIN)
    ]
    thing = apparent(80.0, MATERIAL["rubber"].emissivity, scene.domain.ambient_temperature)
    assert image[seen.instances == 1] == pytest.approx(thing)


def test_a_video_shows_motion_and_begins_at_the_scene():
    scene = made(vx=0.4, vy=0.3)
    film = SENSORS["video"](scene, 32, np.random.default_rng(0), SceneConfig())
    assert film.shape == (FRAMES, 32, 32, 3)
    assert film.dtype == np.uint8
    for n, frame in enumerate(film):
        assert (frame == look(scene.at(n / FPS), 32, supersample=1).rgb).all()
    assert (film[0] != film[-1]).any(-1).mean() > 0.02
    assert all(scene.at(n / FPS).objects == scene.at(n / FPS).objects for n in range(FRAMES))
