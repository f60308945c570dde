"""Texts and numbers as pages show them."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from mgte_training.evaluation.measures import Estimate

# Characters that HTML does not allow, or that turn the direction of what follows.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


def safe(text: str) -> str:
    """Any text as the text of a page: escaped, control characters shown as such."""
    return escape(_UNSHOWN.sub("\ufffd", text))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, best: int | None = None, names: int = 1) -> str:
    """A table that scrolls sideways by itself where it is too wide.

    Args:
        head: of the columns, text.
        rows: cells, HTML.
        best: the row that is marked.
        names: how many of the first columns are text, not numbers.
    """

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=name' if i < names else ''}>{cell}</{tag}>" for i, cell in enumerate(row))

    body = "".join(
        f"<tr{' class=best' if number == best else ''}>{cells('td', row)}</tr>" for number, row in enumerate(rows)
    )
    return (
        f'<div class="wide"><table><thead><tr>{cells("th", [safe(name) for name in head])}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def with_interval(each: Estimate) -> str:
    """A value with its confidence interval, HTML."""
    return f'{each.value:.3f} <span class="ci">{each.low:.3f}–{each.high:.3f}</span>'


def size(count: float) -> str:
    """Bytes for people."""
    for end, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= end:
            return f"{count / end:.3g} {unit}"
    return f"{count:.0f} B"


def figure(title: str, drawing: str, caption: str = "") -> str:
    """A chart with its title; the caption is text."""
    below = f"<figcaption>{safe(caption)}</figcaption>" if caption else ""
    return f"<figure><h4>{safe(title)}</h4>{drawing}{below}</figure>"
