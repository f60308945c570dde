"""``mgte-rag plan``: what a recipe costs at full size."""

import argparse

from mgte_cli.arguments import positive

_MFU = 0.4


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "plan",
        help="what a recipe costs: tokens, FLOPs, GPU hours, memory",
        description="Compute tokens, floating point operations, GPU hours and memory of a training stage from its "
        "recipe, before anything is trained. docs/scale.md says how, and compares with what papers report.",
    )
    parser.add_argument("recipe", help="a file, or the name of a recipe that comes with the package")
    parser.add_argument("--gpus", type=positive, default=8, help="how many (default 8)")
    parser.add_argument("--gpu", default="h100", help="which: a100, a100-40g, h100 (default), h200, l40s")
    parser.add_argument("--mfu", type=float, default=_MFU, help="share of its operations that is reached (default "
                        f"{_MFU}, an assumption)")  # fmt: skip
    parser.add_argument("--tokens-per-second", type=float, help="of one GPU, as measured; instead of --mfu")
    parser.add_argument(
        "--mean-tokens", type=float, help="of a text, on average (default: the longest, an upper bound)"
    )
    parser.add_argument("--examples", type=positive, help="how many there are, for recipes that say epochs")
    parser.add_argument("--encoder", help="a folder or a recipe of a new model, where the recipe's own cannot be found")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="instead of the recipe's: batches.batch=4096")  # fmt: skip
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compute, and print."""
    from mgte_rag import InvalidOptionError  # on use: other commands need no extra and answer at once
    from mgte_training.finetune.recipe import find_recipe
    from mgte_training.pretrain.new_model import NewModel
    from mgte_training.pretrain.scale import describe, find_encoder, work_of
    from mgte_training.stages import read_stage

    stage = read_stage(find_recipe(options.recipe), options.settings)
    if isinstance(stage, NewModel):
        raise InvalidOptionError("this recipe makes a new model and trains none: plan a stage, such as mgte-mlm-2048")
    work = work_of(stage, mean=options.mean_tokens, examples=options.examples)
    encoder = find_encoder(options.encoder or stage.model.name)
    rate = options.tokens_per_second
    print(describe(encoder, work, gpu=options.gpu, gpus=options.gpus, mfu=options.mfu, rate=rate))
    return 0
