from types import SimpleNamespace

import pytest

from oculex.contracts import Recipe, Stage, UserError
from oculex.training import plan


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("3m", (180, "seconds")), ("90s", (90, "seconds")), ("1.5h", (5400, "seconds")), ("2000steps", (2000, "steps")),
     ("1e6samples", (1e6, "samples")), (" 10 STEPS", (10, "steps"))],
)  # fmt: skip
def test_budgets(text, parsed):
    assert plan.parse_budget(text) == parsed


@pytest.mark.parametrize("text", ["", "3", "3 minutes", "-3m", "0steps", "m", "1..2m"])
def test_other_budgets_are_refused_in_one_line(text):
    with pytest.raises(UserError, match="is not understood"):
        plan.parse_budget(text)


def test_steps_of_a_budget():
    recipe = Recipe("x", None, budget="1e4samples", batch=256)
    assert plan.steps_for(recipe) == 39
    assert plan.steps_for(Recipe("x", None, budget="60s"), seconds_per_step=0.5) == 120


def test_stages_tile_the_run():
    stages = (Stage("a", 0.3), Stage("b", 0.3), Stage("c", 0.4))
    laid = plan.spans(stages, 101)
    assert [span.start for span in laid] == [0, *(span.stop for span in laid[:-1])]
    assert laid[-1].stop == 101


def test_weights_of_sources():
    assert plan.parse_weight("a/b@2.5") == ("a/b", 2.5)
    assert plan.parse_weight("a@b/c") == ("a@b/c", None)


def test_classes_are_those_of_the_sources_that_name_any():
    """A source of another kind beside, as robots' beside pictures with boxes, takes no names away."""
    named, other, none = (SimpleNamespace(classes=names) for names in (("cat", "dog"), ("dog", "cat"), ()))
    assert plan.Pool((named, none), (), None).classes() == ("cat", "dog")
    assert plan.Pool((named, other), (), None).classes() == ()  # a label would mean two things
    assert plan.Pool((none,), (), None).classes() == ()
