"""The loop trains every system and knows none: what differs is a named part or a field, never a name."""

import ast
from pathlib import Path

import pytest

import oculex.training
from oculex import catalog
from oculex.training.optimizers import OPTIMIZERS

FILES = sorted(Path(oculex.training.__file__).parent.glob("*.py"))
NAMES = {row.name for row in catalog.ROWS} - OPTIMIZERS.keys()  # a row that is an optimizer is a part here


def breaches(tree: ast.AST, names: set[str]) -> list[str]:
    found = []
    for node in ast.walk(tree):
        where = f"line {getattr(node, 'lineno', 0)}: "
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("oculex.systems"):
            found.append(where + "imports a system")
        if isinstance(node, ast.Import) and any(a.name.startswith("oculex.systems") for a in node.names):
            found.append(where + "imports a system")
        if isinstance(node, ast.Constant) and node.value in names:
            found.append(where + f"names the system {node.value}")
        if isinstance(node, (ast.Compare, ast.Match)):
            read = {ast.unparse(n) for n in ast.walk(node) if isinstance(n, ast.Attribute)}
            if any(
                text.endswith(("recipe.system", "__name__", "__qualname__", "__class__")) for text in read
            ):
                found.append(where + "compares a system's or a class's name")
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "hasattr"):
            subject = ast.unparse(node.args[0])
            if subject.rpartition(".")[2] in ("system", "trained"):
                found.append(where + f"asks what {subject} is")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_training_never_branches_on_a_method(file):
    assert not breaches(ast.parse(file.read_text()), NAMES)


@pytest.mark.parametrize(
    "code",
    [
        "if recipe.system == name: pass",
        "from oculex.systems.contrastive.clip import CLIP",
        "import oculex.systems.contrastive.clip",
        "steps = {'clip': 1}",
        "if type(system).__name__ in slow: pass",
        "if isinstance(self.system, Teacher): pass",
        "if hasattr(self.trained, 'queue'): pass",
        "match type(system).__name__:\n  case _: pass",
    ],
)
def test_the_rule_sees_a_breach(code):
    assert breaches(ast.parse(code), NAMES)
