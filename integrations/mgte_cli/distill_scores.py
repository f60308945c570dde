"""``mgte-rag distill-scores``: training examples with a reranker's scores."""

import argparse
from pathlib import Path

from mgte_cli.arguments import add_examples, positive, read_given_examples


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "distill-scores",
        help="score training examples with a reranker, for distillation",
        description="Write the examples with a reranker's score of every positive and negative. Stopped, the same "
        "command goes on where it was; a report stands beside the output.",
    )
    add_examples(parser)
    parser.add_argument("--reranker", required=True, help="hub id or folder of the teacher")
    parser.add_argument("--max-length", type=positive, help="tokens read of a pair")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Score, and print the report."""
    from mgte_rag import Reranker  # on use: other commands need no extra and answer at once
    from mgte_training.negatives import distill_scores

    examples = read_given_examples(options)
    with Reranker.load(options.reranker) as reranker:
        report = distill_scores(
            reranker, examples, Path(options.out), max_length=options.max_length, show_progress=True
        )
    print(f"{report}\nwritten to {options.out}")
    return 0
