"""A retrieval set's part of the page."""

from collections.abc import Mapping, Sequence

from mgte_training.evaluation.measures import MAIN, MEASURES, Estimate
from mgte_training.evaluation.report.charts import Point, bar, legend, line_chart, scatter_chart
from mgte_training.evaluation.report.text import figure, safe, size, table, with_interval
from mgte_training.evaluation.results import Found, SetResult, SystemResult, WorstQuery

_KINDS = {
    "bm25": "BM25",
    "dense": "dense",
    "sparse": "sparse",
    "fusion": "fusion",
    "late_interaction": "late interaction",
    "reranker": "reranker",
}
# An adjusted p-value below this is called a difference.
_LEVEL = 0.05


def set_section(found: SetResult, max_length: int) -> str:
    """HTML of everything found on a set."""
    parts = [
        f"<h2>{safe(found.name)}</h2>",
        _facts(found),
        _cut(found, max_length),
        "<h3>Systems</h3>",
        _systems(found),
        _charts(found),
        _languages(found),
        _significance(found),
        _collection(found),
        _sample(found),
        _worst(found),
        _how(found),
    ]
    return f"<section>{''.join(parts)}</section>"


def _facts(found: SetResult) -> str:
    facts = {
        "documents": f"{found.documents:,}",
        "queries": f"{found.queries:,}",
        "relevant pairs": f"{found.judgments:,}",
        "language of the documents": found.language or "mixed",
        "queries in": ", ".join(f"{language} {count:,}" for language, count in found.query_languages.items()),
        "document lengths in tokens": ", ".join(f"{name}: {count:,}" for name, count in found.lengths.items()),
    }
    if found.without_judgment:
        facts["queries left out, nothing relevant to them"] = f"{found.without_judgment:,}"
    items = "".join(f"<div><dt>{safe(name)}</dt><dd>{safe(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{items}</dl>'


def _cut(found: SetResult, max_length: int) -> str:
    if not found.truncated:
        return ""
    hint = "" if found.variants else " Evaluate with --lengths to see what that costs."
    whole = ["BM25"] if any(each.kind == "bm25" for each in found.systems) else []
    whole += ["the collection"] if found.collection is not None else []
    others = f"; {' and '.join(whole)} had all of them" if whole else ""
    return (
        f'<p class="warning">{found.truncated:.0%} of the documents are longer than the {max_length:,} tokens that the '
        f"model reads. Its vectors below are of their beginnings only"
        f"{others}.{hint}</p>"
    )


def _systems(found: SetResult) -> str:
    highest = max(each.measures[MAIN].high for each in found.systems)
    rows = [
        [
            f'<span class="number">{number}</span> {safe(each.name)}',
            with_interval(each.measures[MAIN]),
            bar(each.measures[MAIN], highest),
            *(with_interval(each.measures[name]) for name in MEASURES[1:]),
            f"{each.latency_ms:.1f}",
            size(each.index_bytes),
        ]
        for number, each in enumerate(found.systems, start=1)
    ]
    return (
        table(
            ["system", MAIN, "", *MEASURES[1:], "ms a query", "index"],
            rows,
            best=list(found.systems).index(found.best),
        )
        + '<p class="note">Below each value its 95 % bootstrap interval over queries. ms a query: one query alone, '
        "its encoding included, median. Index: what must be held to search.</p>"
    )


def _charts(found: SetResult) -> str:
    charts = [
        _by_cost(found, "Quality against latency", "milliseconds a query"),
        _by_cost(found, "Quality against index size", "bytes"),
    ]
    dense = [each for each in found.systems if each.kind == "dense"]
    if len(dense) > 1:
        sizes = {each.name.removeprefix("dense "): each.measures[MAIN] for each in dense}
        charts.append(
            figure(
                "Elastic dimension",
                line_chart({"dense": sizes}, x_label="components of the dense vector", y_label=MAIN),
                "The first components of one vector, normalised again (mGTE's figure 4).",
            )
        )
    if any(len(each.by_length) > 1 for each in found.systems):
        charts.append(
            figure(
                "Quality by document length",
                line_chart(
                    {each.name: each.by_length for each in _one_of_each_kind(found)},
                    x_label="tokens of the relevant documents",
                    y_label=MAIN,
                ),
                f"The best system of each kind (mGTE's figure 5). {_asked(found)}",
            )
        )
    charts += _variants(found)
    return f'<div class="charts">{"".join(charts)}</div>'


def _by_cost(found: SetResult, title: str, x_label: str) -> str:
    kinds = list(dict.fromkeys(each.kind for each in found.systems))
    latency = x_label != "bytes"
    points = [
        Point(
            str(number),
            each.name,
            max(each.latency_ms if latency else float(each.index_bytes), 1e-3),
            each.measures[MAIN].value,
            kinds.index(each.kind),
        )
        for number, each in enumerate(found.systems, start=1)
    ]
    drawing = scatter_chart(points, x_label=x_label, y_label=MAIN) + legend([_KINDS[kind] for kind in kinds])
    return figure(title, drawing, f"{MAIN} upwards; the numbers are those of the table.")


def _asked(found: SetResult) -> str:
    """How much stands behind each point of a chart by length."""
    return f"Queries: {', '.join(f'{bucket}: {count:,}' for bucket, count in found.query_lengths.items())}."


def _one_of_each_kind(found: SetResult) -> list[SystemResult]:
    best: dict[str, SystemResult] = {}
    for each in found.systems:
        if each.kind not in best or each.measures[MAIN].value > best[each.kind].measures[MAIN].value:
            best[each.kind] = each
    return list(best.values())


def _variants(found: SetResult) -> list[str]:
    """A chart for each output: how much of the documents was read."""
    charts = []
    for output in dict.fromkeys(each.output for each in found.variants):
        series: dict[str, Mapping[str, Estimate]] = {
            f"{each.name}: {each.overall.value:.3f}": each.by_length for each in found.variants if each.output == output
        }
        charts.append(
            figure(
                f"Cut and whole, {output}",
                line_chart(series, x_label="tokens of the relevant documents", y_label=MAIN),
                "Documents read to this length and whole, with the figure over all queries. "
                f"A document in pieces counts as its best piece. {_asked(found)}",
            )
        )
    return charts


def _languages(found: SetResult) -> str:
    languages = [language for language in found.query_languages if language in found.systems[0].by_language]
    if len(languages) < 2:
        return ""
    rows = [
        [safe(each.name), *(with_interval(each.by_language[language]) for language in languages)]
        for each in found.systems
    ]
    return (
        f"<h3>{MAIN} by language of the query</h3>"
        + table(["system", *(f"{language}, {found.query_languages[language]:,}" for language in languages)], rows)
        + '<p class="note">After each language, how many queries are in it.</p>'
    )


def _significance(found: SetResult) -> str:
    best, others = found.best, [each for each in found.systems if each is not found.best]
    if not others:
        return ""
    rows = []
    for each in others:
        p = found.significance.get((best.name, each.name), found.significance.get((each.name, best.name), 1.0))
        gap = best.measures[MAIN].value - each.measures[MAIN].value
        rows.append([safe(each.name), f"{-gap:+.3f}", f"{p:.2g}", "yes" if p < _LEVEL else "no"])
    return (
        f"<details><summary>Is {safe(best.name)} really better?</summary>"
        + table(["beside it", f"difference in {MAIN}", "p", f"p below {_LEVEL}"], rows)
        + '<p class="note">Paired t-test over queries, two-sided, adjusted for all pairs of systems after Benjamini '
        "and Hochberg.</p></details>"
    )


def _collection(found: SetResult) -> str:
    run = found.collection
    if run is None:
        return ""
    rows = [
        [
            safe(each.mode.replace("_", " ")),
            *(with_interval(each.measures[name]) for name in each.measures),
            "" if each.exact is None else f"{each.exact:.3f}",
            f"{each.p50_ms:.1f}",
            f"{each.p95_ms:.1f}",
        ]
        for each in run.modes
    ]
    names = list(run.modes[0].measures) if run.modes else []
    pieces = f", {run.points:,} pieces of them," if run.split else ""
    return (
        "<h3>In a collection</h3>"
        + table(["mode", *names, "exact search", "p50 ms", "p95 ms"], rows)
        + f'<p class="note">{found.documents:,} documents{pieces} in a HybridCollection in a folder, '
        f"{run.queries:,} queries one by one: filled in {run.build_seconds:.1f} s, {size(run.disk_bytes)} on the disk. "
        f"Times are of the search alone; encoding a query takes {run.encode_ms:.1f} ms. Exact search: {MAIN} of the "
        f"system above that searches alike, on the same queries"
        f"{', with documents cut at what the model reads' if run.split else ''}.</p>"
    )


def _sample(found: SetResult) -> str:
    sample = found.sample
    if sample is None:
        return ""
    rows = [
        [safe(name), f"{sample.full[name]:.3f}", f"{sample.sampled[name]:.3f}"]
        for name in sorted(sample.full, key=lambda name: -sample.full[name])
    ]
    tau = "none, one of them has no order" if sample.tau is None else f"{sample.tau:.2f}"
    return (
        "<h3>On a sampled corpus</h3>"
        f"<p>All judged documents and the best {sample.depth} by BM25 for each query: {sample.documents:,} of "
        f"{sample.of_documents:,} documents. Kendall's tau of the two orders of systems by {MAIN}: {tau}.</p>"
        + table(["system", "full corpus", "sampled"], rows)
    )


def _worst(found: SetResult) -> str:
    items = "".join(_worst_query(each) for each in found.worst)
    return f"<h3>Worst queries</h3>{items}"


def _worst_query(worst: WorstQuery) -> str:
    parts = [f'<details><summary dir="auto">{safe(worst.text)} <span class="soft">{worst.ndcg:.2f}</span></summary>']
    parts.append(f'<p class="note">Query {safe(worst.id)}. It should find:</p>{_documents(worst.relevant, "ul")}')
    for name, documents in worst.returned.items():
        rank = worst.ranks[name]
        said = "found nothing relevant" if rank is None else f"first relevant document at {rank}"
        parts.append(f'<h5>{safe(name)} <span class="soft">{said}</span></h5>{_documents(documents, "ol")}')
    return "".join(parts) + "</details>"


def _documents(documents: Sequence[Found], tag: str) -> str:
    items = "".join(
        f'<li dir="auto"{" class=relevant" if each.relevant else ""}>{safe(each.text)} '
        f'<span class="soft">{safe(each.id)}{f", {each.score:.3f}" if tag == "ol" else ""}</span></li>'
        for each in documents
    )
    return f"<{tag}>{items}</{tag}>"


def _how(found: SetResult) -> str:
    items = "".join(f"<li><b>{safe(each.name)}</b>: {safe(each.detail)}</li>" for each in found.systems)
    return (
        f"<details><summary>How each system searches</summary><ul>{items}</ul></details>"
        f'<p class="note">Evaluated in {found.seconds:.0f} s.</p>'
    )
