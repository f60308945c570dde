"""``mgte-rag``: the command line."""

import argparse
import os
import sys
from collections.abc import Sequence

from mgte_cli import demo, distill_scores, doctor, evaluate, init, mine, pairs, plan, train, tune, verify
from mgte_rag import MGTEError, __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The command's own status, 0 where all is well; 1 after an error of this project's or of the files it works
        with, whose message goes to standard error; 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="mgte-rag", description="Retrieval that is good, fast and yours.")
    parser.add_argument("--version", action="version", version=f"mgte-rag {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (demo, distill_scores, doctor, evaluate, init, mine, pairs, plan, train, tune, verify):
        command.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except MGTEError as error:
        print(f"mgte-rag: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmgte-rag: stopped. What was done is kept; the same command goes on from there.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, head say, had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a disk that is full, a folder that may not be written to or is a file
        print(f"mgte-rag: {error}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
