"""``mgte-rag evaluate``: measure a model, and everything built from it, on retrieval sets and other tasks."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mgte_cli.arguments import positive
from mgte_rag import InvalidOptionError

if TYPE_CHECKING:
    from mgte_rag import EmbeddingModel, Reranker
    from mgte_training.evaluation import Evaluation, RetrievalSet, TaskScore
    from mgte_training.evaluation.tasks.run import TaskFile

HUB = "hf:"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "evaluate",
        help="measure a model on retrieval sets and other tasks",
        description="Compare BM25, dense vectors of every size, sparse vectors, their fusions, late interaction, a "
        "reranker and a collection on sets of documents, queries and judgments, and measure the model on other tasks. "
        "Every text is encoded once and kept in a cache: the same command goes on where it was stopped.",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="FOLDER",
        help=f"corpus.jsonl(.gz), queries.jsonl(.gz) and qrels.tsv, or {HUB}name on the hub; may be repeated",
    )
    parser.add_argument(
        "--tasks",
        type=Path,
        metavar="FILE",
        help="TOML file of other tasks: similarity, classification, clustering, reranking, fine-tuning and more",
    )
    parser.add_argument("--model", default=None, help="hub id or folder (default: the embedded default, mini)")
    parser.add_argument("--reranker", default=None, help="hub id or folder of a cross-encoder")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a page to look at")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables in Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures for machines")
    parser.add_argument(
        "--systems",
        type=_names,
        help="bm25,dense,sparse,fusion,late_interaction,reranker,collection (default: all the model can do)",
    )
    parser.add_argument("--dims", type=_numbers, help="sizes of the dense vector (default: those of its training)")
    parser.add_argument("--language", help="of the documents, en or zh (default: detected), for BM25's analysis")
    parser.add_argument("--queries", type=positive, help="queries of each set at most, a seeded choice")
    parser.add_argument("--split", default="test", help="of the judgments (default test)")
    parser.add_argument(
        "--lengths",
        type=_numbers,
        nargs="?",
        const=(),
        help="measure what reading less of each document costs; at these tokens (default: halvings of the model's)",
    )
    parser.add_argument(
        "--sampled",
        choices=("compare", "only"),
        nargs="?",
        const="compare",
        default="no",
        help="all judged documents and the best 250 by BM25 for each query: beside the whole corpus, or alone",
    )
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="of encodings (default: in the user's cache)")
    parser.add_argument("--dtype", default=None, help="float32 for exact comparisons (default: the fastest)")
    parser.set_defaults(run=run)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    return [positive(number) for number in text.split(",")]


def run(options: argparse.Namespace) -> int:
    """Evaluate, print a table for each set, write the files."""
    from mgte_rag import EmbeddingModel  # all on use: other commands need no extra and answer at once

    if not options.data and options.tasks is None:
        raise InvalidOptionError("nothing to evaluate: give --data with a retrieval set, --tasks with a file, or both")
    for path in (options.report, options.markdown, options.json):
        _check_writable(path)
    sets = [_read(name, options.split) for name in options.data]
    tasks = _read_tasks(options.tasks)
    with EmbeddingModel.load(options.model, dtype=options.dtype) as model:
        if options.reranker is None:
            found = _evaluate(model, None, sets, options)
        else:
            from mgte_rag import Reranker

            with Reranker.load(options.reranker, dtype=options.dtype) as reranker:
                found = _evaluate(model, reranker, sets, options)
        if tasks:
            found = replace(found, tasks=tuple(_run_tasks(tasks, options)))
    _print(found)
    _write(found, options)
    return 0


def _read(name: str, split: str) -> "RetrievalSet":
    from mgte_training.evaluation import read_folder, read_hub

    if name == HUB:
        raise InvalidOptionError(f"--data {HUB} names no data set; give {HUB}organisation/name")
    return read_hub(name.removeprefix(HUB), split=split) if name.startswith(HUB) else read_folder(name, split=split)


def _read_tasks(path: Path | None) -> "list[TaskFile]":
    if path is None:
        return []
    from mgte_training.evaluation.tasks.run import check_tasks, read_tasks

    tasks = read_tasks(path)
    check_tasks(tasks)
    return tasks


def _run_tasks(tasks: "list[TaskFile]", options: argparse.Namespace) -> "list[TaskScore]":
    from mgte_training.evaluation.cached_model import default_cache
    from mgte_training.evaluation.tasks.run import run_tasks

    cache = (options.cache or default_cache()) / "mteb"
    return run_tasks(options.model, tasks, dtype=options.dtype, cache=cache, show_progress=True)


def _evaluate(
    model: "EmbeddingModel", reranker: "Reranker | None", sets: "Sequence[RetrievalSet]", given: argparse.Namespace
) -> "Evaluation":
    from mgte_training.evaluation import Options, evaluate

    options: Options = Options(
        systems=given.systems,
        dims=given.dims,
        language=given.language,
        queries=given.queries,
        sampled=given.sampled,
        lengths=given.lengths,
        cache=given.cache,
        show_progress=True,
    )
    return evaluate(model, sets, reranker=reranker, options=options)


def _check_writable(path: Path | None) -> None:
    """Fail before hours of work, not after them."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InvalidOptionError(f"cannot write {path}: give a file in a folder that is there")


def _print(found: "Evaluation") -> None:
    for each in found.sets:
        print(f"\n{each.name}: {each.documents:,} documents, {each.queries:,} queries, {each.seconds:.0f} s")
        names = list(each.systems[0].measures)
        width = max(len(system.name) for system in each.systems) + 2
        print(" " * width + "".join(f"{name:>11}" for name in names) + "  ms a query")
        for system in each.systems:
            values = "".join(f"{system.measures[name].value:11.3f}" for name in names)
            print(f"{system.name:{width}}{values}{system.latency_ms:12.1f}{'   best' if system is each.best else ''}")
    if found.tasks:
        print()
    for task in found.tasks:
        print(
            f"{task.task}, {task.group}, {task.language}: {task.measure} {task.value:.3f}, {task.examples:,} examples"
        )


def _write(found: "Evaluation", options: argparse.Namespace) -> None:
    from mgte_training.evaluation import write_html, write_json, write_markdown

    for path, write in ((options.report, write_html), (options.markdown, write_markdown), (options.json, write_json)):
        if path is not None:
            write(found, path)
            print(f"wrote {path}")
