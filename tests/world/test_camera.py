"""Pictures and their ground truth."""

import multiprocessing
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from oculex.world import DOMAINS, SceneConfig, look, make_scene, render, render_batch, shape_names, survey
from oculex.world.objects import Object
from oculex.world.raycast import distance
from oculex.world.scene import Scene
from oculex.world.vocabulary import COLOUR, COLOURS, SHAPES

SCENES = [make_scene(21, i) for i in range(60)]


def alone(shape: str, colour: str = "red", **changes) -> Scene:
    """One large rubber object in the middle, seen from its front."""
    scene = make_scene(0, 0, SceneConfig(objects=(1, 1)))
    front = scene.camera.azimuth + np.pi / 2
    thing = Object(shape, colour, "rubber", "plain", "large", 0.0, 0.0, front, **changes)
    camera = replace(scene.camera, elevation=0.25, distance=3.2, target=(0.0, 0.0, 0.45))
    light = replace(scene.light, azimuth=scene.camera.azimuth + 0.5, elevation=0.9)
    return replace(scene, objects=(thing,), camera=camera, light=light)


def test_pictures_are_a_function_of_the_scene():
    again = [render(make_scene(21, i)) for i in range(4)]
    assert all((a == render(s)).all() for a, s in zip(again, SCENES[:4], strict=True))
    assert (render_batch(SCENES[:9], threads=2) == np.stack([render(s) for s in SCENES[:9]])).all()


def test_pictures_are_what_they_were_when_the_world_was_fixed():
    golden = [(190.5, 155.1, 152.5), (194.8, 174.7, 151.6), (184.6, 190.6, 190.7), (183.5, 177.1, 167.6)]
    for index, means in enumerate(golden):
        assert render(make_scene(3, index)).mean(axis=(0, 1)) == pytest.approx(means, abs=1.0)


def test_masks_depth_and_boxes_agree():
    for scene in SCENES:
        view = look(scene, 64)
        eye, forward, _, _ = scene.camera.basis
        assert view.rgb.shape == (64, 64, 3)
        assert view.depth.dtype == np.float32
        for i, thing in enumerate(scene.objects):
            mask = view.instances == i + 1
            rows, columns = np.nonzero(mask)
            assert view.boxes[i].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert (view.semantic[mask] == shape_names().index(thing.shape) + 1).all()
            centre = np.dot(np.array([thing.x, thing.y, 0.5 * thing.height]) - eye, forward)
            assert np.abs(view.depth[mask] - centre).max() <= np.hypot(thing.footprint, thing.height)
        assert (view.semantic[view.instances == 0] == 0).all()
        assert (view.printed[view.instances == 0] == 0).all()


def test_depth_of_the_ground_is_geometry():
    scene = alone("cube")
    view = look(scene, 64)
    eye, forward, _, up = (np.array(v) for v in scene.camera.basis)
    v = 1.0 - (2 * 63 + 1.0) / 64  # the lowest row
    direction = forward + np.tan(scene.camera.field_of_view / 2) * v * up
    assert view.depth[63, 32] == pytest.approx(-eye[2] / direction[2], rel=1e-3)
    sky = look(scene.seen_from(0.0, elevation=2.0), 64)
    assert sky.depth[0, 0] == 0.0


def test_the_subject_is_largest_and_nothing_is_lost():
    largest = 0
    for i in range(300):
        seen = survey(make_scene(8, i))
        assert min(seen.visibility) > 0.3
        assert min(seen.pixels) >= 14
        largest += seen.pixels[0] == max(seen.pixels)
    assert largest >= 298


def test_visibility_counts_what_others_hide():
    scene = alone("sphere")
    one = scene.objects[0]
    ca, sa = np.cos(scene.camera.azimuth), np.sin(scene.camera.azimuth)
    wall = replace(one, shape="cube", x=1.0 * ca, y=1.0 * sa)
    seen = survey(replace(scene, objects=(one, wall)))
    assert survey(scene).visibility == (1.0,)
    assert seen.visibility[0] < 0.6 < seen.visibility[1] == 1.0


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_a_solid_fits_its_table_row(number):
    shape, rng = SHAPES[number], np.random.default_rng(number)
    x, y = (rng.uniform(-1.25, 1.25, 20000) for _ in range(2))
    z = rng.uniform(-0.2, 2.0, 20000)
    d = np.array([distance(number, *p) for p in zip(x, y, z, strict=True)])
    step = rng.normal(size=(3, 20000))
    step *= 0.03 / np.linalg.norm(step, axis=0)
    moved = np.array([distance(number, *p) for p in zip(x + step[0], y + step[1], z + step[2], strict=True)])
    assert np.abs(moved - d).max() <= 0.03 * 1.001  # Lipschitz: a step of the ray never jumps a surface
    inside = d < 0
    assert np.abs(x[inside]).max() <= shape.half_width + 1e-6
    assert np.abs(y[inside]).max() <= shape.half_depth + 1e-6
    assert np.hypot(x, y)[inside].max() <= shape.footprint + 1e-6
    assert z[inside].min() >= -1e-6
    assert z[inside].max() <= shape.height + 1e-6
    assert inside.mean() * 2.5 * 2.5 * 2.2 == pytest.approx(shape.volume, rel=0.2, abs=0.05)


@pytest.mark.parametrize("domain", ["studio", "overcast", "dusk", "film"])
def test_colours_stay_apart(domain):
    """Rendered colours are nearest to their own kind, not to another colour in the same light."""
    means = []
    for colour in COLOURS:
        view = look(alone("sphere", colour.name).within(domain), 48)
        means.append(view.rgb[view.instances == 1].astype(float).mean(axis=0))
    gaps = np.linalg.norm(np.array(means)[:, None] - np.array(means)[None], axis=-1)
    np.fill_diagonal(gaps, np.inf)
    assert gaps.min() > 25.0


def test_a_picture_has_the_colour_that_was_asked_for():
    for name in ("red", "green", "blue"):
        view = look(alone("cube", name), 32)
        mean = view.rgb[view.instances == 1].mean(axis=0)
        assert mean.argmax() == np.argmax(COLOUR[name].rgb)


def test_light_casts_a_shadow_away_from_itself():
    scene = alone("cylinder", "gray")
    empty = replace(scene, objects=(replace(scene.objects[0], x=30.0),))
    view, bare = look(scene, 96), look(empty, 96)
    darker = (bare.rgb.astype(int).sum(-1) - view.rgb.astype(int).sum(-1) > 60) & (view.instances == 0)
    assert darker.sum() > 100
    columns = np.nonzero(darker)[1]
    assert columns.mean() < 48  # the light stands to the right of the camera


def test_labels_are_printed_where_the_mask_says():
    scene = alone("cube", "red", label="K")
    view = look(scene, 128)
    label = view.rgb[view.printed == 1].astype(int)
    assert label.shape[0] > 800
    spread = np.abs(label - label.mean(axis=1, keepdims=True)).mean()
    assert spread < 15  # black and white
    assert survey(scene).legible(0)
    assert not survey(scene.seen_from(180.0)).legible(0)


def test_every_domain_draws_and_they_differ():
    pictures = np.stack([render(SCENES[0].within(name)) for name in DOMAINS]).astype(float)
    gaps = np.abs(pictures[:, None] - pictures[None]).mean(axis=(2, 3, 4))
    assert gaps[~np.eye(len(DOMAINS), dtype=bool)].min() > 3.0


def _in_worker(index: int) -> float:
    return float(render_batch([make_scene(21, index)] * 2).mean())


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this system")
def test_forked_workers_can_draw():
    render_batch(SCENES[:4], threads=2)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        means = pool.map_async(_in_worker, range(4)).get(timeout=60)
    assert means == [float(render(s).mean()) for s in SCENES[:4]]


def test_importing_the_world_compiles_nothing():
    code = "import sys, oculex.world; sys.exit('numba' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
