"""The READMEs agree with the files they speak of: titles, minutes, addresses, speeds, losses."""
import csv
import json
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "01_example"
sys.path.append(str(EXAMPLE))

import benchmark  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
PARTS = dict(sorted([*((path.stem[:2], path) for path in (ROOT / "00_background").glob("*.ipynb")),
                     ("08", EXAMPLE / "ddpm/ddpm.ipynb"), ("09", EXAMPLE / "ddim/ddim.ipynb"),
                     ("12", EXAMPLE / "guidance/guidance.ipynb")]))
MAP = (ROOT / "00_background/README.md").read_text(encoding="utf-8")
BENCHMARK = json.loads((EXAMPLE / "benchmark.json").read_text(encoding="utf-8"))

OURS = "phykn/diffusion_models_tutorial"
NBVIEWER = f"https://nbviewer.org/github/{OURS}/blob/main/"
GITHUB = f"https://github.com/{OURS}/tree/main/"
COLAB = f"https://colab.research.google.com/github/{OURS}/blob/main/"
BINDER = f"https://mybinder.org/v2/gh/{OURS}/main?labpath="


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, row by row, without its head."""
    lines = text.split(f"## {heading}\n", 1)[1].split("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in lines if line.startswith("|")]
    return rows[2:]


def markdown(path: Path) -> str:
    """All Markdown of a notebook."""
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


def minutes(path: Path) -> int:
    """How long a notebook's main line takes to read, as its opening says."""
    return int(re.search(r"\*\*Time\.\*\* \D*(\d+) minutes", markdown(path))[1])


def test_the_contents_are_the_parts():
    """Each row has its notebook's number, title, minutes and count of equations, and a date; four
    columns."""
    rows = table(README, "Contents")
    assert "| | Title | LINK | Update |" in README and {len(row) for row in rows} == {4}
    assert [row[0] for row in rows] == list(PARTS) == [f"{k:02}" for k in range(1, 13)]
    for number, title, _, update in rows:
        text = markdown(PARTS[number])
        name, time, count = re.match(
            r"\[(.*?)\]\(.*?\)<br><sub>(\d+) minutes, (\d+) equations executed; ", title).groups()
        assert text.startswith(f"# {number} {name}\n")
        assert date.fromisoformat(f"20{update.replace('.', '-')}")
        assert int(time) == minutes(PARTS[number])
        assert int(count) == len(re.findall(r"\\tag\{", text))


def test_the_number_of_equations_is_counted():
    """The README's first lines tell how many equations are executed in all."""
    told = int(re.search(r"its (\d+) numbered equations", README)[1])
    assert told == sum(len(re.findall(r"\\tag\{", markdown(path))) for path in PARTS.values())


def test_the_contents_lead_to_the_right_files():
    """nbviewer shows the background, GitHub the examples; their titles open the notebooks."""
    for number, title, link, _ in table(README, "Contents"):
        path = PARTS[number].relative_to(ROOT).as_posix()
        shown = NBVIEWER + path if path.startswith("00") else GITHUB + path.rsplit("/", 1)[0]
        assert link.endswith(f"]({shown})")
        assert f"]({NBVIEWER + path if path.startswith('00') else path})" in title


@pytest.mark.parametrize("path", sorted(ROOT.glob("**/README.md")),
                         ids=lambda p: str(p.relative_to(ROOT)))
def test_addresses_of_this_repository_name_files_that_exist(path):
    """Whatever a README opens on nbviewer, GitHub, Colab or Binder is there."""
    text = path.read_text(encoding="utf-8")
    for start in (NBVIEWER, GITHUB, COLAB, BINDER):
        for target in re.findall(re.escape(start) + r"([^)\s]+)", text):
            assert (ROOT / unquote(target)).exists(), target


@pytest.mark.parametrize("number", ["08", "09", "12"])
def test_the_examples_say_how_they_run_in_colab(number):
    """The first cell has the two lines that fetch the repository and go to its folder."""
    first = nbformat.read(PARTS[number], as_version=4).cells[0].source
    assert f"\n!git clone --depth 1 https://github.com/{OURS}\n" in first
    folder = PARTS[number].parent.relative_to(ROOT).as_posix()
    assert f'os.chdir("{OURS.split("/")[1]}/{folder}"); sys.path.append("")\n' in first


def test_the_ways_through_add_up():
    """The minutes of an evening and of a weekend are those of the parts named."""
    evening, weekend = re.findall(r"^- \*\*An? \w+\*\* \((\d+) minutes", README, re.M)
    assert int(evening) == sum(minutes(PARTS[number]) for number in ("05", "08", "09"))
    assert int(weekend) == sum(map(minutes, PARTS.values()))


def test_the_page_on_speed_shows_the_whole_benchmark():
    """Each table of benchmark.json, as benchmark.py prints it, and that of minutes.py."""
    page = (EXAMPLE / "speed.md").read_text(encoding="utf-8")
    tables = {title: rows for title, rows in BENCHMARK.items() if isinstance(rows, list)}
    assert len(tables) == 4
    for title, rows in tables.items():
        assert benchmark.markdown(title, rows) in page, title
    minutes = (EXAMPLE / "evaluation/results/minutes.md").read_text(encoding="utf-8")
    assert minutes.startswith("| network | minutes ") and minutes in page


def test_the_card_agrees_with_the_log():
    """The shipped model's card tells the epochs and the last loss that its log holds."""
    with open(EXAMPLE / "weights/log.csv", encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    card = (EXAMPLE / "weights/README.md").read_text(encoding="utf-8")
    assert f"{len(log)} epochs" in card
    told = re.search(r"loss of the last epoch \| (0\.\d+)", card)[1]
    assert float(told) == round(float(log[-1]["loss"]), len(told) - 2)


def test_the_map_of_equations_names_what_there_is():
    """Each equation of the map is numbered so in its notebook, each function is in the code."""
    rows = table(MAP, "Where each equation is used again")
    assert len(rows) >= 12
    tags = {number: re.findall(r"\\tag\{(\w+)\}", markdown(path)) for number, path in PARTS.items()}
    for where, _, used, _ in rows:
        for number, k in re.findall(r"\b(\d\d) \((\w+)\)", f"{where}, {used}"):
            assert k in tags[number], (number, k)


@pytest.mark.parametrize("heading", ["Symbols", "Where each equation is used again"])
def test_names_in_the_tables_are_in_the_code(heading):
    """Each name in the last column is a word of the files that hold the algorithms."""
    code = "".join((EXAMPLE / name).read_text(encoding="utf-8")
                   for name in ("ddpm/ddpm.py", "ddpm/objectives.py", "ddim/ddim.py",
                                "guidance/guidance.py"))
    names = re.findall(r"`(\w+)", " ".join(row[-1] for row in table(MAP, heading)))
    assert names
    for name in names:
        assert re.search(rf"\b{name}\b", code), name


def test_every_reference_is_cited_where_it_is_used():
    """Each address in the README's list of references stands in a notebook, too."""
    listed = README.split("## References\n", 1)[1].split("\n## ")[0]
    texts = "".join(map(markdown, PARTS.values()))
    addresses = re.findall(r"\]\((https?://[^)]+)\)", listed)
    assert len(addresses) >= 20
    for address in addresses:
        assert f"({address})" in texts, address


@pytest.mark.parametrize("name", ["ddim", "guidance"])
def test_the_python_of_the_pages_runs(name):
    """What a page shows as Python runs as it stands, from the page's folder."""
    page = EXAMPLE / name / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    assert blocks
    for block in blocks:
        subprocess.run([sys.executable, "-c", block], cwd=page.parent, check=True)
