"""Notebook 09 shows the course's own code: its sampler is that of ddim.py, line by line."""
import ast
from pathlib import Path

import nbformat
import pytest

DDIM = Path(__file__).resolve().parents[1] / "01_example" / "ddim"
SHOWN = ["ddim_step", "sample"]


def definitions(text: str) -> dict[str, list[str]]:
    """The lines of each function and class at the top of this source, decorators included."""
    lines, found = text.splitlines(), {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = lines[start - 1:node.end_lineno]
    return found


def cells() -> list[str]:
    """The sources of the notebook's code cells."""
    notebook = nbformat.read(DDIM / "ddim.ipynb", as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", SHOWN)
def test_the_notebook_shows_the_files_own_lines(name):
    """Defined once in the notebook, with the same lines as in the file, each of 88 columns."""
    shown = [found[name] for found in map(definitions, cells()) if name in found]
    assert len(shown) == 1
    assert shown[0] == definitions((DDIM / "ddim.py").read_text(encoding="utf-8"))[name]
    assert max(map(len, shown[0])) <= 88


def test_nothing_else_of_the_files_is_defined_anew():
    """No other definition of the notebook has a name of ddim.py or dpm_solver.py."""
    ours = {name for found in map(definitions, cells()) for name in found}
    theirs = {name for path in (DDIM / "ddim.py", DDIM / "dpm_solver.py")
              for name in definitions(path.read_text(encoding="utf-8"))}
    assert ours & theirs == set(SHOWN)


def test_what_is_shown_is_not_imported():
    """After its own definitions the notebook runs these: it imports none of them by name, and
    ddim's own are asked once, for the first picture."""
    nodes = [node for cell in cells() for node in ast.walk(ast.parse(cell))]
    imported = {alias.name for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))
                for alias in node.names}
    assert not imported & set(SHOWN)
    assert [node.attr for node in nodes if isinstance(node, ast.Attribute)
            and getattr(node.value, "id", "") == "ddim"] == ["sample"]
