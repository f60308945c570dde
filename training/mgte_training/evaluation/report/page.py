"""The page: one HTML file that asks nobody for anything."""

from mgte_training.evaluation.measures import MAIN, Estimate
from mgte_training.evaluation.report.charts import line_chart
from mgte_training.evaluation.report.set_section import set_section
from mgte_training.evaluation.report.style import STYLE
from mgte_training.evaluation.report.text import figure, safe, table, with_interval
from mgte_training.evaluation.results import Evaluation


def page(found: Evaluation) -> str:
    """The whole page, HTML."""
    parts = [
        f"<h1>{safe(found.model)}</h1>",
        f'<p class="soft">mgte-rag {safe(found.version)}; {safe(found.device)}, {safe(found.dtype)}; reads '
        f"{found.max_length:,} tokens; weights {safe(found.fingerprint[:12])}</p>",
        _overview(found),
        *(set_section(each, found.max_length) for each in found.sets),
        _tasks(found),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{safe(found.model)}: evaluation</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _overview(found: Evaluation) -> str:
    """What a reader of one screen should know."""
    if not found.sets:
        return ""
    rows = []
    for each in found.sets:
        dense = [system for system in each.systems if system.kind == "dense"]
        bm25 = next((system for system in each.systems if system.kind == "bm25"), None)
        rows.append(
            [
                safe(each.name),
                safe(each.best.name),
                with_interval(each.best.measures[MAIN]),
                with_interval(dense[-1].measures[MAIN]) if dense else "",
                with_interval(bm25.measures[MAIN]) if bm25 else "",
            ]
        )
    head = ["set", "best system", f"its {MAIN}", "dense", "BM25"]
    return table(head, rows, names=2) + _elastic(found)


def _elastic(found: Evaluation) -> str:
    """The elastic-dimension curves of several sets in one chart."""
    series: dict[str, dict[str, Estimate]] = {}
    for each in found.sets:
        sizes = {s.name.removeprefix("dense "): s.measures[MAIN] for s in each.systems if s.kind == "dense"}
        if len(sizes) > 1:
            series[each.name] = sizes
    if len(series) < 2:
        return ""
    chart = line_chart(series, x_label="components of the dense vector", y_label=MAIN)
    return f'<div class="charts">{figure("Elastic dimension", chart, "The first components, normalised again.")}</div>'


def _tasks(found: Evaluation) -> str:
    if not found.tasks:
        return ""
    rows = []
    for each in found.tasks:
        known = each.low is not None and each.high is not None
        interval = f' <span class="ci">{each.low:.3f}–{each.high:.3f}</span>' if known else ""
        rows.append(
            [
                safe(each.task),
                safe(each.group),
                safe(each.language),
                safe(each.measure),
                f"{each.value:.3f}{interval}",
                f"{each.examples:,}",
            ]
        )
    head = ["task", "group", "language", "measure", "value", "examples"]
    return f"<section><h2>Other tasks</h2>{table(head, rows, names=4)}</section>"
