"""Which evaluations of a run can be joined by a line."""

from oculex.evaluation.curves import along


def line(step, **metrics):
    return {"step": step, "metrics": {name: {"value": 0.5, "n": n} for name, n in metrics.items()}}


def test_evaluations_of_one_number_of_items_make_a_curve():
    lines = [line(1, r1=1000), line(2, r1=1000, top1=7), line(3, top1=7), line(4, r1=2000)]
    assert [each["step"] for each in along(lines, "r1")] == [1, 2]
    assert [each["step"] for each in along(lines, "top1")] == [2, 3]
    assert along(lines, "none") == []
