"""An evaluation as files: a page, a Markdown table, JSON."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mgte_rag import InvalidOptionError
from mgte_training.evaluation.measures import MAIN, MEASURES
from mgte_training.evaluation.report.page import page
from mgte_training.evaluation.report.text import size
from mgte_training.evaluation.results import Evaluation, SetResult, SystemResult

_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", "|": "\\|", "\n": " ", "\r": " ", "*": "\\*", "`": "\\`", "[": "\\["}
)


def write_html(found: Evaluation, path: str | Path) -> None:
    """Write the page: one file with everything in it, which makes no request.

    Raises:
        InvalidOptionError: the file cannot be written.
    """
    _write(path, page(found))


def write_markdown(found: Evaluation, path: str | Path) -> None:
    """Write the tables of systems in Markdown.

    Raises:
        InvalidOptionError: the file cannot be written.
    """
    _write(path, markdown(found))


def write_json(found: Evaluation, path: str | Path) -> None:
    """Write everything for machines, nDCG@10 of every query and system included.

    Raises:
        InvalidOptionError: the file cannot be written.
    """
    _write(path, json.dumps(as_json(found), ensure_ascii=False, allow_nan=False, indent=1) + "\n")


def _write(path: str | Path, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidOptionError(f"cannot write {path}: {error}; what was encoded is kept in the cache") from error


def markdown(found: Evaluation) -> str:
    """A table for each set, and one for the tasks."""
    lines = [f"# {_cell(found.model)}", ""]
    for each in found.sets:
        lines += [f"## {_cell(each.name)}", "", f"{each.documents:,} documents, {each.queries:,} queries.", ""]
        lines += [f"| system | {' | '.join(MEASURES)} | ms a query | index |", f"|---|{'---|' * (len(MEASURES) + 2)}"]
        lines += [_row(system, bold=system is each.best) for system in each.systems]
        lines += ["", f"Values with 95 % intervals. {_cell(_bm25(each))}".rstrip(), ""]
    if found.tasks:
        lines += [
            "## Other tasks",
            "",
            "| task | group | language | measure | value | examples |",
            "|---|---|---|---|---|---|",
        ]
        for task in found.tasks:
            known = task.low is not None and task.high is not None
            interval = f" ({task.low:.3f}–{task.high:.3f})" if known else ""
            names = " | ".join(map(_cell, (task.task, task.group, task.language, task.measure)))
            lines.append(f"| {names} | {task.value:.3f}{interval} | {task.examples:,} |")
        lines.append("")
    return "\n".join(lines)


def _row(system: SystemResult, *, bold: bool) -> str:
    values = [
        f"{each.value:.3f} ({each.low:.3f}–{each.high:.3f})" for each in map(system.measures.__getitem__, MEASURES)
    ]
    name = f"**{_cell(system.name)}**" if bold else _cell(system.name)
    return f"| {name} | {' | '.join(values)} | {system.latency_ms:.1f} | {size(system.index_bytes)} |"


def _bm25(found: SetResult) -> str:
    return next((f"BM25: {each.detail}." for each in found.systems if each.kind == "bm25"), "")


def _cell(text: str) -> str:
    """A text that cannot end its cell or start markup."""
    return text.translate(_ESCAPES)


def as_json(found: Evaluation) -> dict[str, Any]:
    """Everything, in types that JSON has."""
    sets = [_set(each) for each in found.sets]
    head = {name: getattr(found, name) for name in ("model", "fingerprint", "max_length", "device", "dtype", "version")}
    return {**head, "sets": sets, "tasks": [asdict(task) for task in found.tasks]}


def _set(found: SetResult) -> dict[str, Any]:
    systems = []
    for system in found.systems:
        values = asdict(system)
        values["per_query"] = {MAIN: [round(float(value), 6) for value in system.per_query[MAIN]]}
        systems.append(values)
    fields = ("name", "documents", "queries", "judgments", "without_judgment", "language", "query_languages")
    more = ("lengths", "query_lengths", "truncated", "seconds")
    return {
        **{name: getattr(found, name) for name in (*fields, *more)},
        "query_ids": list(found.query_ids),
        "systems": systems,
        "significance": [{"systems": list(pair), "p": p} for pair, p in found.significance.items()],
        "collection": None if found.collection is None else asdict(found.collection),
        "sample": None if found.sample is None else asdict(found.sample),
        "variants": [asdict(each) for each in found.variants],
        "worst": [asdict(each) for each in found.worst],
    }
