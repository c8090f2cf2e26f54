"""Notebooks 08 and 09 show the course's own code: their definitions are those of the files, line by
line."""
import ast
from pathlib import Path

import nbformat
import pytest

EXAMPLE = Path(__file__).resolve().parents[1] / "01_example"
SHOWN = {    # folder, whose notebook has its name: file, what of it is shown
    "ddpm": {
        "unet": ["zero", "time_embedding", "ResBlock", "Attention", "UNet"],
        "ddpm": ["cosine_schedule", "_alpha_bar", "per_image", "q_sample", "l_simple",
                 "predict_x_0", "q_posterior", "ddpm_step", "sample"],
        "training": ["algorithm_1", "clip_gradients", "update_ema"],
        "objectives": ["v_target", "v_to_eps"],
    },
    "ddim": {"ddim": ["ddim_step", "sample"], "dpm_solver": []},
}
each_notebook = pytest.mark.parametrize("folder", SHOWN)


def definitions(text: str) -> dict[str, list[str]]:
    """The lines of each function and class at the top of this source, decorators included."""
    lines, found = text.splitlines(), {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = lines[start - 1:node.end_lineno]
    return found


def cells(folder: str) -> list[str]:
    """The sources of the code cells of a folder's notebook."""
    notebook = nbformat.read(EXAMPLE / folder / f"{folder}.ipynb", as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def nodes(folder: str) -> list[ast.AST]:
    """All that the code cells say, as syntax."""
    return [node for cell in cells(folder) for node in ast.walk(ast.parse(cell))]


def in_file(folder: str, module: str) -> dict[str, list[str]]:
    """The definitions of one of the course's files."""
    return definitions((EXAMPLE / folder / f"{module}.py").read_text(encoding="utf-8"))


def names(folder: str) -> set[str]:
    """What a notebook shows."""
    return {name for shown in SHOWN[folder].values() for name in shown}


@pytest.mark.parametrize(("folder", "module", "name"), [
    (f, m, n) for f, modules in SHOWN.items() for m, shown in modules.items() for n in shown])
def test_the_notebook_shows_the_files_own_lines(folder, module, name):
    """Defined once in the notebook, with the same lines as in the file, each of 88 columns."""
    shown = [found[name] for found in map(definitions, cells(folder)) if name in found]
    assert len(shown) == 1
    assert shown[0] == in_file(folder, module)[name]
    assert max(map(len, shown[0])) <= 88


@each_notebook
def test_nothing_else_of_these_files_is_defined_anew(folder):
    """A definition of the notebook that has a name of these files is one of those compared."""
    ours = {name for found in map(definitions, cells(folder)) for name in found}
    theirs = {name for module in SHOWN[folder] for name in in_file(folder, module)}
    assert ours & theirs == names(folder)


@each_notebook
def test_what_is_shown_is_not_imported(folder):
    """The notebook runs the definitions that it shows: it imports none of them by name."""
    imported = {alias.name for node in nodes(folder)
                if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    assert not imported & names(folder)
    if folder == "ddpm":
        assert not imported & {"unet", "training", "objectives"}


def test_ddims_own_sampler_is_asked_once():
    """For the first picture, before notebook 09 has defined its own."""
    assert [node.attr for node in nodes("ddim") if isinstance(node, ast.Attribute)
            and getattr(node.value, "id", "") == "ddim"] == ["sample"]
