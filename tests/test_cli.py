"""The command line as a person meets it."""

import json
import subprocess
import sys

import pytest

from oculex import cli


def run(capsys, *arguments):
    """(exit status, standard output, standard error)"""
    try:
        cli.main(list(arguments))
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    out = capsys.readouterr()
    return status, out.out, out.err


@pytest.mark.parametrize(
    "command", [*(c for c in cli.COMMANDS if c != "data"), "data inspect", "data convert"]
)
def test_every_command_explains_itself(capsys, command):
    status, out, _ = run(capsys, *command.split(), "--help")
    assert status == 0
    assert f"usage: oculex {command}" in out
    assert len(out.splitlines()) > 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train clipp", "did you mean clip"),
        ("train clip --preset huge", "no preset 'huge'"),
        ("train valor", "planned, not built yet"),
        ("train clip --budget soon", "budget 'soon' is not understood"),
        ("train clip --set optimizer.lrr=1", "did you mean lr"),
        ("train clip --set width=wide", "model.width"),
        ("train clip --data /nowhere", "does not exist"),
        ("train clip --dta x", "--dta"),
        ("train", "NAME"),
        ("evaluate /nowhere", "is not a run folder"),
        ("resume /nowhere", "is not a run folder"),
        ("search /nowhere cat", "is not an index"),
        ("list --family birds", "no family 'birds'"),
        ("bench nothing", "no benchmark"),
        ("claim", "name a system"),
        ("frobnicate", "frobnicate"),
        ("data inspect /nowhere", "does not exist"),
        ("train clip --data world:colour=red", "the world has no 'colour'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(capsys, arguments, said):
    status, out, err = run(capsys, *arguments.split())
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert said in err


def test_an_option_may_stand_several_times(capsys, tmp_path):
    """Every change counts, also where each has its own --set."""
    status, _, err = run(capsys, "train", "clip", "--set", "optimizer.lrr=1", "--set", "width=64")
    assert (status, "did you mean lr" in err) == (2, True)
    status, _, err = run(capsys, "train", "clip", "--data", "/nowhere", "--data", str(tmp_path))
    assert (status, "/nowhere does not exist" in err) == (2, True)


def test_list_as_json_is_the_contract(capsys):
    status, out, _ = run(capsys, "list", "--json")
    rows = json.loads(out)
    assert status == 0
    assert len(rows) == 108
    assert set(rows[0]) == {"number", "name", "title", "family", "status", "evidence"}
    assert {row["status"] for row in rows} <= {"planned", "runs", "works"}


def test_show_counts_parameters(capsys):
    status, out, _ = run(capsys, "show", "clip")
    assert status == 0
    assert "151,277,313" in out


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "oculex", "list", "--family", "distill"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "scalekd" in done.stdout
