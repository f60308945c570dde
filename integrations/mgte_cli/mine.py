"""``mgte-rag mine``: training examples with hard negatives from a model."""

import argparse
from pathlib import Path

from mgte_cli.arguments import add_examples, not_negative, positive, read_given_examples


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "mine",
        help="find hard negatives for training examples",
        description="Rank a corpus with a model for every query and write the examples with negatives from the "
        "ranking. Stopped, the same command goes on where it was; a report stands beside the output.",
    )
    add_examples(parser)
    parser.add_argument("--corpus", help="documents: .jsonl, .jsonl.gz or .parquet with text and maybe title "
                        "(default: the examples' positives)")  # fmt: skip
    parser.add_argument("--model", help="hub id or folder (default: the embedded default)")
    parser.add_argument("--outputs", nargs="+", default=["dense"], metavar="OUTPUT",
                        help="what to rank by: dense, sparse, multi_vector (default: dense)")  # fmt: skip
    parser.add_argument("--range", nargs=2, type=not_negative, default=(10, 210), metavar=("FIRST", "LAST"),
                        help="skip so many of the best, look as deep as LAST (default: 10 210)")  # fmt: skip
    parser.add_argument("--count", type=positive, default=7, help="negatives of each example (default 7)")
    parser.add_argument("--sampling", choices=("random", "top"), default="random",
                        help="which of the candidates that pass the checks (default random)")  # fmt: skip
    parser.add_argument("--margin", type=float, help="keep so far below the positive's score")
    parser.add_argument("--relative-margin", type=float, help="likewise, as a share of it: 0.05 allows 95 %%")
    parser.add_argument("--reranker", help="hub id or folder of a reranker for the next two checks")
    parser.add_argument("--max-relevance", type=float, help="highest relevance, 0 to 1, by the reranker")
    parser.add_argument("--reranker-margin", type=float, help="keep so far below the positive's score by the reranker")
    parser.add_argument("--query-prompt", help="put before every query (default: the model's own)")
    parser.add_argument("--document-prompt", help="put before every document (default: the model's own)")
    parser.add_argument("--max-length", type=positive, help="tokens read of a document")
    parser.add_argument("--scored", action="store_true", help="write the model's own scores too, for distillation")
    parser.add_argument("--seed", type=not_negative, default=0)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Mine, and print the report."""
    from contextlib import nullcontext  # all on use: other commands need no extra and answer at once

    from mgte_rag import EmbeddingModel, Reranker
    from mgte_training.data import read_corpus
    from mgte_training.negatives import MiningOptions, mine

    mining = MiningOptions(
        rank_range=tuple(options.range),
        count=options.count,
        sampling=options.sampling,
        margin=options.margin,
        relative_margin=options.relative_margin,
        max_relevance=options.max_relevance,
        reranker_margin=options.reranker_margin,
        outputs=tuple(options.outputs),
        query_prompt=options.query_prompt,
        document_prompt=options.document_prompt,
        max_length=options.max_length,
        scored=options.scored,
        seed=options.seed,
    )
    examples = read_given_examples(options)
    corpus = None if options.corpus is None else read_corpus(options.corpus)
    reranker = nullcontext() if options.reranker is None else Reranker.load(options.reranker)
    with EmbeddingModel.load(options.model) as model, reranker as checking:
        report = mine(model, examples, corpus, Path(options.out), options=mining, reranker=checking, show_progress=True)
    print(f"{report}\n\nwritten to {options.out}")
    return 0
