"""What further sensors see is made once, by whoever asks first; what a crash left half written is made again."""

import numpy as np
import pytest

from oculex.contracts import UserError
from oculex.data.sources import embedded, open_source
from oculex.data.sources.kept import Kept
from oculex.world import ARRAYS, SENSORS


class Maker:
    """Row n holds n everywhere; counts how often it was asked."""

    def __init__(self, n, shape=(3, 2)):
        self.n, self.shape, self.asked = n, shape, 0

    def __call__(self):
        self.asked += 1
        return np.full(self.shape, self.n, np.float32)


def test_a_row_is_made_once_and_read_by_others(tmp_path):
    first, made = Kept(tmp_path / "new" / "a.rows", "<f4", (3, 2)), Maker(5)
    assert (first.row(5, made) == 5).all()
    other = Kept(tmp_path / "new" / "a.rows", "<f4", (3, 2))
    for kept in (first, other):
        row = kept.row(5, made)
        assert row.dtype == np.float32
        assert (row == 5).all()
        row[:] = -1  # a reader's own copy
    assert made.asked == 1


def test_rows_before_and_between_are_not_there_even_where_all_is_zero(tmp_path):
    kept, zero = Kept(tmp_path / "a.rows", "<f4", (3, 2)), Maker(0)
    kept.row(7, Maker(7))
    assert (kept.row(3, zero) == 0).all()
    assert (kept.row(3, zero) == 0).all()
    assert zero.asked == 1


@pytest.mark.parametrize("harm", ["bit", "cut"])
def test_a_torn_row_is_made_again(tmp_path, harm):
    path = tmp_path / "a.rows"
    kept, made = Kept(path, "<f4", (3, 2)), Maker(1)
    kept.row(1, made)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if harm == "bit" else content[:-9])
    assert (kept.row(1, made) == 1).all()
    assert made.asked == 2
    assert (kept.row(1, made) == 1).all()
    assert made.asked == 2


def test_where_nothing_can_be_kept_a_person_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="free space or set OCULEX_CACHE"):
        Kept(tmp_path / "file" / "a.rows", "<f4", (3, 2)).row(0, Maker(0))


def test_the_worlds_arrays_are_seen_once_whatever_else_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("OCULEX_CACHE", str(tmp_path))
    spec = "world:scenes=5,size=16,keys="
    before = open_source(spec + "+".join(ARRAYS))[3]
    for key in ARRAYS:
        source = open_source(spec)
        made = SENSORS[key](source.scene(3), 16, np.random.default_rng(0), source.config)
        assert (before[key].dtype, before[key].shape) == (made.dtype, made.shape)
        assert (before[key] == made).all()

    def never(*_):
        raise AssertionError("seen a second time")

    monkeypatch.setattr(embedded, "SENSORS", {**SENSORS, **dict.fromkeys(ARRAYS, never)})
    again = open_source("world:scenes=4,size=16,captions=1,keys=video+depth")[3]
    assert all((again[key] == before[key]).all() for key in ("video", "depth"))
    for other in ("size=17", "seed=1", "split=test", "most=1", "domain=dusk", "part=1/4"):
        with pytest.raises(AssertionError):
            open_source(f"world:scenes=4,size=16,{other},keys=video")[3]
