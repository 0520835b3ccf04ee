import json
import subprocess
import sys

import pytest

from oculex import catalog
from oculex.contracts import UserError


def test_108_rows_with_full_titles():
    assert [row.number for row in catalog.ROWS] == list(range(1, 109))
    names = [row.name for row in catalog.ROWS]
    assert len(set(names)) == 108
    assert all(name.isidentifier() for name in names)
    assert len({row.title for row in catalog.ROWS}) == 108
    assert all(len(row.title.split()) >= 5 or row.name == "sit" for row in catalog.ROWS)
    assert all(2016 < row.year < 2027 for row in catalog.ROWS)


def test_nothing_heavy_is_imported_to_list():
    code = "import sys, oculex.catalog; print([m for m in ('torch', 'numpy', 'pyarrow') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_name_or_a_number_finds_its_row_and_a_mistake_its_neighbours():
    assert catalog.find("clip") is catalog.find("107")
    with pytest.raises(UserError, match="negclip"):
        catalog.find("negclipp")
    with pytest.raises(UserError, match="planned, not built yet"):
        catalog.load("valor")


def test_status_follows_the_evidence(tmp_path, monkeypatch):
    row = catalog.find("clip")
    monkeypatch.setattr(catalog, "evidence_path", lambda name: tmp_path / f"{name}.json")
    assert catalog.status(row) == "planned"
    (tmp_path / "clip.json").write_text(json.dumps({"learning": {"top1": 0.7}}))
    assert catalog.status(row) == "runs"
    (tmp_path / "clip.json").write_text(json.dumps({point: {"x": 1} for point in catalog.POINTS}))
    assert catalog.status(row) == "works"
    assert catalog.status(catalog.find("valor")) == "planned"


def test_evidence_has_known_points_alone():
    for row in (*catalog.ROWS, *catalog.BASELINES):
        assert set(catalog.evidence(row.name)) <= set(catalog.POINTS)


def test_a_citation_names_title_and_year():
    text = catalog.cite(catalog.find("clip"))
    assert "Natural Language Supervision" in text
    assert "2021" in text
    assert text.count("{") == text.count("}")
