"""Charts as inline SVG, drawn for the width of a phone and scaled up; colours come from the page's style."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mgte_training.evaluation.measures import Estimate
from mgte_training.evaluation.report.style import SERIES

_WIDTH, _HEIGHT = 360, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 12, 10, 44
# Characters of step names that fit beside each other under the axis; of more every other name stands lower.
_TICK_CHARACTERS = 48


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a scatter chart.

    Attributes:
        label: short, beside the point.
        name: in full, shown when pointed at.
        x: above zero.
        y: 0 to 1.
        series: number of its colour.
    """

    label: str
    name: str
    x: float
    y: float
    series: int


def colour(series: int) -> str:
    """The colour of a series."""
    return f"var(--c{series % SERIES})"


def line_chart(series: Mapping[str, Mapping[str, Estimate]], *, x_label: str, y_label: str) -> str:
    """Lines over named steps, with confidence intervals as vertical strokes; a series may lack steps.

    Args:
        series: by name, estimates by step; the steps stand in the order in which they first appear.
        x_label: under the axis.
        y_label: what is measured, for readers of the chart's text.
    """
    steps = list(dict.fromkeys(step for values in series.values() for step in values))
    ends = [end for values in series.values() for each in values.values() for end in (each.low, each.high)]
    scale = _Scale(min(ends, default=0.0), max(ends, default=1.0))
    width = (_WIDTH - _LEFT - _RIGHT) / max(1, len(steps))
    places = {step: _LEFT + width * (i + 0.5) for i, step in enumerate(steps)}
    crowded = sum(len(step) + 1 for step in steps) > _TICK_CHARACTERS
    marks = [scale.grid(), *(_tick(places[step], step, lower=crowded and i % 2 == 1) for i, step in enumerate(steps))]
    for number, (name, values) in enumerate(series.items()):
        shift = (number - (len(series) - 1) / 2) * min(4.0, width / (len(series) + 1))
        points = [(places[step] + shift, each) for step, each in values.items()]
        path = " ".join(f"{x:.1f},{scale.y(each.value):.1f}" for x, each in points)
        marks.append(
            f'<polyline points="{path}" fill="none" stroke="{colour(number)}" stroke-width="2"{_dashes(number)}/>'
        )
        for (x, each), step in zip(points, values, strict=True):
            marks.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{scale.y(each.low):.1f}" y2="{scale.y(each.high):.1f}" '
                f'stroke="{colour(number)}" stroke-opacity=".45" stroke-width="1.5"/>'
                f'<circle cx="{x:.1f}" cy="{scale.y(each.value):.1f}" r="3.2" fill="{colour(number)}">'
                f"<title>{escape(name)}, {escape(step)}: {each.value:.3f} ({each.low:.3f} to {each.high:.3f})</title>"
                f"</circle>"
            )
    return _svg(marks, x_label, y_label) + (legend(list(series)) if len(series) > 1 else "")


def scatter_chart(points: Sequence[Point], *, x_label: str, y_label: str) -> str:
    """Labelled points, x on a logarithmic axis."""
    scale = _Scale(min((each.y for each in points), default=0.0), max((each.y for each in points), default=1.0))
    low = math.log10(min((each.x for each in points), default=1.0)) - 0.15
    high = math.log10(max((each.x for each in points), default=10.0)) + 0.15

    def place(x: float) -> float:
        return _LEFT + (math.log10(x) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    ticks = _log_ticks(low, high)
    marks = [scale.grid(), *(_tick(place(tick), _short(tick)) for tick in ticks)]
    taken = [(place(each.x) - 5, scale.y(each.y) - 5, 10.0, 10.0) for each in points]
    for each in sorted(points, key=lambda point: -point.y):
        x, y = place(each.x), scale.y(each.y)
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour(each.series)}" fill-opacity=".85">'
            f"<title>{escape(each.name)}: {each.y:.3f} at {_short(each.x)}</title></circle>"
        )
        marks.append(_free_label(each.label, x, y, taken))
    return _svg(marks, x_label, y_label)


def legend(names: Sequence[str]) -> str:
    """What the colours mean."""
    items = "".join(
        f'<li><i{" class=again" if _dashes(number) else ""} style="background:{colour(number)}"></i>{escape(name)}</li>'
        for number, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def bar(each: Estimate, highest: float) -> str:
    """A value and its interval as a small bar, for a table's cell."""
    wide, scale = 96, 92 / max(highest, 1e-9)
    return (
        f'<svg viewBox="0 0 {wide} 14" style="width:{wide}px" role="img" aria-label="{each.value:.3f}">'
        f'<rect x="0" y="3" width="{each.value * scale:.1f}" height="8" rx="2" fill="var(--c0)" fill-opacity=".55"/>'
        f'<line x1="{each.low * scale:.1f}" x2="{each.high * scale:.1f}" y1="7" y2="7" stroke="var(--text)" '
        f'stroke-width="1.5"/></svg>'
    )


class _Scale:
    """The vertical axis."""

    def __init__(self, low: float, high: float) -> None:
        spread = max(high - low, 0.02)
        self._step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if spread / step <= 6 or step == 0.5)
        self._low = max(0.0, math.floor((low - spread * 0.05) / self._step) * self._step)
        self._high = min(1.0, math.ceil((high + spread * 0.05) / self._step) * self._step)

    def y(self, value: float) -> float:
        share = (value - self._low) / max(self._high - self._low, 1e-9)
        return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)

    def grid(self) -> str:
        count = round((self._high - self._low) / self._step)
        parts = []
        for i in range(count + 1):
            value = self._low + i * self._step
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{self.y(value):.1f}" '
                f'y2="{self.y(value):.1f}"/><text x="{_LEFT - 5}" y="{self.y(value) + 4:.1f}" '
                f'text-anchor="end">{value:.2f}</text>'
            )
        return "".join(parts)


def _svg(marks: Sequence[str], x_label: str, y_label: str) -> str:
    bottom = _HEIGHT - _BOTTOM
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_label)} by {escape(x_label)}">'
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>'
        f'{"".join(marks)}<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 5}" text-anchor="middle">'
        f"{escape(x_label)}</text></svg>"
    )


def _dashes(series: int) -> str:
    """Where the colours begin again, lines are dashed."""
    return ' stroke-dasharray="5 3"' if series >= SERIES else ""


def _tick(x: float, label: str, *, lower: bool = False) -> str:
    y = _HEIGHT - _BOTTOM + (25 if lower else 13)
    return f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{escape(label)}</text>'


def _log_ticks(low: float, high: float) -> list[float]:
    factors = (1.0,) if high - low > 3 else (1.0, 3.0) if high - low > 1 else (1.0, 2.0, 5.0)
    powers = range(math.floor(low), math.ceil(high) + 1)
    return [f * 10.0**p for p in powers for f in factors if low <= math.log10(f * 10.0**p) <= high]


def _short(value: float) -> str:
    for end, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= end:
            return f"{value / end:.3g}{unit}"
    return f"{value:.3g}"


def _free_label(label: str, x: float, y: float, taken: list[tuple[float, float, float, float]]) -> str:
    """The label beside its point, where no other label or point is if there is such a place."""
    width, height = 7.0 * len(label) + 3, 11.0  # with a gap, so that neighbours do not read as one number
    offsets = [(7, -5.5), (-7 - width, -5.5), (-width / 2, -17), (-width / 2, 6), (7, -16), (7, 5), (-7 - width, -16)]
    offsets += [(-7 - width, 5), (16, -5.5), (-16 - width, -5.5), (-width / 2, -27), (-width / 2, 17)]
    boxes = [(x + dx, y + dy, width, height) for dx, dy in offsets]
    box = next((each for each in boxes if not any(_overlap(each, other) for other in taken)), boxes[0])
    taken.append(box)
    return f'<text class="label" x="{box[0]:.1f}" y="{box[1] + 9:.1f}">{escape(label)}</text>'


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
