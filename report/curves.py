"""Curves over the steps of a training, as one small SVG. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 32, 28
LINE = 15  # of the legend, below the plot
POINTS = 400  # of a curve; more cannot be told apart at this width
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2")

Series = Mapping[str, Sequence[float | None]]


def thin(steps: Sequence[float], series: Series) -> tuple[list[float], Series]:
    """At most POINTS steps, evenly, the first and the last among them."""
    if len(steps) <= POINTS:
        return list(steps), series
    chosen = sorted({round(i * (len(steps) - 1) / (POINTS - 1)) for i in range(POINTS)})
    return [steps[i] for i in chosen], {
        name: [values[i] for i in chosen] for name, values in series.items()
    }


def draw(title: str, steps: Sequence[float], series: Series) -> str:
    """One line a series; a missing value breaks it. Raises ValueError without any value."""
    known = [v for values in series.values() for v in values if v is not None]
    if not known:
        raise ValueError("no value to draw: expected at least one number")
    low, high = min(known), max(known)
    if low == high:
        low, high = low - 0.5, high + 0.5
    first, last = steps[0], steps[-1]

    def place(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * ((step - first) / ((last - first) or 1))
        y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))
        return f"{x:.1f} {y:.1f}"

    legend = LINE * len(series) + 6 if len(series) > 1 else 0
    parts = [_frame(title, low, high, first, last, HEIGHT + legend)]
    for number, (name, values) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [None if v is None else place(s, v) for s, v in zip(steps, values, strict=True)]
        parts.append(
            f'<path d="{_path(points)}" fill="none" stroke="{colour}" stroke-width="1.6" '
            'stroke-linejoin="round" stroke-linecap="round"/>'
        )
        if legend:
            y = HEIGHT + 6 + LINE * number
            parts.append(f'<text x="{LEFT}" y="{y}" fill="{colour}">{escape(name)}</text>')
    parts.append("</svg>")
    return "".join(parts)


def _path(points: Sequence[str | None]) -> str:
    drawn, pen_down = [], False
    for point in points:
        if point is not None:
            drawn.append(f"{'L' if pen_down else 'M'}{point}")
        pen_down = point is not None
    if len(drawn) == 1:  # a single point shows as a dot of the line's round end
        drawn.append(drawn[0].replace("M", "L"))
    return "".join(drawn)


def _frame(title: str, low: float, high: float, first: float, last: float, height: int) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="11" fill="#475569">'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
        f'<text x="{LEFT}" y="18" font-size="13" fill="#0f172a">{escape(title)}</text>'
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#94a3b8"/>'
        f'<text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{high:.4g}</text>'
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">{low:.4g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 10}">step {first:g}</text>'
        f'<text x="{right}" y="{HEIGHT - 10}" text-anchor="end">{last:g}</text>'
    )
