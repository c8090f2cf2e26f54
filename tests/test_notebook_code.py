"""Notebook 08 shows the course's own code: its definitions are those of the files, line by line."""
import ast
from pathlib import Path

import nbformat
import pytest

DDPM = Path(__file__).resolve().parents[1] / "01_example" / "ddpm"
SHOWN = {
    "unet": ["zero", "time_embedding", "ResBlock", "Attention", "UNet"],
    "ddpm": ["cosine_schedule", "_alpha_bar", "per_image", "q_sample", "l_simple", "predict_x_0",
             "q_posterior", "ddpm_step", "sample"],
    "training": ["algorithm_1", "clip_gradients", "update_ema"],
    "objectives": ["v_target", "v_to_eps"],
}


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
    notebook = nbformat.read(DDPM / "ddpm.ipynb", as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def in_file(module: str) -> dict[str, list[str]]:
    """The definitions of one of the course's files."""
    return definitions((DDPM / f"{module}.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in SHOWN.items() for n in names])
def test_the_notebook_shows_the_files_own_lines(module, name):
    """Defined once in the notebook, with the same lines as in the file, each of 88 columns."""
    shown = [found[name] for found in map(definitions, cells()) if name in found]
    assert len(shown) == 1
    assert shown[0] == in_file(module)[name]
    assert max(map(len, shown[0])) <= 88


def test_nothing_else_of_these_files_is_defined_anew():
    """A definition of the notebook that has a name of these files is one of those compared."""
    ours = {name for found in map(definitions, cells()) for name in found}
    theirs = {name for module in SHOWN for name in in_file(module)}
    assert ours & theirs == {name for names in SHOWN.values() for name in names}


def test_what_is_shown_is_not_imported():
    """The notebook runs the definitions that it shows: it imports none of them by name."""
    nodes = [node for cell in cells() for node in ast.walk(ast.parse(cell))]
    imported = {alias.name for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))
                for alias in node.names}
    assert not imported & {name for names in SHOWN.values() for name in names}
    assert not imported & {"unet", "training", "objectives"}
