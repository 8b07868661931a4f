"""The workloads as one table and one picture: CPU milliseconds a row, ours beside the others'."""

from __future__ import annotations

import math
import statistics
from html import escape
from typing import Any

SIDES = {"ours": "llama_padfix", "trl": "TRL", "template": "apply_chat_template", "unsloth": "Unsloth"}
_COLORS = {"ours": "#0a7d5a", "trl": "#c2410c", "template": "#6b7280", "unsloth": "#7c3aed"}
_LEFT, _RIGHT, _TOP, _STEP = 190, 60, 64, 22  # pixels: the names, the ratio, the legend, a line
_WIDTH = 860

Told = dict[str, Any]


def costs(told: Told, side: str) -> list[float]:
    """Return a side's CPU milliseconds a row in each round; none where it failed or was not run."""
    return [1000 * one["cpu"] / one["rows"] for one in told["sides"].get(side, ()) if "error" not in one]


def ratio(told: Told, side: str = "trl") -> tuple[float, float, float] | None:
    """Return how many times the CPU of ours a side takes: of the medians, and the least and greatest of a round."""
    theirs, ours = costs(told, side), costs(told, "ours")
    if not theirs or len(theirs) != len(ours):
        return None
    rounds = [their / our for their, our in zip(theirs, ours, strict=True)]
    return statistics.median(theirs) / statistics.median(ours), min(rounds), max(rounds)


def write_table(results: list[Told]) -> str:
    """Return the table in Markdown, and below it what is asked for and not reached."""
    sides = [side for side in SIDES if any(costs(told, side) for told in results)]
    head = [
        "workload",
        "rows",
        *(f"{SIDES[side]}, ms" for side in sides),
        "TRL / ours",
        "asked",
        "rows equal to TRL's",
    ]
    lines, missed = [head, ["---"] * len(head)], []
    for told in results:
        found, name = ratio(told), told.get("workload", "?")
        shown = f"{found[0]:.1f} ({found[1]:.1f} to {found[2]:.1f})" if found else "not measured"
        cells = [f"{statistics.median(taken):.3f}" if (taken := costs(told, side)) else "-" for side in sides]
        equal = _show_equal(told.get("compared", {}).get("trl", {}))
        asked, reached, is_missed = _judge(told)
        lines.append([name, f"{told.get('rows', 0):,}", *cells, shown, asked, equal])
        if is_missed:
            missed.append(f"{name} ({reached}; asked: {asked})")
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{text}\nAsked and not reached: {', '.join(missed) or 'nothing'}.\n"


def _judge(told: Told) -> tuple[str, str, bool]:
    """Return what is asked for ("" for nothing), what is reached, and whether that is less."""
    taken, found = costs(told, "ours"), ratio(told)
    if least := told.get("at_least"):
        asked, reached = f"{least:g} times less", f"{found[0]:.1f}" if found else "not measured"
        if least == 1:
            asked, reached = "no slower", f"{1 / found[0]:.2f} times the CPU" if found else "not measured"
        return asked, reached, not found or found[0] < least
    if most := told.get("at_most"):
        cost = statistics.median(taken) if taken else math.inf
        return f"{most:g} ms", f"{cost:.2f}" if taken else "not measured", cost > most
    return "", "", False


def _show_equal(compared: Told) -> str:
    if "ids" not in compared:
        return "not compared" if not compared else f"{compared['rows']:,} rows, ours {compared['of']:,}"
    labels = f"labels {compared['labels']:,}" if "labels" in compared else "TRL makes no labels of answers"
    if compared.get("more"):
        labels += f" and {compared['more']:,} with more tokens trained"
    return f"ids {compared['ids']:,}, {labels} of {compared['of']:,}"


def draw_picture(results: list[Told]) -> str:
    """Return an SVG: a line a workload with a dot for each side, on a logarithmic scale."""
    shown = [told for told in results if costs(told, "ours")]
    medians = [{side: statistics.median(taken) for side in SIDES if (taken := costs(told, side))} for told in shown]
    values = [value for line in medians for value in line.values()] or [1.0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
    high = max(high, low + 1)

    def x_of(value: float) -> float:
        return _LEFT + (math.log10(value) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    height = _TOP + _STEP * len(shown) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        'font-size="12" role="img">',
        "<title>CPU milliseconds a row, on a logarithmic scale</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="8" y="18" fill="#111827">CPU milliseconds a row (logarithmic); right: TRL over llama_padfix</text>',
    ]
    for place, (side, name) in enumerate(SIDES.items()):
        x = 16 + 170 * place
        parts.append(f'<circle cx="{x}" cy="36" r="5" fill="{_COLORS[side]}"/>')
        parts.append(f'<text x="{x + 10}" y="40" fill="#111827">{name}</text>')
    bottom = _TOP + _STEP * len(shown)
    for power in range(low, high + 1):
        x = x_of(10**power)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" fill="#6b7280">{10.0**power:g}</text>')
    for place, (told, line) in enumerate(zip(shown, medians, strict=True)):
        y = _TOP + _STEP * place + 6
        ends = [x_of(value) for value in line.values()]
        parts.append(f'<text x="8" y="{y + 4}" fill="#111827">{escape(told["workload"])}</text>')
        parts.append(f'<line x1="{min(ends):.1f}" y1="{y}" x2="{max(ends):.1f}" y2="{y}" stroke="#9ca3af"/>')
        for side, value in reversed(line.items()):  # ours on top
            parts.append(f'<circle cx="{x_of(value):.1f}" cy="{y}" r="5" fill="{_COLORS[side]}"/>')
        if found := ratio(told):
            parts.append(f'<text x="{_WIDTH - 8}" y="{y + 4}" text-anchor="end" fill="#111827">{found[0]:.1f}x</text>')
    return "\n".join([*parts, "</svg>\n"])
