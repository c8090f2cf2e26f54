r"""Train a network for DDIM: its objective is DDPM's (theorem 1), so this runs ddpm/train.py.

    python 01_example/ddim/train.py                      # the same flags, the same results
"""
import sys
from pathlib import Path

# In front, since this folder has a train.py too: this one.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ddpm"))

from machinery.cli import run
from train import main

if __name__ == "__main__":
    run(main)
