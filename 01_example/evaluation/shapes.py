r"""Make a folder of coloured pictures to train on: circles, squares and triangles, 32 x 32 pixels.

    python 01_example/evaluation/shapes.py --out shapes

writes 500 of each, as PNG or JPEG, in three sub-folders, which train.py --dataset shapes takes for
classes. It stands for a folder of your own.
"""
import colorsys
import io
import math
import random
import sys
from pathlib import Path

# The flags and the files are those of ddpm/.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

from PIL import Image, ImageDraw

from machinery.cli import Parser, count_flag, run, seed_flag
from machinery.files import prepare, write

KINDS = ("circle", "square", "triangle")
SIDE, FINER = 32, 8         # pixels of a picture; it is drawn so many times larger, then shrunk


def colour(hue: float, saturation: float, value: float) -> tuple[int, ...]:
    """A colour as three levels 0..255."""
    return tuple(round(255 * level) for level in colorsys.hsv_to_rgb(hue, saturation, value))


def shape(kind: str, rng: random.Random) -> Image.Image:
    """One shape of random colour, size and place, on a darker ground of another hue."""
    hue = rng.random()
    other = (hue + rng.uniform(0.3, 0.7)) % 1
    ground = colour(other, rng.uniform(0.2, 0.5), rng.uniform(0.25, 0.5))
    fill = colour(hue, rng.uniform(0.7, 1), rng.uniform(0.8, 1))
    picture = Image.new("RGB", (SIDE * FINER, SIDE * FINER), ground)
    r = rng.uniform(7, 12) * FINER
    x, y = (rng.uniform(13, 19) * FINER for _ in "xy")
    draw = ImageDraw.Draw(picture)
    if kind == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif kind == "square":
        draw.rectangle((x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r), fill=fill)
    else:
        draw.polygon([(x + r * math.sin(a), y + 0.17 * r - r * math.cos(a))
                      for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)], fill=fill)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def main(argv: list[str] | None = None) -> None:
    """Writes the pictures. Raises: OSError for a folder that cannot be written."""
    parser = Parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("shapes"), help="the folder to make")
    parser.add_argument("--n", type=count_flag, default=500, help="pictures of each shape")
    parser.add_argument("--seed", type=seed_flag, default=1, help="of colours, sizes and places")
    args = parser.parse_args(argv)
    rng = random.Random(args.seed)
    for kind in KINDS:
        for i in range(args.n):
            picture, buffer = shape(kind, rng), io.BytesIO()
            suffix = rng.choice(["png", "jpg"])
            picture.save(buffer, "png" if suffix == "png" else "jpeg", quality=95)
            path = args.out / kind / f"{i:04}.{suffix}"
            prepare(path)
            write(path, buffer.getvalue())
    print(f"{len(KINDS) * args.n} pictures: {args.out}")


if __name__ == "__main__":
    run(main)
