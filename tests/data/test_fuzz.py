"""Thousands of damaged and hostile inputs: nothing crashes, hangs, fills the memory, or writes where it should not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.fuzz import cases, listing
from tests.data.hostile import picture

PEAK = 1 << 30
"""Bytes of resident memory beyond the start's; 64 million pixels in RGB are a fifth of it."""


@pytest.mark.parametrize("share", [0, 1])
def test_no_input_does_harm(tmp_path, share):
    for name in ("outside", "home", "temporary", "here", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(picture("PNG", np.random.default_rng(0)))
    kept = listing(tmp_path / "outside")
    environment = os.environ | {
        "HOME": str(tmp_path / "home"), "OCULEX_CACHE": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "cache" / "hub"),
        "TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1", "ARROW_IO_THREADS": "1",
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.data.fuzz", str(tmp_path / "run"), str(share), "2"],
        cwd=tmp_path / "here", env=environment, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    current = tmp_path / "run" / "current"
    where = current.read_text() if current.exists() else "the start"
    assert run.returncode == 0, f"died at {where!r} with {run.returncode}:\n{run.stderr[-3000:]}"
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert not result["failures"], "\n".join(result["failures"][:20])
    totals = result["totals"]
    assert totals["inputs"] == len(list(cases())[share::2]) >= 2500
    assert min(totals["read"], totals["bad"], totals["refused"]) > 100  # each of the three ways out was taken
    assert result["peak"] < PEAK, f"{result['peak'] >> 20} MiB"
    assert listing(tmp_path / "outside") == kept
    for name in ("home", "temporary", "here"):
        assert not listing(tmp_path / name)
