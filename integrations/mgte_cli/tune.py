"""``mgte-rag tune``: a folder of documents to a model that knows them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mgte_cli.arguments import not_negative, positive

if TYPE_CHECKING:
    from mgte_training.domain import Judged

_OTHER_ENTRIES = 1500


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "tune",
        help="fine-tune a model on a folder of documents",
        description="Fine-tune a model on documents (.md, .rst, .txt, .html, .jsonl with title and text): headings "
        "become queries for their sections. A fifth of the documents is held out, and the report compares the model "
        "with what it was on them and, for what it has forgotten, on another set. Stopped, the same command goes on.",
    )
    parser.add_argument("folder", type=Path, help="documents, or one .jsonl or .jsonl.gz file of them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; the model will be in 'model'")
    parser.add_argument("--model", help="hub id or folder (default: the embedded default)")
    parser.add_argument("--reranker", nargs="?", const="new", help="tune a reranker too: hub id, folder or 'mini'; "
                        "without a name a new one on the tuned encoder, which needs thousands of pairs")  # fmt: skip
    parser.add_argument("--questions", help="questions besides the headings: .jsonl of question and text, or question "
                        "and document")  # fmt: skip
    parser.add_argument("--other", type=Path, help="what forgetting is measured on: a folder in the BEIR layout "
                        "(default: the standard library's documentation, name to docstring)")  # fmt: skip
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the documents (default 0.2)")
    parser.add_argument("--epochs", type=positive, default=1)
    parser.add_argument("--max-pairs", type=positive, default=2000, help="train on so many (default 2000)")
    parser.add_argument("--max-queries", type=positive, default=1000, help="held-out queries that the figures are of "
                        "(default 1000)")  # fmt: skip
    parser.add_argument("--max-sections", type=positive, default=5000, help="sections that these search (default 5000)")
    parser.add_argument("--batch", type=positive, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument("--max-length", type=positive, default=128, help="tokens of a section read in training")
    parser.add_argument("--min-words", type=positive, default=12, help="leave out shorter sections (default 12)")
    parser.add_argument("--lora", type=positive, metavar="RANK", help="low-rank adapters instead of all weights")
    parser.add_argument("--forgetting", type=float, default=0.01,
                        help="nDCG@10 that the other set may lose (default 0.01)")  # fmt: skip
    parser.add_argument("--seed", type=not_negative, default=0)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Tune, and print the report."""
    from mgte_training.domain import TuningOptions, read_beir, tune  # on use: other commands answer at once
    from mgte_training.finetune.lora import LoRA

    tuned = tune(
        options.folder,
        options.out,
        other=read_beir(options.other) if options.other else standard_library(options.seed),
        options=TuningOptions(
            model=options.model,
            reranker=options.reranker,
            questions=options.questions,
            held_out=options.held_out,
            min_words=options.min_words,
            max_pairs=options.max_pairs,
            max_queries=options.max_queries,
            max_sections=options.max_sections,
            epochs=options.epochs,
            batch=options.batch,
            max_length=options.max_length,
            learning_rate=options.learning_rate,
            lora=None if options.lora is None else LoRA(rank=options.lora, alpha=2 * options.lora),
            forgetting=options.forgetting,
            seed=options.seed,
        ),
        show_progress=not options.quiet,
        say=print,
    )
    print(f"\n{tuned.report}\n\nthe model is in {tuned.folder}, a picture in {tuned.plot}")
    return 0


def standard_library(seed: int) -> "Judged":
    """Names of the standard library's objects as queries for their docstrings; a seeded choice."""
    import random

    from mgte_cli.stdlib_docs import collect
    from mgte_training.domain import Judged

    texts: dict[str, str] = {}
    for entry in collect():
        texts.setdefault(entry.text, entry.name)  # a docstring that several objects share has one name
    pairs = [(name, text) for text, name in texts.items()]
    return Judged.of_pairs(random.Random(seed).sample(pairs, min(len(pairs), _OTHER_ENTRIES)))
