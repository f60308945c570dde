"""``mgte-rag pairs``: documents to filtered training pairs."""

import argparse
from pathlib import Path

from mgte_cli.arguments import not_negative, positive

_TASKS = ("title-body", "heading-section", "question-answer", "translation", "citation")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "pairs",
        help="make training pairs of documents",
        description="Make training pairs of documents (.txt, .md, .rst, .html, .jsonl, also .gz) by their structure, "
        "filter them, and write them in shards with a report. Stopped, the same command goes on. With "
        "--threshold-from, say which minimum score fits a model instead.",
    )
    parser.add_argument("sources", nargs="*", type=Path, help="folders and files")
    parser.add_argument("--out", type=Path, help="a new folder")
    parser.add_argument("--tasks", nargs="+", choices=_TASKS, default=_TASKS, metavar="TASK",
                        help=f"any of {', '.join(_TASKS)} (default: all)")  # fmt: skip
    parser.add_argument("--languages", nargs="+", metavar="CODE", help="keep these (default: all)")
    parser.add_argument("--query-words", nargs=2, type=not_negative, default=(1, 64), metavar=("FEWEST", "MOST"),
                        help="default 1 64; two characters of a script without spaces count as a word")  # fmt: skip
    parser.add_argument("--positive-words", nargs=2, type=not_negative, default=(12, 6000),
                        metavar=("FEWEST", "MOST"), help="default 12 6000")  # fmt: skip
    parser.add_argument("--body-words", type=positive, default=1000,
                        help="of the text that a title asks for, the rest is cut (default 1000)")  # fmt: skip
    parser.add_argument("--near-duplicates", type=float, default=0.8, metavar="SIMILARITY",
                        help="leave a positive out that is so similar to one before, above 0 to 1 (default 0.8); "
                        "0 keeps them")  # fmt: skip
    parser.add_argument("--max-repeats", type=positive, default=5,
                        help="pairs with the same query, or the same positive (default 5)")  # fmt: skip
    parser.add_argument("--blocked-sites", type=Path, help="file with a host in every line: no links to them")
    parser.add_argument("--blocked-words", type=Path, help="file with a word in every line: none of them")
    parser.add_argument("--min-score", type=float, help="lowest cosine of query and positive by the model")
    parser.add_argument("--model", help="hub id or folder of that model (default: the embedded default)")
    parser.add_argument("--score-languages", nargs="+", metavar="CODE",
                        help="languages that the model knows; others are kept unscored (default: all)")  # fmt: skip
    parser.add_argument("--skip-unreadable", action="store_true", help="go on where a file or line cannot be read")
    parser.add_argument("--shard-rows", type=positive, default=100_000, help="rows of a file (default 100000)")
    parser.add_argument("--seed", type=not_negative, default=0)
    parser.add_argument("--threshold-from", nargs="+", type=Path, metavar="PAIRS", help="say which minimum score "
                        "fits the model by exchanging the positives of these pairs; one of {query, text, matches} is "
                        "taken as labelled")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make the pairs, and print what became of them."""
    from contextlib import nullcontext  # all on use: other commands need no extra and answer at once

    from mgte_rag import EmbeddingModel, InvalidOptionError
    from mgte_training.corpus import CorpusOptions, build_pairs

    if options.threshold_from:
        return _print_thresholds(options)
    if not options.sources or options.out is None:
        raise InvalidOptionError("sources and --out are needed: the documents, and the folder for the pairs")
    if options.min_score is None and (options.model or options.score_languages):
        raise InvalidOptionError("--model and --score-languages are for --min-score, which is missing")
    corpus = CorpusOptions(
        tasks=tuple(options.tasks),
        languages=options.languages and tuple(options.languages),
        query_words=tuple(options.query_words),
        positive_words=tuple(options.positive_words),
        body_words=options.body_words,
        near_duplicates=options.near_duplicates or None,
        max_repeats=options.max_repeats,
        blocked_sites=_lines(options.blocked_sites),
        blocked_words=_lines(options.blocked_words),
        min_score=options.min_score,
        score_languages=options.score_languages and tuple(options.score_languages),
        skip_unreadable=options.skip_unreadable,
        shard_rows=options.shard_rows,
        seed=options.seed,
    )
    asked = nullcontext() if options.min_score is None else EmbeddingModel.load(options.model)
    with asked as model:
        found = build_pairs(options.sources, options.out, options=corpus, model=model, show_progress=not options.quiet)
    print(f"{found}\n\nwritten to {options.out}, with examples of what was left out in report.html")
    return 0


def _print_thresholds(options: argparse.Namespace) -> int:
    from mgte_rag import EmbeddingModel
    from mgte_training.corpus import LabelledScores, is_labelled, score_labelled, score_shuffled

    with EmbeddingModel.load(options.model) as model:
        every = []
        for path in options.threshold_from:
            labelled = is_labelled(path)
            every.append(score_labelled(model, path) if labelled else score_shuffled(model, path, seed=options.seed))
            print(f"{path}{', as labelled' if labelled else ', against exchanged positives'}\n{every[-1]}\n")
    if len(every) > 1:
        print(f"all together\n{LabelledScores.together(every)}")
    return 0


def _lines(path: Path | None) -> tuple[str, ...]:
    from mgte_rag import DataError

    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
