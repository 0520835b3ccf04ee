"""README.md: what follows from facts agrees with them, and what it points to is there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from oculex.cli import COMMANDS
from oculex.contracts import UserError
from oculex.report.readme import rewritten, said, tables

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(("page", "blocks"), tables().items(), ids=str)
def test_the_tables_are_the_catalog_and_its_evidence(page, blocks):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert rewritten(text, blocks) == text, "run `python -m oculex.report.readme`"


def test_a_block_is_replaced_and_the_rest_left():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert rewritten(text, {"x": "new \\1\n"}) == "a\n<!-- x -->\nnew \\1\n<!-- /x -->\nb\n"
    with pytest.raises(UserError, match="needs one <!-- y -->"):
        rewritten(text, {"y": ""})


def test_a_run_is_called_by_its_name_alone(run, tmp_path):
    shutil.copytree(run, tmp_path / "elsewhere")
    shown = said(tmp_path / "elsewhere", "demo")
    assert str(tmp_path) not in shown
    assert "oculex evaluate runs/demo" in shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_commands_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    for command in re.findall(r"\boculex ([a-z]+)\b(?=[ `\n])", text):
        assert command in COMMANDS, command
    assert not re.search(r"(?<![\w.])/(work|home|tmp|root)/", text)


def test_pictures_are_small():
    sizes = [path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()]
    assert 0 < sum(sizes) < 300_000
