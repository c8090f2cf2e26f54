"""The repository as a house: what stands where, who imports whom, and READMEs that are true."""
import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "01_example"
TEXTS = sorted(p for p in [*ROOT.glob("*.md"), *EXAMPLE.rglob("*.md")])
SCRIPTS = [EXAMPLE / name for name in
           ("ddpm/train.py", "ddpm/sample.py", "ddim/train.py", "ddim/sample.py",
            "guidance/sample.py", "benchmark.py")]
SCRIPTS += [p for p in sorted((EXAMPLE / "evaluation").glob("*.py"))
            if "__main__" in p.read_text(encoding="utf-8")]


def tracked() -> list[Path]:
    """The files that git tracks, from the root."""
    listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True)
    return [Path(name) for name in listed.splitlines()]


def imports(path: Path) -> set[str]:
    """The top-level names of the modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_the_top_level_is_what_it_is_meant_to_be():
    """Six things and dot files, no data set, and nothing large but weights."""
    assert {p.parts[0] for p in tracked() if not p.parts[0].startswith(".")} == {
        "00_background", "01_example", "tests", "requirements.txt", "README.md", "LICENSE"}
    for path in tracked():
        limit = 8_000_000 if path.suffix == ".safetensors" else 1_000_000
        assert (ROOT / path).stat().st_size < limit, path
        assert "ubyte" not in path.name


@pytest.mark.parametrize("name", ["ddpm/ddpm.py", "ddpm/unet.py", "ddim/ddim.py",
                                  "ddim/dpm_solver.py"])
def test_the_algorithm_imports_torch_only(name):
    """The files that are the lesson need torch and Python's own library, and name no device."""
    path = EXAMPLE / name
    ours = {"ddpm", "ddim"} - {path.stem} if "ddim/" in name else set()     # only what is new
    assert imports(path) - set(sys.stdlib_module_names) == {"torch"} | ours
    assert not re.search(r"cuda|\"cpu\"|mps", path.read_text(encoding="utf-8"))


def test_module_names_are_unique_but_for_the_scripts():
    """All folders can be on Python's path together: only train.py and sample.py have twins."""
    names = [p.name for p in EXAMPLE.glob("*/*.py")]
    assert {n for n in names if names.count(n) > 1} == {"train.py", "sample.py"}


LESSON = {p.stem: p for p in (EXAMPLE / "ddpm").glob("*.py")}
MACHINERY = {p.stem: p for p in (EXAMPLE / "ddpm/machinery").glob("[a-z]*.py")}


def test_the_arrows_between_the_folders():
    """guidance/ reaches into ddim/ and ddpm/, ddim/ into ddpm/, and none of them the other way."""
    modules = {folder: {p.stem for p in (EXAMPLE / folder).glob("*.py")} - {"train", "sample"}
               for folder in ("ddim", "guidance", "evaluation")}
    for folder, forbidden in (("ddpm", ("ddim", "guidance", "evaluation")),
                              ("ddim", ("guidance", "evaluation")), ("guidance", ("evaluation",))):
        for path in (EXAMPLE / folder).rglob("*.py"):
            for other in forbidden:
                assert not imports(path) & modules[other], (path, other)


def test_machinery_imports_nothing_of_the_lesson():
    """Samplers, models and images come to it as arguments."""
    for path in MACHINERY.values():
        assert not imports(path) & set(LESSON), path


def test_no_circle_of_modules():
    """Modules of ddpm/ can be put in an order in which each imports earlier ones only."""
    left = {name: imports(path) & set(LESSON) for name, path in LESSON.items()}
    while left:
        free = {name for name, needs in left.items() if not needs & set(left)}
        assert free, left
        left = {name: needs for name, needs in left.items() if name not in free}


def test_files_are_short():
    """What a person reads in one sitting: few files in front, short ones, no long function."""
    assert len(LESSON) <= 9, sorted(LESSON)
    for name, most in (("ddpm/ddpm.py", 160), ("ddpm/train.py", 200), ("ddim/ddim.py", 115),
                       ("ddpm/minimal.py", 50)):
        assert len((EXAMPLE / name).read_text(encoding="utf-8").splitlines()) <= most, name
    for path in EXAMPLE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 40, (path, node.name)


def test_requirements_are_those_that_are_imported():
    """Each import from elsewhere has a line in requirements.txt, and each line says for whom."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    packages = {re.split("[<>=]", line)[0] for line in lines}
    assert all(re.search(r"[<>=].*  # \w", line) for line in lines)
    known = {"sklearn": "scikit-learn", "PIL": "pillow"}
    optional = {"diffusers", "denoising_diffusion_pytorch"}
    ours = {p.stem for p in [*EXAMPLE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]}
    ours.add("machinery")
    used = set().union(*map(imports, [*EXAMPLE.rglob("*.py")])) - ours - optional
    used = {known.get(name, name) for name in used - set(sys.stdlib_module_names)}
    assert used <= packages
    assert {"jupyter", "nbval", "pytest"} <= packages


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_the_texts_lead_somewhere(path):
    """Every relative link and image in a README is a file or folder of the repository."""
    targets = re.findall(r"\]\((?!\w+:)([^)#\s]+)", path.read_text(encoding="utf-8"))
    for target in targets:
        assert (path.parent / unquote(target)).exists(), target


def test_the_readme_begins_with_the_command_that_draws_and_ci_runs_its_tests():
    """The README's first code block draws digits, another runs the tests, as .ci/run does."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first, *blocks = re.findall(r"```(?:bash|sh)?\n(.*?)```", readme, re.S)
    assert first.strip() == (
        "pip install -r requirements.txt && python 01_example/ddim/sample.py --eta 1")
    second = next(block for block in blocks if "pytest" in block)
    assert second.strip() == "pip install -r requirements.txt && pytest"
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert "pip install --quiet -r requirements.txt" in ci and ci[-1] == "pytest"
    assert "ruff check ." in ci and "codespell" in ci


@pytest.mark.parametrize("module, words", [("ruff", ["check"]), ("codespell_lib", [])],
                         ids=["ruff", "codespell"])
def test_no_rule_is_broken_and_no_word_misspelt(module, words):
    """The lint rules and the spelling hold in code, READMEs and notebooks (.ci/run has both)."""
    if not find_spec(module):
        pytest.skip(f"{module} is not installed")
    where = ["README.md", "00_background", "01_example", "tests"]
    done = subprocess.run([sys.executable, "-m", module, *words, *where], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    if module == "ruff":
        seen = subprocess.run([sys.executable, "-m", "ruff", "check", "--show-files", *where],
                              cwd=ROOT, capture_output=True, text=True).stdout
        assert all(str(path) in seen for path in ROOT.glob("0*/**/*.ipynb"))


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_of_the_texts_name_files_and_flags_that_exist(path):
    """Each `python 01_example/...` in a README runs a script that is there, with its own flags."""
    text = path.read_text(encoding="utf-8")
    commands = re.findall(r"python (01_example/[\w/]+\.py)([^\n`|&]*)", text)
    assert commands or path.parent.name in ("weights", "results", "machinery")
    for script, rest in commands:
        source = (ROOT / script).read_text(encoding="utf-8")
        if script == "01_example/ddim/train.py":
            source += (EXAMPLE / "ddpm/train.py").read_text(encoding="utf-8")
        elif script.endswith("sample.py"):
            source += (EXAMPLE / "ddpm/machinery/drawing.py").read_text(encoding="utf-8")
        for flag in re.findall(r"(?<!\S)--[\w-]+", rest.split("#")[0]):
            assert f'"{flag}"' in source, (script, flag)


def test_torchrun_understands_the_commands_of_the_texts():
    """It reads flags by their beginnings, even a script's --n, unless -- comes before."""
    from torch.distributed.run import parse_args
    text = "".join(p.read_text(encoding="utf-8") for p in TEXTS).replace("\\\n", "")
    commands = re.findall(r"^torchrun ([^\n#]+)", text, re.M)
    assert len(commands) >= 3
    for command in commands:
        assert (ROOT / parse_args(command.split()).training_script).is_file(), command


@pytest.fixture(scope="module")
def helps() -> dict[Path, tuple[int, str, str]]:
    """The exit status, stdout and stderr of each script's --help; all start at once."""
    started = {path: subprocess.Popen([sys.executable, path, "--help"], text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
               for path in SCRIPTS}
    ended = {path: process.communicate() for path, process in started.items()}
    return {path: (started[path].returncode, *printed) for path, printed in ended.items()}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_help_reads_well(path, helps):
    """--help ends with status 0, shows the command, and leaks no placeholder or switch's False."""
    status, shown, said = helps[path]
    errors = [line for line in said.splitlines()
              if "font cache" not in line]                          # matplotlib's first import
    assert status == 0 and not errors
    assert "python 01_example/" in shown
    assert "==SUPPRESS==" not in shown and "None" not in shown
    assert "default: False" not in shown
