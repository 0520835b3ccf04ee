"""Records go to a file and come back, and files that are not records are refused in one line."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oculex.contracts import UserError
from oculex.evaluation import records
from oculex.evaluation.records import COLUMNS, Table, concat, read


def table(n=3, **more) -> Table:
    columns = {name: "x" for name in COLUMNS} | {
        "item": [f"i{k}" for k in range(n)], "status": "right", "score": np.arange(n) + 1.0, **more
    }  # fmt: skip
    return Table.of(**columns)


def test_round_trip(tmp_path):
    ours = concat([table(3), table(2, set="y", output='{"top": ["ü", "\\n"]}')])
    ours.write(tmp_path / "deep" / "r.parquet")
    back = read(tmp_path / "deep" / "r.parquet")
    for name in COLUMNS:
        assert back[name].tolist() == ours[name].tolist()
    assert len(back.select(set="y")) == 2
    assert os.listdir(tmp_path / "deep") == ["r.parquet"]


def test_a_table_without_rows_is_a_table(tmp_path):
    concat([]).write(tmp_path / "r.parquet")
    assert len(read(tmp_path / "r.parquet")) == 0


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "r.parquet"
    table(3).write(path)

    def full(arrow, where, **_):
        where.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="space"):
        table(5).write(path)
    assert len(read(path)) == 3
    assert os.listdir(tmp_path) == ["r.parquet"]


def arrow(**replace):
    columns = {name: pa.array([1.0] if name == "score" else ["right"]) for name in COLUMNS} | replace
    return pa.table(columns).replace_schema_metadata({"oculex.records": records.VERSION})


@pytest.mark.parametrize(
    ("hostile", "says"),
    [
        (arrow(score=pa.array(["1"])), "score"),
        (arrow(status=pa.array(["good"])), "status"),
        (arrow(item=pa.array([None], pa.string())), "without a value"),
        (arrow(score=pa.array([float("nan")])), "without a value"),
        (arrow(extra=pa.array([1])), "columns"),
        (arrow().drop_columns(["truth"]), "truth"),
        (arrow().replace_schema_metadata({"oculex.records": "99"}), "version 99"),
        (arrow().replace_schema_metadata(None), "version none"),
    ],
)
def test_other_tables_are_refused(tmp_path, hostile, says):
    pq.write_table(hostile, tmp_path / "r.parquet")
    with pytest.raises(UserError, match=says) as raised:
        read(tmp_path / "r.parquet")
    assert "\n" not in str(raised.value)


def test_files_that_are_not_tables_are_refused(tmp_path):
    whole = tmp_path / "whole.parquet"
    table(100).write(whole)
    data = whole.read_bytes()
    middle = bytearray(data)
    middle[20 : len(data) // 2] = bytes(len(data) // 2 - 20)
    for name, content in {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "text": b"hello" * 100,
        "hole": middle,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError):
            read(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "absent")


def test_a_table_has_its_columns_and_equal_lengths():
    with pytest.raises(ValueError, match="columns"):
        Table({"item": np.empty(0, object)})
    with pytest.raises(ValueError, match="equal length"):
        table(3, truth=["a", "b"])
