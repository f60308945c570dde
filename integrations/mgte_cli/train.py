"""``mgte-rag train``: a recipe to a trained model."""

import argparse
from pathlib import Path


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "train",
        help="train a model as a recipe says",
        description="Train as a TOML recipe says: a model of vectors, a reranker, or an encoder on raw texts ([mlm], "
        "[retromae]). Stopped, the same command goes on from its last checkpoint and ends at the same weights. Several "
        "GPUs: torchrun -m mgte_cli.main train ...",
    )
    parser.add_argument(
        "recipe", help="a file, or the name of a recipe that comes with the package; 'list' lists these"
    )
    parser.add_argument("--out", type=Path, help="folder of the run; the model will be in its folder 'model'")
    parser.add_argument(
        "--data", type=Path, default=Path(), help="folder that the recipe's files are in (default: here)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="instead of the recipe's: training.learning_rate=1e-5")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, and say where the model is."""
    from torch import distributed  # on use: other commands need no extra and answer at once

    from mgte_rag import InvalidOptionError
    from mgte_training.finetune.recipe import RECIPES, find_recipe
    from mgte_training.stages import read_stage, run_stage

    if options.recipe == "list":
        print("\n".join(sorted(path.stem for path in RECIPES.glob("*.toml"))))
        return 0
    if options.out is None:
        raise InvalidOptionError("--out is missing: the folder that the run and the trained model go to")
    recipe = read_stage(find_recipe(options.recipe), options.settings)
    trained = run_stage(recipe, options.out, data=options.data, show_progress=not options.quiet, say=print)
    are_several = distributed.is_available() and distributed.is_initialized()
    if not are_several or distributed.get_rank() == 0:
        for name, value in trained.figures.items():
            print(f"{name:32} {value:.4f}")
        print(f"the model is in {trained.folder}")
    if are_several:
        distributed.destroy_process_group()  # or its threads may still run when the process ends, which aborts it
    return 0
