"""A table-top as a Gymnasium environment: a hand with two fingers, things on a table, real contact physics.

An action is RT-2's (Brohan et al. 2023, section 3.2): whether to end the episode, displacements of the hand in position
and rotation, and how far the gripper is open. The hand is a gantry driven by position actuators, so it can be held up by
what it touches. The episode is over when the goal is reached, the robot says so, the steps are used up, or physics has
run away, which is a failure.
"""

from __future__ import annotations

import os
import string
from typing import Any

import numpy as np

from oculex.contracts import UserError
from oculex.simulation.layout import HIGH, LOW, Layout, TableConfig, make_layout
from oculex.world.vocabulary import COLOUR

try:
    os.environ.setdefault("MUJOCO_GL", "egl")  # draws without a display; MuJoCo reads it when it is imported
    import gymnasium
    import mujoco
except ImportError as error:
    raise UserError("the simulator is not installed; pip install 'oculex[robot]'") from error

from oculex.simulation import model

mujoco.set_mju_user_warning(
    lambda _: None
)  # which would write a file where one stands; what it warns of is looked for
SECONDS = 0.16
"""Of simulated time a step."""
STEPS = 24
"""Most steps of an episode."""
_BROKEN = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)
"""What MuJoCo warns of when it lays everything anew because its numbers ran away."""
_LETTERS = string.ascii_letters + string.digits + " -"
"""Of instructions."""
PUSHED, LIFTED, DISTURBED = 0.035, 0.05, 0.02
"""Metres that the target has to be moved or raised, and that nothing else may be."""


class TableTop(gymnasium.Env):  # type: ignore[misc]
    """``reset(seed, options={"index": n})`` lays table n of a seed; observations are {"image", "instruction"}."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / SECONDS)}  # noqa: RUF012 gymnasium's own

    def __init__(self, config: TableConfig | None = None, size: int = 64) -> None:
        self.config, self.size, self.render_mode = config or TableConfig(), size, "rgb_array"
        self.action_space = gymnasium.spaces.Box(np.array(LOW, np.float32), np.array(HIGH, np.float32))
        self.observation_space = gymnasium.spaces.Dict(
            {
                "image": gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8),
                "instruction": gymnasium.spaces.Text(200, charset=_LETTERS),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict]:
        """``options["layout"]`` is laid as it is, else number ``options["index"]`` (0) of ``seed`` (0)."""
        super().reset(seed=seed)
        given = options or {}
        layout = given.get("layout") or make_layout(seed or 0, int(given.get("index", 0)), self.config)
        self.lay(layout)
        return self.observation(), {"success": False}

    def lay(self, layout: Layout) -> None:
        self.layout, self.steps = layout, 0
        self._shapes = tuple(thing.shape for thing in layout.things)
        self.model = model.compiled(self._shapes)
        self.data = mujoco.MjData(self.model)
        for n, thing in enumerate(layout.things):
            at = self.model.joint(f"free{n}").qposadr[0]
            turn = (np.cos(thing.yaw / 2), 0.0, 0.0, np.sin(thing.yaw / 2))
            self.data.qpos[at : at + 7] = (thing.x, thing.y, thing.height / 2 + 0.001, *turn)
        self.wanted = np.array([*layout.hand, model.LOWEST, 0.0, 0.0, 0.0])
        self.gripper = 0.0
        for axis, value in zip(model.AXES, self.wanted, strict=True):
            self.data.joint(axis).qpos[0] = value
        for finger in model.FINGERS:
            self.data.joint(finger).qpos[0] = model.CLOSED
        self._drive(0.1)
        self.first = self.places()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """An action outside its bounds is cut to them."""
        ends = self.act(action)
        success = self.success()
        return self.observation(), float(success), ends or success, self.steps >= STEPS, {"success": success}

    def act(self, action: np.ndarray) -> bool:
        """Moves the hand, without looking; whether the robot, or broken physics, ends the episode."""
        action = np.clip(np.asarray(action, np.float64), LOW, HIGH)
        self.steps += 1
        low, high = self.model.actuator_ctrlrange[: len(model.AXES)].T
        self.wanted = np.clip(self.wanted + action[1:7], low, high)
        self.gripper = float(action[7])
        self._drive(SECONDS)
        return bool(action[0] > 0.5) or self.broken

    def _drive(self, seconds: float) -> None:
        finger = model.CLOSED + self.gripper * (model.OPEN - model.CLOSED)
        self.data.ctrl[:] = (*self.wanted, finger, finger)
        mujoco.mj_step(self.model, self.data, round(seconds / model.TIMESTEP))

    @property
    def broken(self) -> bool:
        """Whether physics has run away since the things were laid: from then on nothing is where it was pushed to."""
        return any(self.data.warning[kind].number for kind in _BROKEN)

    def places(self) -> np.ndarray:
        """[things, 3]: where the middle of each thing is, in metres."""
        return np.array([self.data.body(f"thing{n}").xpos for n in range(len(self._shapes))])

    @property
    def hand(self) -> np.ndarray:
        """[6]: position and rotation of the hand."""
        return np.array([self.data.joint(axis).qpos[0] for axis in model.AXES])

    def success(self) -> bool:
        """Whether the target is where it should be and nothing else was moved."""
        if self.broken:
            return False
        moved = self.places() - self.first
        target = self.layout.target
        aside = np.linalg.norm(np.delete(moved, target, axis=0), axis=1).max(initial=0.0)
        reached = (
            moved[target, 2] >= LIFTED
            if self.layout.skill == "lift"
            else np.linalg.norm(moved[target, :2]) >= PUSHED
        )
        return bool(reached and aside < DISTURBED)

    def observation(self) -> dict[str, Any]:
        return {"image": self.render(), "instruction": self.layout.instruction}

    def render(self, size: int | None = None) -> np.ndarray:
        """uint8 [size, size, 3] of the camera."""
        size = size or self.size
        for n, thing in enumerate(self.layout.things):
            body = self.model.body(f"thing{n}")
            colour = np.array([*COLOUR[thing.colour].rgb, 255]) / 255
            self.model.geom_rgba[body.geomadr[0] : body.geomadr[0] + body.geomnum[0]] = colour
        self.model.geom("table").rgba[:3] = self.layout.brightness
        drawn = model.renderer(self._shapes, size)
        drawn.update_scene(self.data, "front")
        return drawn.render().copy()
