"""The notebooks as files: saved by Restart & Run All, small, linked, every equation checked, and of
one mind with the code of 01_example. (That their outputs hold is nbval's part.)"""
import ast
import base64
import io
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

import ddim
import ddpm

ROOT = Path(__file__).resolve().parents[2]
BACKGROUND = sorted((ROOT / "00_background").glob("*.ipynb"))
NOTEBOOKS = BACKGROUND + sorted((ROOT / "01_example").rglob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


STYLE = '''plt.rcParams.update({"figure.figsize": (5, 3), "figure.dpi": 220, "font.size": 11,
                     "axes.spines.top": False, "axes.spines.right": False,
                     "legend.frameon": False, "figure.constrained_layout.use": True})
DATA, NOISE, FORWARD, REVERSE = "#0072B2", "#6E6E6E", "#E69F00", "#009E73"
EXACT, LEARNED, OTHER = "#000000", "#D55E00", "#CC79A7"


def show(fig, alt):
    """Show a figure as a PNG of 128 colours, with a text for those who cannot see it."""
    png, small = io.BytesIO(), io.BytesIO()
    fig.savefig(png)
    plt.close(fig)
    Image.open(png).convert("RGB").quantize(128).save(small, "png", optimize=True)
    meta = {"image/png": {"alt": alt, "width": round(110 * fig.get_figwidth())}}
    display({"image/png": small.getvalue(), "text/plain": alt}, raw=True, metadata=meta)'''


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
    """Under 700 kB, with no metadata but the kernel's."""
    assert path.stat().st_size < 700_000
    assert set(nbformat.read(path, as_version=4).metadata) <= {"kernelspec", "language_info"}


@each_notebook
def test_links_lead_somewhere(path):
    """Every relative link and image of the text is a file of the repository."""
    text = "\n".join(c.source for c in cells(path, "markdown"))
    for target in re.findall(r"\]\((?!\w+:)([^)#\s]+)", text):
        assert (path.parent / unquote(target)).exists(), target


@each_notebook
def test_opens_like_the_others(path):
    """The title and the question come first; what you need and see, and the time, soon after."""
    opening = "\n\n".join(c.source for c in cells(path, "markdown")[:2])
    for pattern in (r"# \d\d [A-Z]", r"\*\*The question\.\*\* .*\?", r"\*\*What you will see\.\*\*",
                    r"\*\*What you need\.\*\*", r"\*\*Time\.\*\* "):
        assert re.search(rf"^{pattern}", opening, re.M | re.S), pattern


@pytest.mark.parametrize("path", BACKGROUND, ids=lambda p: p.stem)
def test_a_picture_on_the_first_screen(path):
    """Title, question, reason, then the picture: within 150 words, by a cell of 12 lines."""
    first, style, picture, *_ = nbformat.read(path, as_version=4).cells
    assert first.cell_type == "markdown" and "**Why you need it.**" in first.source
    assert len(re.findall(r"[A-Za-z][A-Za-z'-]*", first.source)) <= 150
    assert STYLE in style.source, "the style is the same in all notebooks"
    assert len([line for line in picture.source.splitlines() if line.strip()]) <= 12
    assert any("image/png" in output.get("data", {}) for output in picture.outputs)


@pytest.mark.parametrize("path", BACKGROUND, ids=lambda p: p.stem)
def test_figures_are_described(path):
    """Each picture has an alternative text of 10 to 50 words, no two alike, and few colours."""
    texts = []
    for cell in cells(path, "code"):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                texts.append(output.metadata["image/png"]["alt"])
                png = base64.b64decode(output.data["image/png"])
                assert len(png) < 150_000
                assert Image.open(io.BytesIO(png)).mode in ("P", "L"), texts[-1]
    assert len(texts) == len(set(texts)) >= 5
    assert all(8 <= len(text.split()) <= 60 for text in texts), texts


def reading_minutes(path: Path) -> tuple[int, int]:
    """Minutes for the main line and for the second reading: 200 words of prose or 20 formulas in a
    line a minute, 45 s for a displayed formula, 4 s for a line of code."""
    part, minutes = "main line", {"main line": 0.0, "second reading": 0.0, "rest": 0.0}
    for cell in nbformat.read(path, as_version=4).cells:
        text = cell.source
        if cell.cell_type == "code":
            lines = [line.strip() for line in text.splitlines()]
            minutes[part] += sum(bool(n) and not n.startswith("#") for n in lines) * 4 / 60
            continue
        for title in re.findall(r"^#{1,3} +(.+)$", text, re.M):
            name = re.sub(r"^[\d. ]+", "", title).strip().lower()
            if name.startswith("second reading"):
                part = "second reading"
            elif name.startswith(("exercises", "references", "solutions", "further reading")):
                part = "rest"
        text = re.sub(r"```.*?```", " ", text, flags=re.S)
        text, displayed = re.subn(r"\$\$.*?\$\$", " ", text, flags=re.S)
        text, inline = re.subn(r"\$[^$\n]+(?:\n[^$\n]+)?\$", " x ", text)
        words = len(re.findall(r"[A-Za-z][A-Za-z'-]*", re.sub(r"\]\([^)]*\)", "]", text)))
        minutes[part] += words / 200 + 0.75 * displayed + 0.05 * inline
    return round(minutes["main line"]), round(minutes["second reading"])


@each_notebook
def test_the_stated_main_line_is_what_a_reader_takes(path):
    """The first number of minutes that the opening names is that of the main line, within one."""
    opening = "\n\n".join(c.source for c in cells(path, "markdown")[:2])
    told = int(re.search(r"\*\*Time\.\*\* \D*(\d+) minutes", opening)[1])
    assert abs(told - reading_minutes(path)[0]) <= 1


MOST = {"01": 60, "02": 45, "03": 60, "04": 45, "05": 60, "06": 45, "07": 60, "10": 50, "11": 55}


@pytest.mark.parametrize("path", BACKGROUND, ids=lambda p: p.stem)
def test_the_stated_time_is_what_a_reader_takes(path):
    """The main line and the second reading take the minutes that the notebook says, within one."""
    opening = cells(path, "markdown")[1].source
    told = re.search(r"\*\*Time\.\*\* Main line (\d+) minutes, second reading (\d+) minutes",
                     opening)
    counted = reading_minutes(path)
    assert all(abs(int(a) - b) <= 1 for a, b in zip(told.groups(), counted, strict=True)), counted
    assert counted[0] <= MOST[path.stem[:2]]


@pytest.mark.parametrize("path", BACKGROUND, ids=lambda p: p.stem)
def test_a_main_line_needs_no_second_reading(path):
    """No equation that a main line cites, of its own or of another notebook, is beyond main lines.
    """
    text, second = main_and_second(path)
    text = re.sub(r"\$[^$]*\$", "", re.sub(r"\]\([^)]*\)", "]", text))     # no formulas, no links
    others = r"otebook (\d\d)\b[^.;]*"
    for cited in re.finditer(others, text):
        path_there = [p for p in BACKGROUND if p.stem.startswith(cited[1])]
        beyond = set(re.findall(r"\\tag\{(\w+)\}", main_and_second(*path_there)[1])
                     ) if path_there else set()
        assert not set(re.findall(r"\((\d+[a-z]?)\)", cited[0])) & beyond, cited[0]
    own = set(re.findall(r"(?<!\w)\((\d+[a-z]?)\)", re.sub(others, "", text)))
    assert not own & set(re.findall(r"\\tag\{(\w+)\}", second))


def main_and_second(path: Path) -> tuple[str, str]:
    """The text up to the exercises, and that of the second reading."""
    text = "\n".join(c.source for c in cells(path, "markdown"))
    second = text.partition("## Second reading")[2].split("## Ref")[0]
    return text.split("\n## Exercises")[0], second


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
    tags = re.findall(r"\\tag\{(\w+)\}", text)
    checked = {k for c in cells(path, "code") if "assert" in c.source
               for line in re.findall(r"^\s*# checks (.*)", c.source, re.M)
               for k in re.findall(r"\((\w+)\)", line)}
    assert len(tags) == len(set(tags)) and set(tags) == checked
    least = 12 if path in BACKGROUND else 3
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
DEFINED = [(path, name) for path in BACKGROUND[4:7] for name in sorted(SHARED)
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

    def of_torch(value):
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    def same(*args, **options):
        there = theirs(*args, **options)
        here = ours(*map(of_torch, args), **{k: of_torch(v) for k, v in options.items()})
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
                    same(x, t, s, eps, alpha_bar=a, eta=eta, z=z, clip=clip)
            elif name == "ddpm_step":
                for clip in (False, True):
                    same(x, t, eps, alpha_bar=a, z=z, clip=clip)
            else:
                same(*{"q_sample": (x, t, eps, a), "predict_x_0": (x, t, eps, a),
                       "q_posterior": (x, eps, t, a)}[name])
