"""Run by test_runs.py in two processes: pre-training as recipes say."""

import sys
from pathlib import Path

import torch

from mgte_training.stages import read_stage, run_stage


def main() -> None:
    data, out, *recipes = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    for recipe in recipes:
        run_stage(read_stage(recipe), out / recipe.stem, data=data)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
