"""benchmark.py: what is measured is what its name says, and the tables say what was measured."""
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

EXAMPLE = Path(__file__).resolve().parents[1] / "01_example"
sys.path.append(str(EXAMPLE))

import benchmark  # noqa: E402
import contestants  # noqa: E402
import costs  # noqa: E402
from benchmark import Work  # noqa: E402
from contestants import Ours  # noqa: E402
from data import import_torchvision, to_unit  # noqa: E402
from machinery.muon import Muon  # noqa: E402
from unet import Attention, UNet  # noqa: E402

CPU = torch.device("cpu")
BF16 = torch.cpu._is_avx512_bf16_supported()
ABLATIONS = [contestants.ChannelsFirst, contestants.Float32, contestants.Loaded,
             contestants.FusedAdam, contestants.Kernel]


# --- who is measured ------------------------------------------------------------------------------

def computed_in(contestant: Ours) -> set[torch.dtype]:
    """The types of what the first convolution hands on, in training and in sampling."""
    seen = []
    for network in (contestant.network, contestant.ema):
        network.stem.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    contestant.learn()
    Ours.hop(contestant)
    assert len(seen) == 2
    return set(seen)


@pytest.mark.parametrize("kind", [Ours, *ABLATIONS], ids=lambda kind: kind.__name__)
def test_one_thing_is_taken_away_and_no_other(kind):
    """Precision, layout, optimiser, data and attention are train.py's but for the one named."""
    contestant = kind(3, CPU)
    assert computed_in(contestant) == {
        torch.bfloat16 if BF16 and kind is not contestants.Float32 else torch.float32}
    for network in (contestant.network, contestant.ema):
        weight = network.middle.conv_1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == (
            kind is not contestants.ChannelsFirst)
        assert {type(m) for m in network.modules() if isinstance(m, Attention)} == {
            contestants.KernelAttention if kind is contestants.Kernel else Attention}
    assert isinstance(contestant.optimizer, Muon) == (kind is not contestants.FusedAdam)
    assert (contestant.hop is None) == (kind in (contestants.Loaded, contestants.FusedAdam))


def test_compiled_asks_for_both_networks():
    """Training's network and sampling's are compiled, with CUDA graphs where there is a GPU."""
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "compile", lambda self, mode: asked.append((self, mode)))
        compiled = contestants.Compiled(2, CPU)
    assert asked == [(compiled.network, "reduce-overhead"), (compiled.ema, "reduce-overhead")]


def test_the_other_attention_computes_the_same():
    """With weights in general position the library's attention is ours, at two heads or one."""
    for channels in (128, 24):
        torch.manual_seed(3)
        module, x = Attention(channels), torch.randn(2, channels, 7, 5)
        nn.init.normal_(module.out.weight, std=0.3)
        expected = module(x)
        assert not torch.allclose(expected, x, atol=0.1)
        module.__class__ = contestants.KernelAttention
        torch.testing.assert_close(module(x), expected)


def test_the_loader_hands_out_the_data_set():
    """One pass of the DataLoader is every image once, in [-1, 1], in batches of the size."""
    contestant = contestants.Loaded(4, CPU)
    batches = [next(contestant.batches) for _ in range(10)]
    assert {batch.shape for batch in batches} == {(4, 1, 28, 28)}
    seen, images = torch.cat(batches), to_unit(contestant.images)
    assert not torch.equal(seen, images)                        # shuffled
    assert sorted(seen.sum((1, 2, 3)).tolist()) == sorted(images.sum((1, 2, 3)).tolist())


def test_a_hop_is_one_evaluation_and_fifty_are_a_chain():
    """hop() asks the averaged network once, at the times of DDIM's chain, over and over."""
    contestant, times = Ours(2, CPU), []
    contestant.ema.register_forward_pre_hook(lambda module, args: times.append(args[1][0]))
    for _ in range(52):
        contestant.hop()
    assert [int(t) for t in times[:3] + times[49:]] == [1000, 980, 960, 20, 1000, 980]


@pytest.mark.parametrize("name", ["denoising-diffusion-pytorch", "diffusers"])
def test_peers_are_plain_or_optimised(name):
    """A peer learns in float32 as it comes, and in bfloat16 and channels_last when optimised."""
    found = contestants.contestants()
    if name not in found:
        pytest.skip(f"{name} is not installed")
    for optimised, key in enumerate((name, f"{name}, optimised")):
        peer, seen = found[key](2, CPU), []
        convolutions = [m for m in peer.network.modules() if isinstance(m, nn.Conv2d)]
        big = next(m for m in convolutions if m.kernel_size == (3, 3) and m.in_channels > 1)
        big.register_forward_hook(lambda module, args, output, seen=seen: seen.append(output.dtype))
        before = big.weight.detach().clone()
        peer.learn()
        peer.hop()
        assert set(seen) == {torch.bfloat16 if optimised and BF16 else torch.float32}
        assert not torch.equal(big.weight, before)
        assert big.weight.is_contiguous(memory_format=torch.channels_last) == optimised
        assert bool(peer.optimizer.param_groups[0]["fused"]) == optimised


# --- measuring ------------------------------------------------------------------------------------

def test_works_take_turns_after_a_warm_up():
    """All run in two turns of warm-up and each turn after, growth in the first and one of three."""
    ran = []
    works = [Work(kind, kind, lambda kind=kind: ran.append(kind), 1)
             for kind in ("training", "growth", "sampling")]
    benchmark.take_turns(works, 4, CPU)
    often = ["training", "sampling"]
    all_three = ["training", "growth", "sampling"]
    assert ran == [*all_three, *often, *all_three, *often, *often, *all_three]
    assert [len(work.seconds) for work in works] == [4, 2, 4]
    assert all(spent > 0 for work in works for spent in work.seconds)


def fill(batch, device):
    """Work that holds so many MiB while it runs, and no more twice than once."""
    return lambda: torch.ones(batch, 2**18).sum()


def die(batch, device):
    os._exit(9)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_peaks_are_those_of_a_process_of_its_own():
    """A tensor of 300 MiB shows as 300 MiB, though this process has held more before."""
    torch.ones(600, 2**18).sum()
    assert 290 < benchmark.peaks({"fill": fill}, 300, CPU)["fill"] < 360


def test_too_little_memory_ends_in_one_line():
    """A process that the system kills is named with what to do."""
    with pytest.raises(OSError, match="die needs more memory than there is: take a --batch-size"):
        benchmark.peaks({"die": die}, 7, CPU)


def test_flops_are_those_of_the_layers():
    """The counter agrees with a count by hand of the convolutions and products of our U-Net.

    Forward once; backward twice as much, but for the stem, whose input needs no gradient.
    """
    macs = 0

    def count(module, args, output):
        nonlocal macs
        taps = module.weight[0].numel()                      # inputs of one output number
        macs += taps * output[0].numel() * (2 if module is network.stem else 3)
    network = UNet(64)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    network(torch.randn(1, 1, 28, 28), torch.ones(1))
    attention = 3 * 2 * 2 * 49 * 49 * 128                    # two of them, of two products each
    first_linear = network.time[0].weight.numel()            # its input needs no gradient either
    assert benchmark.flops(Ours, CPU) == 2 * (macs + attention - first_linear)


# --- telling --------------------------------------------------------------------------------------

def test_tables_are_the_arithmetic_of_the_seconds():
    """Rates are amounts over seconds; the ratio, FLOP/s and share of the peak follow."""
    works = [Work("training", "ours", None, 128, [0.5, 0.25, 1.0]),
             Work("training", "peer, optimised", None, 128, [4.0, 8.0, 2.0]),
             Work("sampling", "ours", None, 100, [0.2]),
             Work("growth", "g", None, 40, [0.08]),
             Work("product", "bfloat16", None, 8.0, [0.01]),
             Work("product", "float32", None, 8.0, [0.02])]
    memory = {"ours": 7.0, "peer, optimised": None, "g": 3.0}
    ours, peer, sampling, growth = [row for table in list(benchmark.report(
        works, memory, {"ours": 5e8, "peer": 1e9}).values())[:3] for row in table]
    assert (ours["median"], ours["lowest"], ours["highest"], ours["ours is"]) == (256, 128, 512, 1)
    assert (peer["median"], peer["ours is"], peer["peak MiB"]) == (32, 8, None)
    assert ours["GFLOP/s"] == pytest.approx(128) and ours["of peak"] == pytest.approx(0.16)
    assert peer["GFLOP/s"] == pytest.approx(32) and peer["of peak"] == pytest.approx(0.04)
    assert sampling["median"] == pytest.approx(500) and sampling["images/s"] == pytest.approx(10)
    assert (growth["median"], growth["ms each"], growth["peak MiB"]) == (0.08, 2, 3)


def test_the_table_is_markdown():
    """The columns are as wide as their widest cell; numbers have three digits, none is a dash."""
    rows = [{"name": "a", "median": 1234.56, "ours is": 1.0},
            {"name": "bcd", "median": 0.04567, "ours is": None},
            {"name": "e", "median": 467.2, "ours is": 99.94}]
    assert benchmark.markdown("t, s", rows).splitlines() == [
        "| t, s | median | ours is |",
        "| ---- | -----: | ------: |",
        "| a    |  1,235 |    1.00 |",
        "| bcd  | 0.0457 |       - |",
        "| e    |    467 |    99.9 |"]


@pytest.fixture
def small(monkeypatch):
    """The benchmark with two contestants, growth of almost nothing, and no process for memory."""
    found = {"ours": Ours, "ours, DataLoader": contestants.Loaded}
    monkeypatch.setattr(benchmark, "contestants", lambda: found)
    monkeypatch.setattr(contestants, "SAMPLING", [(2, 1), (2, 3)])
    monkeypatch.setattr(contestants, "TRAINING", [1])
    monkeypatch.setattr(benchmark, "PRODUCT", {"cpu": 8})
    monkeypatch.setattr(benchmark, "peaks", lambda makes, *_: dict.fromkeys(makes, 1.0))


def test_main_prints_writes_and_draws(small, tmp_path, capsys):
    """Four tables, the same as JSON, and a picture."""
    benchmark.main(["--rounds", "1", "--batch-size", "2", "--device", "cpu",
                    "--json", str(tmp_path / "b.json"), "--figure", str(tmp_path / "b.png")])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    tables = {key: rows for key, rows in found.items() if isinstance(rows, list)}
    assert {key: [row["name"] for row in rows] for key, rows in tables.items()} == {
        "training, images/s": ["ours", "ours, DataLoader"],
        "sampling, network evaluations/s": ["ours"],
        "growth, seconds": ["sampling, n = 2, S = 1", "sampling, n = 2, S = 3",
                            "training, 2 images"],
        "torch.mm, GFLOP/s": ["8 x 8, bfloat16", "8 x 8, float32"]}
    for key, rows in tables.items():
        assert benchmark.markdown(key, rows) in printed
    assert found["batch_size"] == 2 and found["device"].startswith("cpu")
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.size[0] == 1200


def test_only_measures_what_is_named(small, tmp_path):
    """--only leaves other contestants and the growth out; a picture needs no table but one."""
    benchmark.main(["--rounds", "1", "--batch-size", "2", "--device", "cpu", "--only", "Load",
                    "--json", str(tmp_path / "b.json"), "--figure", str(tmp_path / "b.png")])
    found = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in found["training, images/s"]] == ["ours, DataLoader"]
    assert found["training, images/s"][0]["ours is"] is None
    assert found["sampling, network evaluations/s"] == found["growth, seconds"] == []
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.size[0] == 600


@pytest.mark.parametrize(("argv", "words"), [
    (["--only", "nobody"], "--only nobody: the names are ours; ours, DataLoader"),
    (["--figure", "b.jpg"], "--figure ends in .png, not b.jpg"),
    (["--rounds", "0"], "0 is not a count of at least 1")])
def test_bad_usage_ends_in_one_line(small, argv, words, capsys):
    """Exit status 2, one line on stderr."""
    with pytest.raises(SystemExit) as end:
        benchmark.main(argv)
    shown = capsys.readouterr().err
    assert end.value.code == 2 and words in shown and shown.count("\n") == 1


# --- costs.py -------------------------------------------------------------------------------------

def test_costs_are_what_the_readme_shows(capsys):
    """Both tables of the page on speed are what costs.py prints."""
    import_torchvision()                                        # diffusers imports it
    pytest.importorskip("diffusers")
    costs.main([])
    printed = capsys.readouterr().out.strip()
    readme = (EXAMPLE / "speed.md").read_text(encoding="utf-8")
    assert all(table in readme for table in printed.split("\n\n"))


def test_activations_are_what_waits_for_the_backward_pass():
    """A layer keeps its input and SiLU its own, each once; weights do not count."""
    network = nn.Sequential(nn.Linear(10, 6), nn.SiLU(), nn.Linear(6, 5))
    with torch.device("meta"):
        found = costs.costs(Timed(network.to("meta")), 10)
    assert found == (66 + 35, 2 * 90, 2 * (90 + 90 + 30), 4 * (10 + 6 + 6))


class Timed(nn.Module):
    """A network that is handed a time as well."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.network(x)
