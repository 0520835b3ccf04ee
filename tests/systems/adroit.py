"""The Adroit hand before its door, of gymnasium-robotics' model files, in a process of its own as all that draws."""

import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

FRAME_SKIP = 5
"""Simulated steps of 2 ms for each action of the demonstrations."""


def replay(demos, key, side, every):
    """(actions [n, 28], pictures [n, side, side, 3], how far the door opened in radians) of a demonstration, every
    ``every``-th step of it."""
    state = {name: demos[f"{key}/init_state_dict/{name}"] for name in ("qpos", "qvel", "door_body_pos")}
    asked = {
        "model": str(model()),
        "state": state,
        "actions": demos[f"{key}/actions"],
        "side": side,
        "every": every,
    }
    done = subprocess.run(
        [sys.executable, __file__], input=pickle.dumps(asked), capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return pickle.loads(done.stdout)


def model():
    package = find_spec("gymnasium_robotics").submodule_search_locations[
        0
    ]  # found, not imported: it imports much
    return Path(package) / "envs" / "assets" / "adroit_hand" / "adroit_door.xml"


def _replayed(model, state, actions, side, every):
    import mujoco

    made = mujoco.MjModel.from_xml_path(model)
    number = {made.actuator(n).name: n for n in range(made.nu)}
    # hand_dapg and gymnasium-robotics set these gains after loading the model
    for first, last, gain in (("A_WRJ1", "A_WRJ0", 10.0), ("A_FFJ3", "A_THJ0", 1.0)):
        part = slice(number[first], number[last] + 1)
        made.actuator_gainprm[part, :3] = [gain, 0, 0]
        made.actuator_biasprm[part, :3] = [0, -gain, 0]
    middle = made.actuator_ctrlrange.mean(1)
    half = np.diff(made.actuator_ctrlrange, axis=1)[:, 0] / 2
    made.body("frame").pos[:] = state["door_body_pos"]
    data = mujoco.MjData(made)
    data.qpos[:], data.qvel[:] = state["qpos"], state["qvel"]
    mujoco.mj_forward(made, data)
    renderer, hinge = mujoco.Renderer(made, side, side), made.joint("door_hinge").qposadr[0]
    kept, seen, opened = [], [], 0.0
    for place, action in enumerate(actions):
        if place % every == 0:
            renderer.update_scene(data, "fixed")
            seen.append(renderer.render().copy())
            kept.append(action)
        data.ctrl[:] = middle + np.clip(action, -1, 1) * half
        mujoco.mj_step(made, data, FRAME_SKIP)
        opened = max(opened, float(data.qpos[hinge]))
    return np.clip(np.array(kept), -1, 1).astype(np.float32), np.stack(seen), opened


if __name__ == "__main__":
    os.environ.setdefault("MUJOCO_GL", "egl")
    sys.stdout.buffer.write(pickle.dumps(_replayed(**pickle.loads(sys.stdin.buffer.read()))))
