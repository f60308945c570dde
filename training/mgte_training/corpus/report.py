"""The statistics of a corpus as one HTML page that asks nobody for anything."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape

from mgte_rag import __version__
from mgte_training.corpus.options import CorpusOptions
from mgte_training.corpus.statistics import SCORE_STEP, Sample, Statistics
from mgte_training.evaluation.report.style import STYLE
from mgte_training.evaluation.report.text import figure, safe, table

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 360, 220, 8, 34, 14
_ROW, _NAME = 22, 120
_MOST_ROWS = 14


def page(found: Statistics, name: str, options: CorpusOptions) -> str:
    """The whole page, HTML.

    Args:
        found: what is reported.
        name: of the corpus.
        options: what it was made with.
    """
    parts = [
        f"<h1>Pairs from {safe(name)}</h1>",
        f'<p class="soft">mgte-rag {safe(__version__)}; {found.records:,} records of {found.files:,} files, '
        f"{found.with_pairs:,} with pairs; {found.pairs:,} pairs made, {found.kept:,} kept</p>",
        f"<h2>What became of them</h2>{_outcomes(found)}",
        f'<div class="charts">{"".join(_charts(found, options))}</div>',
        f"<h2>What was left out</h2>{_samples(found)}",
        f"<h2>Options</h2><pre>{safe(json.dumps(asdict(options), indent=1, ensure_ascii=False))}</pre>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Pairs from {safe(name)}</title><style>{STYLE}\npre {{ white-space: pre-wrap; }}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _outcomes(found: Statistics) -> str:
    rows = [["records", "read", f"{found.records:,}", ""], ["", "with pairs", f"{found.with_pairs:,}", ""]]
    rows += [["", safe(reason), f"{count:,}", ""] for reason, count in found.without.items()]
    rows.append(["pairs", "made", f"{found.pairs:,}", ""])
    outcomes = {"kept": found.kept, **found.dropped}
    rows += [["", safe(name), f"{count:,}", f"{count / max(1, found.pairs):.1%}"] for name, count in outcomes.items()]
    notes = []
    if found.others:
        notes.append(f"{found.others:,} files of other formats were not looked at.")
    if found.cut:
        notes.append(f"{found.cut:,} bodies were too long and end at a paragraph before.")
    if found.unscored:
        notes.append(f"{found.unscored:,} pairs are in languages that the model was not asked about; they are kept.")
    below = "".join(f'<p class="note">{note}</p>' for note in notes)
    return table(["", "", "number", "share"], rows, names=2) + below


def _charts(found: Statistics, options: CorpusOptions) -> list[str]:
    drawn = [
        figure("Tasks", _bars(found.tasks), "Pairs made, pale, and kept, full."),
        figure("Languages", _bars(found.languages), "Pairs made, pale, and kept, full."),
        figure("Words of queries", _columns({"kept": _powers(found.query_words)}), "Pairs kept, by powers of two."),
        figure(
            "Words of positives", _columns({"kept": _powers(found.positive_words)}), "Pairs kept, by powers of two."
        ),
    ]
    if found.scores_kept or found.scores_dropped:
        scores = {"kept": _scores(found.scores_kept, found), "left out": _scores(found.scores_dropped, found)}
        drawn.append(
            figure(
                "Scores",
                _columns(scores),
                f"Cosine of query and positive; pairs under {options.min_score} are left out.",
            )
        )
    return drawn


def _bars(counts: Mapping[str, Sequence[int]]) -> str:
    """A bar for each name: made and kept."""
    ranked = sorted(counts.items(), key=lambda each: (-each[1][0], each[0]))
    rest = [sum(each) for each in zip(*(both for _, both in ranked[_MOST_ROWS:]), strict=True)]
    shown = ranked[:_MOST_ROWS] + ([(f"{len(ranked) - _MOST_ROWS} others", rest)] if rest else [])
    most = max((made for _, (made, _) in shown), default=1)
    scale = (_WIDTH - _NAME - 70) / max(1, most)
    marks = []
    for number, (name, (made, kept)) in enumerate(shown):
        y = number * _ROW + 4
        marks.append(
            f'<text x="{_NAME - 6}" y="{y + 11}" text-anchor="end">{safe(name or "unknown")}</text>'
            f'<rect x="{_NAME}" y="{y}" width="{made * scale:.1f}" height="14" fill="var(--c0)" fill-opacity=".3">'
            f"<title>{safe(name)}: {made:,} made</title></rect>"
            f'<rect x="{_NAME}" y="{y}" width="{kept * scale:.1f}" height="14" fill="var(--c0)">'
            f"<title>{safe(name)}: {kept:,} kept</title></rect>"
            f'<text x="{_NAME + made * scale + 5:.1f}" y="{y + 11}">{kept:,}</text>'
        )
    return f'<svg viewBox="0 0 {_WIDTH} {len(shown) * _ROW + 6}" role="img">{"".join(marks)}</svg>'


def _columns(series: Mapping[str, Mapping[str, int]]) -> str:
    """Columns over named steps, those of several series on top of each other."""
    steps = list(next(iter(series.values())))
    totals = [sum(counts[step] for counts in series.values()) for step in steps]
    width = (_WIDTH - 2 * _LEFT) / max(1, len(steps))
    high = (_HEIGHT - _BOTTOM - _TOP) / max(1, *totals)
    every = max(1, -(-len(steps) // 10))
    marks = [
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _LEFT}" y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM}"/>'
    ]
    for place, step in enumerate(steps):
        x, y = _LEFT + place * width, float(_HEIGHT - _BOTTOM)
        for number, (name, counts) in enumerate(series.items()):
            y -= counts[step] * high
            marks.append(
                f'<rect x="{x + width * 0.06:.1f}" y="{y:.1f}" width="{width * 0.88:.1f}" '
                f'height="{counts[step] * high:.1f}" fill="var(--c{number})">'
                f"<title>{escape(step)}: {counts[step]:,} {escape(name)}</title></rect>"
            )
        if place % every == 0:
            marks.append(
                f'<text x="{x + width / 2:.1f}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle">{escape(step)}</text>'
            )
    marks.append(f'<text x="{_LEFT}" y="{_TOP - 3}">{max(0, *totals):,}</text>')
    names = "".join(f'<li><i style="background:var(--c{i})"></i>{escape(name)}</li>' for i, name in enumerate(series))
    legend = f'<ul class="legend">{names}</ul>' if len(series) > 1 else ""
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(marks)}</svg>{legend}'


def _powers(counts: Mapping[str, int]) -> dict[str, int]:
    """Every power of two from the lowest to the highest."""
    ends = sorted(map(int, counts)) or [1]
    every = [1 << power for power in range(ends[0].bit_length() - 1, ends[-1].bit_length())]
    return {f"{step:,}–" if step > 1 else "0–1": counts.get(str(step), 0) for step in every}


def _scores(counts: Mapping[str, int], found: Statistics) -> dict[str, int]:
    """Every step from the lowest to the highest that occurs at all."""
    numbers = [round(float(step) / SCORE_STEP) for step in (*found.scores_kept, *found.scores_dropped)]
    by_number = {round(float(step) / SCORE_STEP): count for step, count in counts.items()}
    return {f"{n * SCORE_STEP:.2f}": by_number.get(n, 0) for n in range(min(numbers), max(numbers) + 1)}


def _samples(found: Statistics) -> str:
    counts = {"kept": found.kept, **found.without, **found.dropped}
    parts = []
    for kind, count in counts.items():
        if kept := found.samples.get(kind):
            items = "".join(f"<li>{_sample(each)}</li>" for each in kept)
            is_open = "" if kind == "kept" else " open"
            parts.append(f"<details{is_open}><summary>{safe(kind)}: {count:,}</summary><ol>{items}</ol></details>")
    return "".join(parts) or "<p>Nothing.</p>"


def _sample(each: Sample) -> str:
    detail = f" <em>{safe(each.detail)}</em>" if each.detail else ""
    body = f"<br><b>{safe(each.query)}</b><br>{safe(each.positive)}" if each.query else ""
    return f'<span class="soft">{safe(each.source)}</span>{detail}{body}'
