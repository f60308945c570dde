"""Arguments that several commands share."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mgte_training.data import SourceData


def positive(text: str) -> int:
    """A whole number above 0, for the command line."""
    return _whole(text, 1)


def not_negative(text: str) -> int:
    """A whole number from 0 up, for the command line."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} up")
    return number


def add_examples(parser: argparse.ArgumentParser) -> None:
    """Arguments of a command from training examples to a new file of them."""
    parser.add_argument("--examples", required=True, help="training examples: .jsonl, .jsonl.gz, .parquet, a folder or "
                        "a hub dataset's id")  # fmt: skip
    parser.add_argument("--split", default="train", help="split of a folder or a hub dataset (default train)")
    parser.add_argument("--ignore-field", action="append", default=[], metavar="FIELD",
                        help="a field of the examples that is not read; may be given several times")  # fmt: skip
    parser.add_argument("--out", required=True, help="a new .jsonl file")


def read_given_examples(options: argparse.Namespace) -> "SourceData":
    """The examples that the arguments name."""
    from mgte_training.data import Source, SourceData  # on use: other commands answer at once

    source = Source("examples", options.examples, split=options.split, ignored_fields=tuple(options.ignore_field))
    return SourceData.read(source, show_progress=True)
