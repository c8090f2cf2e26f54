r"""How fast do we train and sample? Each of our optimisations taken away, and two packages beside.

    pip install denoising-diffusion-pytorch diffusers    # optional: measured where installed
    python 01_example/benchmark.py --json benchmark.json --figure benchmark.png

prints four tables, in about ten minutes on two CPU cores:
- training: train.py's own step on 128 random images of 28 x 28, then with one thing changed at a
  time, then plain steps (forward, backward, Adam) of the packages' networks: the Unet(dim=32,
  dim_mults=(1, 2, 4, 8)) of denoising-diffusion-pytorch at 32 x 32, which most tutorials train,
  and diffusers' UNet2DModel as in its MNIST course; each as it comes, in float32, and optimised:
  with channels_last, bfloat16 and the fused Adam, which ours has. FLOPs are those of matrix
  products and convolutions; the peak is the faster of a large bfloat16 and float32 torch.mm.
- sampling: one hop of DDIM on as many images, and from it the images a second of 50 hops;
- growth: time and memory of ddim/sample.py's work and train.py's as hops and images double; each
  network evaluation, or image trained on, takes as long as before, and memory stays.
All take turns in one process, and so share its memory allocator and the machine's slow minutes;
peak memory is of a process of its own for each, above what Python and PyTorch take, and includes
what torch.compile needs to compile.
"""
import argparse
import importlib.util
import io
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

# The code that is measured.
sys.path.insert(0, str(Path(__file__).resolve().parent / "ddim"))
sys.path.insert(0, str(Path(__file__).resolve().parent / "ddpm"))

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from contestants import S, contestants, growing
from machinery.cli import Parser, count_flag, run
from machinery.devices import device_flag
from machinery.files import prepare, write

WARM_UP = 2              # turns that are not counted
STEPS = {"cuda": 20}     # between two looks at the clock: on a GPU a look waits for all that runs
GROWTH_EVERY = 3         # turns
PRODUCT = {"cpu": 2048}  # rows of a matrix that is large for the device, or 8192


@dataclass
class Work:
    """What is timed: its kind and name, how to do it, how much it is, the seconds it took."""

    kind: str
    name: str
    do: Callable[[], object]
    amount: float
    seconds: list[float] = field(default_factory=list)

    def spread(self, values: list[float]) -> dict[str, object]:
        """Its name, and the median, the lowest and the highest of some values."""
        return {"name": self.name, "median": statistics.median(values), "lowest": min(values),
                "highest": max(values)}

    def rates(self) -> dict[str, object]:
        """The spread of how much is done in a second."""
        return self.spread([self.amount / t for t in self.seconds])


# --- measuring ------------------------------------------------------------------------------------

def seconds(work: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """How long the work takes, the mean of some times, once it is done on the device too."""
    began = time.perf_counter()
    for _ in range(times):
        work()
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return (time.perf_counter() - began) / times


def take_turns(works: list[Work], turns: int, device: torch.device) -> None:
    """Times all works, in turns; those that show growth not in each turn."""
    for turn in tqdm(range(-WARM_UP, turns), unit="turn", leave=False, desc="speed", disable=None):
        for work in works:
            growth = work.kind == "growth"
            if growth and turn % GROWTH_EVERY and turn > -WARM_UP:
                continue
            spent = seconds(work.do, device, 1 if growth else STEPS.get(device.type, 1))
            if turn >= 0:
                work.seconds.append(spent)


def high_water(device: torch.device) -> float | None:
    """The most memory that this process has had, in MiB, on the GPU or the host; None: unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if device.type == "cpu" and status.exists():         # Linux, where ru_maxrss is inherited
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    if device.type == "cpu" and importlib.util.find_spec("resource"):
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20        # macOS: bytes
    return None


def peak(make: Callable, batch: int, device: torch.device) -> float | None:
    """MiB that work made by `make` adds at its peak; to be called in a process of its own."""
    before = high_water(device)
    work = make(batch, device)
    for _ in range(2):
        getattr(work, "learn", work)()
    return before if before is None else high_water(device) - before


def peaks(makes: dict[str, Callable], batch: int, device: torch.device) -> dict:
    """The peak of each, one process after another. Raises: OSError if memory is not enough."""
    found = {}
    for name, make in tqdm(makes.items(), leave=False, desc="memory", disable=None):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                found[name] = pool.submit(peak, make, batch, device).result()
            except (BrokenProcessPool, MemoryError, torch.OutOfMemoryError) as error:
                raise OSError(f"{name} needs more memory than there is: take a --batch-size below "
                              f"{batch}") from error
    return found


def flops(make: Callable, device: torch.device) -> float:
    """Floating-point operations of a training step for one image more in the batch: so the
    optimiser's, which are the same for any batch, do not count."""
    def counted(batch: int) -> int:
        work = make(batch, device)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:   # all of it
            work.learn()
        return counter.get_total_flops()
    return (counted(4) - counted(2)) / 2


def product(n: int, dtype: torch.dtype, device: torch.device) -> Work:
    """A product of two n x n matrices; its amount is in 10^9 floating-point operations."""
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    return Work("product", f"{n} x {n}, {str(dtype)[6:]}", lambda: torch.mm(a, b), 2e-9 * n**3)


# --- telling --------------------------------------------------------------------------------------

def with_ours(rows: list[dict]) -> list[dict]:
    """The rows with how many times as fast ours is, where ours is among them."""
    ours = {row["name"]: row["median"] for row in rows}.get("ours")
    return [row | {"ours is": ours and ours / row["median"]} for row in rows]


def report(works: list[Work], memory: dict[str, float | None], operations: dict[str, float]
           ) -> dict[str, list[dict]]:
    """All tables, each a list of rows with the same keys: what is printed and written as JSON."""
    kinds = {kind: [work for work in works if work.kind == kind]
             for kind in ("training", "sampling", "growth", "product")}
    products = [work.rates() for work in kinds["product"]]
    training, sampling = (with_ours([work.rates() for work in kinds[kind]])
                          for kind in ("training", "sampling"))
    for row in training:
        done = 1e-9 * row["median"] * operations[row["name"].split(",")[0]]
        row |= {"GFLOP/s": done, "of peak": done / max(r["median"] for r in products),
                "peak MiB": memory[row["name"]]}
    for row in sampling:
        row["images/s"] = row["median"] / S
    growth = [work.spread(work.seconds) | {"peak MiB": memory[work.name], "ms each":
              1e3 * statistics.median(work.seconds) / work.amount} for work in kinds["growth"]]
    return {"training, images/s": training, "sampling, network evaluations/s": sampling,
            "growth, seconds": growth, "torch.mm, GFLOP/s": products}


def text(value: object) -> str:
    """A cell: three digits of a number, and all before the point."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
    return "-" if value is None else str(value)


def markdown(title: str, rows: list[dict]) -> str:
    """The rows as a table of Markdown that can also be read as it stands."""
    cells = [[title, *list(rows[0])[1:]], *([text(v) for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])])
    return "\n".join("| " + " | ".join(
        [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |" for line in cells)


def bars(axis, label: str, rows: list[dict]) -> None:
    """A bar for each row, ours blue and the others orange, with its spread and its number."""
    for y, row in enumerate(rows):
        colour = "#0072B2" if row["name"].startswith("ours") else "#E69F00"
        axis.barh(y, row["median"], color=colour, alpha=0.5 if "," in row["name"] else 1)
        axis.plot([row["lowest"], row["highest"]], [y, y], color="black", linewidth=1.5)
        axis.text(row["highest"], y, "  " + text(row["median"]), va="center", fontsize=9)
    axis.set(xlabel=label, yticks=range(len(rows)), yticklabels=[row["name"] for row in rows],
             xlim=(0, 1.2 * max(row["highest"] for row in rows)))
    axis.spines[["top", "right"]].set_visible(False)
    axis.invert_yaxis()


def picture(tables: dict[str, list[dict]], title: str) -> bytes:
    """Training and sampling, as bars in a PNG."""
    from matplotlib.figure import Figure
    shown = [table for table in list(tables)[:2] if tables[table]]
    figure = Figure(figsize=(6 * len(shown), 1.3 + 0.3 * len(tables[shown[0]])), dpi=100,
                    layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, label in zip(axes, shown, strict=True):
        bars(axis, label, tables[label])
    figure.suptitle(title, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def circumstances(args: argparse.Namespace) -> dict[str, object]:
    """What the numbers depend on, besides the code."""
    gpu = args.device.type == "cuda"
    name = torch.cuda.get_device_name() if gpu else torch.backends.cpu.get_cpu_capability()
    allocator = {key: value for key, value in os.environ.items()
                 if key.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "PYTORCH_"))}
    return {"device": f"{args.device.type} ({name})", "threads": torch.get_num_threads(),
            "torch": torch.__version__, "allocator": allocator or "default",
            "batch_size": args.batch_size, "rounds": args.rounds}


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, Parser]:
    """The flags."""
    parser = Parser(__doc__)
    parser.add_argument("--rounds", type=count_flag, default=15, help="how often each is timed")
    parser.add_argument("--batch-size", type=count_flag, default=128, help="images a step")
    parser.add_argument("--only", metavar="WORDS", help="measure only what has this in its name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="where to draw them")
    parser.add_argument("--device", type=device_flag, default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    if args.figure and args.figure.suffix != ".png":
        parser.error(f"--figure ends in .png, not {args.figure.name}")
    for path in filter(None, (args.json, args.figure)):
        prepare(path)
    return args, parser


def main(argv: list[str] | None = None) -> None:
    """Measures, prints, writes --json and --figure. Raises: OSError if a file cannot be written."""
    args, parser = parse(argv)
    batch, found = args.batch_size, contestants()
    makes = {name: make for name, make in found.items() if (args.only or "") in name}
    if not makes:
        parser.error(f"--only {args.only}: the names are {'; '.join(found)}")
    growths = {} if args.only else growing(batch)
    memory = peaks(makes | {name: make for name, (make, _) in growths.items()}, batch, args.device)
    made = {name: make(batch, args.device) for name, make in makes.items()}
    works = [*(Work("training", name, each.learn, batch) for name, each in made.items()),
             *(Work("sampling", name, each.hop, batch) for name, each in made.items()
               if each.hop),
             *(Work("growth", name, make(batch, args.device), units)
               for name, (make, units) in growths.items()),
             *(product(PRODUCT.get(args.device.type, 8192), dtype, args.device)
               for dtype in (torch.bfloat16, torch.float32))]
    take_turns(works, args.rounds, args.device)
    families = {name.split(",")[0] for name in makes}
    tables = report(works, memory, {name: flops(found[name], args.device) for name in families})
    settings = circumstances(args)
    for title, rows in tables.items():
        if rows:
            print(markdown(title, rows), end="\n\n")
    print(", ".join(f"{name} {value}" for name, value in settings.items()))
    if args.json:
        write(args.json, (json.dumps(settings | tables, indent=2) + "\n").encode())
    if args.figure:
        write(args.figure, picture(tables, settings["device"]))


if __name__ == "__main__":
    run(main)
