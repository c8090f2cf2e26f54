"""The notebooks as files: saved by Restart & Run All, small, linked, every equation checked, and of
one mind with the code of 01_example. (That their outputs hold is nbval's part.)"""
import ast
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import numpy as np
import pytest
import torch

import ddim
import ddpm

ROOT = Path(__file__).resolve().parents[1]
BACKGROUND = sorted((ROOT / "00_background").glob("*.ipynb"))
NOTEBOOKS = BACKGROUND + sorted((ROOT / "01_example").rglob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def cells(path: Path, kind: str) -> list:
    """The notebook's cells of one kind, `code` or `markdown`."""
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


@each_notebook
def test_was_saved_by_restart_and_run_all(path):
    """Execution counts are 1..n, and no cell failed or wrote to stderr."""
    code = cells(path, "code")
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    outputs = [o for c in code for o in c.outputs]
    assert outputs
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


@each_notebook
def test_hides_nothing_from_nbval(path):
    """No cell is skipped, ignored or expected to fail, by comment or by tag."""
    for cell in cells(path, "code"):
        assert "NBVAL_" not in cell.source
        assert not cell.metadata.get("tags")


@each_notebook
def test_is_small_and_clean(path):
    """Under 500 kB, with no metadata but the kernel's."""
    assert path.stat().st_size < 500_000
    assert set(nbformat.read(path, as_version=4).metadata) <= {"kernelspec", "language_info"}


@each_notebook
def test_links_lead_somewhere(path):
    """Every relative link and image of the text is a file of the repository."""
    text = "\n".join(c.source for c in cells(path, "markdown"))
    for target in re.findall(r"\]\((?!\w+:)([^)#\s]+)", text):
        assert (path.parent / unquote(target)).exists(), target


@each_notebook
def test_opens_like_the_others(path):
    """The first cell has the title, the question, what you will see and need, and the time."""
    first = nbformat.read(path, as_version=4).cells[0].source
    for pattern in (r"# 0\d [A-Z]", r"\*\*The question\.\*\* .*\?", r"\*\*What you will see\.\*\*",
                    r"\*\*What you need\.\*\*", r"\*\*Time\.\*\* About \d+ minutes\."):
        assert re.search(rf"^{pattern}", first, re.M | re.S), pattern


def heading(path: Path) -> str:
    """A notebook's title, number included."""
    return nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].removeprefix("# ")


def test_each_leads_to_the_next():
    """Below its references each notebook opens the next one, and goes back, by title."""
    in_order = sorted(NOTEBOOKS, key=heading)
    for here, there in zip(in_order, in_order[1:], strict=False):
        for path, other, word in ((here, there, "Next"), (there, here, "Previous")):
            text = "\n".join(c.source for c in cells(path, "markdown")).split("## References")[1]
            target = re.search(rf"{word}: \[{re.escape(heading(other))}\]\(([^)]+)\)", text)
            assert target and (path.parent / target[1]).resolve() == other, (path.stem, word)


@each_notebook
def test_every_equation_is_checked(path):
    """Each \\tag{k} has a code cell with an assert that says '# checks (k)', and no other k is."""
    text = "\n".join(c.source for c in cells(path, "markdown"))
    tags = re.findall(r"\\tag\{(\d+)\}", text)
    checked = {k for c in cells(path, "code") if "assert" in c.source
               for line in re.findall(r"^\s*# checks (.*)", c.source, re.M)
               for k in re.findall(r"\((\d+)\)", line)}
    assert tags == [str(k) for k in range(1, len(tags) + 1)]
    assert set(tags) == checked
    least = 15 if path in BACKGROUND[4:] else 12 if path in BACKGROUND else 3
    assert len(tags) >= least


@pytest.mark.parametrize("path", BACKGROUND, ids=lambda p: p.stem)
def test_background_imports_nothing_of_ours(path):
    """A background notebook stands alone: its modules come from requirements.txt or Python."""
    ours = {p.stem for p in (ROOT / "01_example").rglob("*.py")}
    for cell in cells(path, "code"):
        for node in ast.walk(ast.parse(cell.source)):
            names = ([a.name for a in node.names] if isinstance(node, ast.Import)
                     else [node.module] if isinstance(node, ast.ImportFrom) else [])
            assert not ours & {name.split(".")[0] for name in names}


def definitions(path: Path) -> dict:
    """The functions that a notebook defines, run by themselves: name -> function."""
    nodes = [n for c in cells(path, "code") for n in ast.parse(c.source).body
             if isinstance(n, ast.FunctionDef)]
    names = [n.name for n in nodes]
    space = {"np": np, "torch": torch}
    exec(compile(ast.Module(nodes, []), str(path), "exec"), space)
    assert len(set(names) & SHARED) == len([n for n in names if n in SHARED]), "defined twice"
    return {name: space[name] for name in names}


SHARED = {"linear_schedule", "cosine_schedule", "q_sample", "q_posterior", "predict_x_0",
          "ddpm_step", "ddim_step", "subsequence"}
DEFINED = [(path, name) for path in BACKGROUND for name in sorted(SHARED)
           if name in "\n".join(re.findall(r"^def (\w+)", "\n".join(
               c.source for c in cells(path, "code")), re.M)).split()]


def test_the_definitions_are_there():
    """Between them the background notebooks define every shared function."""
    assert {name for _, name in DEFINED} == SHARED


@pytest.mark.parametrize("path, name", DEFINED, ids=lambda v: v if isinstance(v, str) else v.stem)
def test_a_notebooks_definition_equals_the_codes(path, name):
    """What a notebook defines computes what ddpm.py or ddim.py does, to 1e-12."""
    theirs, ours = definitions(path)[name], getattr(ddim if "ddim" in name or name == "subsequence"
                                                    else ddpm, name)
    rng = np.random.default_rng(7)
    x, eps, z = rng.normal(0, 0.8, (3, 5))
    alpha_bar = ddpm.cosine_schedule(40)

    def same(*args, **options):
        of_torch = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in args]
        there, here = theirs(*args, **options), ours(*of_torch, **options)
        pairs = zip(there, here, strict=True) if isinstance(here, tuple) else [(there, here)]
        for a, b in pairs:
            np.testing.assert_allclose(np.asarray(a), np.asarray(b).reshape(np.shape(a)),
                                       rtol=1e-12, atol=1e-12)

    if name.endswith("_schedule"):
        for T in (25, 200, 1000):
            same(T)
        same(90, *([2e-4, 0.03] if name == "linear_schedule" else [0.02, 0.9]))
    elif name == "subsequence":
        for T, S in [(1000, 10), (1000, 50), (1000, 1000), (37, 5)]:
            for kind in ("linear", "quadratic"):
                assert list(theirs(T, S, kind)) == ours(T, S, kind)
    else:
        for t in (1, 2, 17, 40):
            a = alpha_bar.numpy()
            if name == "ddim_step":
                for s, eta, clip in [(0, 0.0, False), (t // 2, 0.3, False), (t - 1, 1.0, True)]:
                    same(x, t, s, eps, a, eta, z, clip=clip)
            elif name == "ddpm_step":
                for clip in (False, True):
                    same(x, t, eps, a, z, clip=clip)
            else:
                same(*{"q_sample": (x, t, eps, a), "predict_x_0": (x, t, eps, a),
                       "q_posterior": (x, eps, t, a)}[name])
