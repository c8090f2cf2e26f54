"""evaluation/solver_table.py: both solvers by their calls, and the distance to converged images."""
import json
import sys

import pytest
import torch
from conftest import EXAMPLE

sys.path.append(str(EXAMPLE / "evaluation"))

import ddim  # noqa: E402
import dpm_solver  # noqa: E402
from machinery.cli import Parser  # noqa: E402
from model import SHIPPED, Config, Model  # noqa: E402
from results import Results  # noqa: E402


@pytest.fixture
def table(script, monkeypatch):
    """The script, in small."""
    table = script("evaluation", "solver_table")
    monkeypatch.setattr(table, "STEPS", (2, 5))
    monkeypatch.setattr(table, "CONVERGED", 20)
    return table


@pytest.fixture
def model():
    """A network that has learned nothing, with an output of its own at each pixel."""
    torch.manual_seed(4)
    network = Config(width=8).network()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return Model(network.requires_grad_(False).eval(), Config(width=8))


class Judge:
    """Counts, and measures next to nothing."""

    def __init__(self):
        self.seen = []

    def measure(self, images):
        self.seen.append(images)
        return {"frechet": images.float().mean().item() + 1, "standard_error": 0.25}

    def floor(self, n):
        return {"frechet": 0.5, "standard_deviation": 0.1, "n": n}


def test_off_is_a_root_mean_square_on_the_scale_from_0_to_1(table):
    """Black and white are 1 apart; the mean over two images, with its standard error."""
    black = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    other = black.clone()
    other[0] = 255
    other[1, :, :14] = 51
    got = table.off(other, black)
    a, b = 1.0, (0.2**2 / 2) ** 0.5
    assert got["off"] == pytest.approx((a + b) / 2, rel=1e-5)
    assert got["off_error"] == pytest.approx(abs(a - b) / 2, rel=1e-5)


def test_each_cell_is_its_own_sampler_and_times(table, model, tmp_path, capsys):
    """What is measured are the images of that solver, those times, that seed, clipped."""
    judge, results = Judge(), Results(tmp_path / "t.json", {"pairs": 2}, Parser("a table"))
    table.fill(results, model, judge, 3, 7, 2)
    expected = {}
    for S in (2, 5):
        even = ddim.subsequence(1000, S)
        in_lambda = dpm_solver.even_in_lambda(S, model.alpha_bar)
        for name, sampler, tau in (
                ("DDIM, even times", ddim.sample, even),
                ("DDIM, even in lambda", ddim.sample, in_lambda),
                ("DPM-Solver++(2M), even times", dpm_solver.sample, even),
                ("DPM-Solver++(2M), even in lambda", dpm_solver.sample, in_lambda)):
            expected[f"S {S}, {name}"] = model.draw(
                lambda *args, **named: sampler(*args, tau=tau, clip=True, **named),  # noqa: B023
                n=3, seed=7, steps=S)[0]
    assert list(results.cells) == ["real against real", *expected]
    assert all(torch.equal(a, b) for a, b in zip(judge.seen, expected.values(), strict=True))
    converged = table.draw(model, "DPM-Solver++(2M), even times", 20, 2, 7)
    for name, images in expected.items():
        assert results.cells[name]["off"] == table.off(images[:2], converged)["off"]
    table.report(results)
    written = (tmp_path / "t.md").read_text()
    assert written.count(" +- ") == 2 * 8 + 2 and "n = 3" in written and "n = 2" in written
    assert json.loads((tmp_path / "t.json").read_text())["cells"] == results.cells
    assert (tmp_path / "t.png").stat().st_size > 5000
    table.fill(results, None, judge, 3, 7, 2)           # all there: nothing is drawn again


@pytest.mark.parametrize("flags", ["--n 119", "--n 200 --pairs 201", "--pairs 1", "--n 60001"])
def test_bad_usage_ends_in_one_line(flags, call, tmp_path):
    """Exit 2, before any work."""
    call("evaluation", "solver_table", *flags.split(), "--out", tmp_path / "t.json").refuses(2)
    assert not list(tmp_path.iterdir())


def test_a_model_of_other_images_is_refused(call, weights, tmp_path):
    """The judge knows MNIST only, and 200 calls need 200 times."""
    call("evaluation", "solver_table", "--weights", weights, "--out", tmp_path / "t.json"
         ).refuses(2, "mnist")


def test_ten_calls_of_the_solver_beat_twenty_of_ddim(script):
    """What it promises: with the shipped network it is nearer to the converged images."""
    table = script("evaluation", "solver_table")
    model = Model.load(SHIPPED, torch.device("cpu"))
    converged = table.draw(model, "DPM-Solver++(2M), even times", 100, 12, 1)
    ours, theirs = (table.off(table.draw(model, solver, S, 12, 1), converged)["off"]
                    for solver, S in (("DPM-Solver++(2M), even in lambda", 10),
                                      ("DDIM, even times", 20)))
    assert ours < theirs
