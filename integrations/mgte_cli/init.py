"""``mgte-rag init``: a recipe to a new model."""

import argparse
from pathlib import Path


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "init",
        help="make a new encoder as a recipe says",
        description="Make a new encoder of any size as a TOML recipe says: a tokenizer taken from another model or "
        "learnt from texts, random weights or another model's where they fit. 'mgte-rag train' trains it.",
    )
    parser.add_argument("recipe", help="a file, or the name of a recipe that comes with the package")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the model")
    parser.add_argument(
        "--data", type=Path, default=Path(), help="folder that the recipe's files are in (default: here)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="instead of the recipe's: encoder.layers=6")  # fmt: skip
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make the model, and say what it is made of."""
    from mgte_training.finetune.recipe import find_recipe  # on use: other commands answer at once
    from mgte_training.pretrain.new_model import NewModel, make_model
    from mgte_training.stages import read_stage

    recipe = read_stage(find_recipe(options.recipe), options.settings, kind=NewModel)
    make_model(recipe, options.out, data=options.data, say=print)
    print(f"the model is in {options.out}")
    return 0
