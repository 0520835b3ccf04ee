"""The table, the hand and the things on it as MuJoCo's MJCF, built from the names of shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from oculex.simulation.layout import REACH, SCALE
from oculex.world.vocabulary import SHAPE

TIMESTEP = 0.004
"""Seconds."""
OPEN, CLOSED = 0.036, 0.005
"""Metres from the middle of the hand to the inner side of a finger."""
LOWEST, HIGHEST = 0.042, 0.2
"""Of the hand above the table: the tips of its fingers are 0.038 m lower."""
TIP = 0.038
TURN = 1.6
"""Radians that the hand turns about each axis, either way."""
AXES = ("x", "y", "z", "rx", "ry", "rz")
FINGERS = ("left", "right")

_SIDES = 20
"""Of the polygon that stands for a circle."""


def _mesh(points: Sequence[tuple[float, float, float]]) -> str:
    return " ".join(f"{SCALE * value:.5f}" for point in points for value in point)


def _ring(count: int, radius: float, z: float, turn: float = 0.0) -> list[tuple[float, float, float]]:
    angles = [turn + 2 * math.pi * n / count for n in range(count)]
    return [(radius * math.cos(angle), radius * math.sin(angle), z) for angle in angles]


def _vertices(name: str) -> list[tuple[float, float, float]]:
    """Corners of a convex solid, its middle at the origin; the mesh is their hull."""
    shape = SHAPE[name]
    w, d, h = shape.half_width, shape.half_depth, shape.height / 2
    if name == "cone":
        return [*_ring(_SIDES, w, -h), (0.0, 0.0, h)]
    if name == "pyramid":
        return [(-w, -w, -h), (w, -w, -h), (-w, w, -h), (w, w, -h), (0.0, 0.0, h)]
    if name == "prism":
        return _ring(6, w, -h) + _ring(6, w, h)
    return [(-w, -d, -h), (w, -d, -h), (-w, d, -h), (w, d, -h), (-w, -d, h), (-w, d, h)]


HULLS = ("cone", "pyramid", "prism", "wedge")


def _boxes(name: str) -> list[tuple[float, float, float, float, float, float]]:
    """A solid of boxes: x, y, z of the middle and half sides of each."""
    shape = SHAPE[name]
    w, d, h = shape.half_width, shape.half_depth, shape.height / 2
    if name == "cube":
        return [(0, 0, 0, w, d, h)]
    if name == "cross":
        return [(0, 0, 0, d, d, h), (0, 0, 0, w, d, d)]
    pillar = 0.3 * w
    return [(0, 0, h - pillar, w, d, pillar), (pillar - w, 0, -pillar, pillar, d, h - pillar),
            (w - pillar, 0, -pillar, pillar, d, h - pillar)]  # fmt: skip


def _geoms(name: str) -> str:
    shape = SHAPE[name]
    radius, half = shape.half_width * SCALE, shape.height * SCALE / 2
    if name == "sphere":
        return f'<geom type="sphere" size="{radius:.5f}"/>'
    if name == "cylinder":
        return f'<geom type="cylinder" size="{radius:.5f} {half:.5f}"/>'
    if name == "capsule":
        return f'<geom type="capsule" size="{radius:.5f} {half - radius:.5f}"/>'
    if name in HULLS:
        return f'<geom type="mesh" mesh="{name}" pos="0 0 0"/>'
    return "".join(
        f'<geom type="box" pos="{SCALE * x:.5f} {SCALE * y:.5f} {SCALE * z:.5f}" '
        f'size="{SCALE * a:.5f} {SCALE * b:.5f} {SCALE * c:.5f}"/>'
        for x, y, z, a, b, c in _boxes(name)
    )


def mjcf(shapes: Sequence[str]) -> str:
    """The scene with one free body for each of ``shapes``, thing0, thing1 ..."""
    meshes = "".join(
        f'<mesh name="{name}" vertex="{_mesh(_vertices(name))}"/>' for name in HULLS if name in shapes
    )
    things = "".join(
        f'<body name="thing{n}"><freejoint name="free{n}"/>{_geoms(name)}</body>'
        for n, name in enumerate(shapes)
    )
    slides = "".join(
        f'<joint name="{axis}" type="slide" axis="{way}" range="{low} {high}" damping="20"/>'
        for axis, way, low, high in (
            ("x", "1 0 0", -REACH, REACH), ("y", "0 1 0", -REACH, REACH), ("z", "0 0 1", LOWEST, HIGHEST),
        )
    )  # fmt: skip
    turns = "".join(
        f'<joint name="{axis}" type="hinge" axis="{way}" range="{-TURN} {TURN}" damping="0.2"/>'
        for axis, way in (("rx", "1 0 0"), ("ry", "0 1 0"), ("rz", "0 0 1"))
    )
    fingers = "".join(
        f'<body name="{name}" gravcomp="1" pos="{sign * 0.006:.4f} 0 0"><joint name="{name}" type="slide" '
        f'axis="{sign} 0 0" range="{CLOSED} {OPEN}" damping="2"/>'
        '<geom type="box" size="0.006 0.011 0.03" pos="0 0 -0.008" mass="0.05" friction="1.6 0.02 0.001" '
        'rgba="0.12 0.12 0.13 1"/></body>'
        for name, sign in (("left", -1), ("right", 1))
    )
    limits = {"x": (-REACH, REACH), "y": (-REACH, REACH), "z": (LOWEST, HIGHEST)}
    motors = "".join(
        f'<position joint="{axis}" kp="{900 if axis in limits else 6}" dampratio="1" '
        f'ctrlrange="{limits.get(axis, (-TURN, TURN))[0]} {limits.get(axis, (-TURN, TURN))[1]}"/>'
        for axis in AXES
    )
    motors += "".join(
        f'<position joint="{name}" kp="260" dampratio="1" ctrlrange="{CLOSED} {OPEN}" forcerange="-6 6"/>'
        for name in FINGERS
    )
    return f"""
<mujoco model="table">
  <compiler angle="radian"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="5"/>
  <visual><global offwidth="640" offheight="640"/><quality offsamples="0"/>
    <headlight ambient="0.45 0.45 0.45" diffuse="0.35 0.35 0.35" specular="0.1 0.1 0.1"/></visual>
  <default><geom condim="4" friction="0.7 0.01 0.002" density="600" rgba="0.5 0.5 0.5 1"/></default>
  <asset>{meshes}</asset>
  <worldbody>
    <light pos="-0.3 -0.5 1.2" dir="0.25 0.4 -1" directional="true" castshadow="false" diffuse="0.45 0.45 0.45"/>
    <camera name="front" pos="0 -0.33 0.60" xyaxes="1 0 0 0 0.88 0.475" fovy="40"/>
    <geom name="table" type="box" pos="0 0 -0.02" size="0.6 0.6 0.02" rgba="0.7 0.7 0.7 1"/>
    <body name="hand" gravcomp="1">{slides}{turns}
      <geom type="box" size="0.03 0.012 0.012" pos="0 0 0.032" mass="0.3" rgba="0.12 0.12 0.13 1"/>
      {fingers}</body>
    {things}
  </worldbody>
  <actuator>{motors}</actuator>
</mujoco>"""


@lru_cache(maxsize=256)
def compiled(shapes: tuple[str, ...]) -> Any:
    """MuJoCo's model of a table with these shapes, compiled once. Its colours are whoever renders it sets."""
    import mujoco

    return mujoco.MjModel.from_xml_string(mjcf(shapes))


@lru_cache(maxsize=64)
def renderer(shapes: tuple[str, ...], size: int) -> Any:
    """What draws such a table, ``size`` pixels a side. Belongs to the thread that asks first."""
    import mujoco

    made = mujoco.Renderer(compiled(shapes), size, size)
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        made.scene.flags[flag] = False
    return made
