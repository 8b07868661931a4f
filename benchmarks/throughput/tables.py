"""The benchmark's results as Markdown: what was to be reached, what each run cost, and whose rows are equal."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "matrix"))

import report

BEGIN, END = "<!-- the benchmark's tables: make bench WRITE=--write -->\n", "<!-- end of the tables -->\n"
SLOW, CACHED, FAST = "ours tokenizers", "ours cached", "ours fastokens"

# What, against whom, which figure divided by which, the bound, and whether more is better.
TARGETS: tuple[tuple[str, str, str, str, float, bool], ...] = (
    ("conversations to ids and labels, fast engine", "TRL", "TRL", FAST, 80, True),
    ("", "Unsloth", "Unsloth", FAST, 28, True),
    ("", "LLaMA-Factory", "LLaMA-Factory", FAST, 28, True),
    ("", "torchtune", "torchtune", FAST, 14, True),
    ("", "the bare engine", FAST, "bare fastokens", 1.35, False),
    ("the same, default engine", "TRL", "TRL", CACHED, 10, True),
    ("", "ours with `tokenizers`", SLOW, CACHED, 1, True),
    ("the same, `tokenizers`", "bare tokenizers", SLOW, "bare tokenizers", 1.1, False),
    ("ids to labels alone", "Unsloth's inner function", "labels Unsloth", "labels ours", 25, True),
)
# The scripts of these report nothing that is compared with a bound.
NOTES = {
    "apply_chat_template": "transformers, one batched call with the generation template",
    "Axolotl": "strategy chat_template, not filtered, not saved; once",
    "TRL, max_length=None": "without the passes that truncate and filter; once",
    "TRL": "`_prepare_dataset`, `assistant_only_loss`",
    "Unsloth": "text, `SFTTrainer`, `train_on_responses_only`",
    "LLaMA-Factory": "`get_dataset`, its template llama3",
    "torchtune": "`chat_dataset`, each row read once",
    SLOW: "`encode_table`, 2,000 rows at a time",
    CACHED: "`encode_table`, 2,000 rows at a time; the default engine",
    FAST: "`encode_table`, 2,000 rows at a time",
    "ours fastokens, Llama 3.1's template": "which writes dates; once",
    "stream": "`encode_dataset`, fast engine",
    "bare fastokens": "ready-rendered text, no labels",
    "bare tokenizers": "ready-rendered text, no labels",
}


class Figures:
    """Medians over the rounds, and ratios with their spread."""

    def __init__(self, results: dict[str, Any]) -> None:
        runs = results["runs"]
        self._runs = {name: [told for told in reports if "error" not in told] for name, reports in runs.items()}

    @property
    def names(self) -> list[str]:
        """The runs' names."""
        return list(self._runs)

    def digests(self, name: str) -> set[str]:
        """Return the digests of the rows that a run made over the rounds: one, unless the rows change."""
        return {told["digest"] for told in self._runs[name] if "digest" in told}

    def has(self, *names: str) -> bool:
        """Whether each of these runs gave a report."""
        return all(self._runs.get(name) for name in names)

    def median(self, name: str, read: Callable[[Any], float]) -> float:
        """Return the median over the rounds."""
        return statistics.median(read(told) for told in self._runs[name])

    def ratio(self, above: str, below: str, read: Callable[[Any], float]) -> str:
        """Return the ratio of the medians, and where there are rounds the least and the greatest of one round."""
        ratio = self.median(above, read) / self.median(below, read)
        pairs = [read(one) / read(two) for one, two in zip(self._runs[above], self._runs[below], strict=False)]
        return _show(ratio) if len(pairs) < 2 else f"{_show(ratio)} ({_show(min(pairs))} to {_show(max(pairs))})"

    def first(self, name: str) -> Any:
        """Return the first report."""
        return self._runs[name][0]


def write_page(results: dict[str, Any]) -> str:
    """Return all tables."""
    figures = Figures(results)
    machine, rounds = results["machine"], max(map(len, results["runs"].values()))
    head = f"{results['rows']:,} conversations"
    if figures.has(SLOW):
        told = figures.first(SLOW)
        head += f", {told['tokens'] / 1e6:.2f} million tokens, {told['tokens'] / told['rows']:.0f} in the mean"
    head += f"; medians of {rounds} rounds; CPU seconds of one core of a {machine['processor']}, {machine['cores']} "
    head += f"cores, {machine['system']}, Python {machine['python']}.\n"
    parts = [head, _write_targets(results, figures), _write_costs(results, figures), _write_equality(results)]
    if results.get("workloads"):
        parts.insert(2, "![CPU milliseconds a row of each workload](performance.svg)\n")
        parts.insert(3, report.write_table(results["workloads"]))
    if figures.has("labels ours", "labels Unsloth"):
        same = figures.digests("labels ours") == figures.digests("labels Unsloth")
        parts.append(f"Ids to labels alone: the labels of both are {'equal' if same else 'NOT EQUAL'} on all rows.\n")
    parts += [
        f"{name} gave other rows in another round.\n" for name in figures.names if len(figures.digests(name)) > 1
    ]
    parts += [_write_steps(figures), _write_versions(figures)]
    parts += [f"Failed: {name}: {said.strip()[-300:]}\n" for name, said in results["failed"].items()]
    for name, reports in {**results["runs"], "collate": results["collate"]}.items():
        parts += [f"Failed: {name}: {told['error'][-300:]}\n" for told in reports if "error" in told][:1]
    return "\n".join(part for part in parts if part)


def replace_block(page: str, text: str) -> str:
    """Return the page with the tables between its two marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"docs/performance.md must hold the two lines {BEGIN.strip()!r} and {END.strip()!r}.")
    return f"{before}{begin}\n{text}\n{end}{after}"


def _write_targets(results: dict[str, Any], figures: Figures) -> str:
    lines = []
    for what, against, above, below, bound, more in TARGETS:
        if figures.has(above, below):
            lines.append((what, against, _bound(bound, more), figures.ratio(above, below, _cpu)))
        else:
            lines.append((what, against, _bound(bound, more), "not measured"))
    lines += _collate_lines(results["collate"])
    if figures.has("cold TRL", "cold ours"):
        what = f"cold start: import, load, encode {figures.first('cold ours')['rows']:,} rows"
        read = _process_cpu
        lines.append((what, "TRL doing the same", _bound(2.6, True), figures.ratio("cold TRL", "cold ours", read)))
    for kind, engine in (("", "fast engine"), (" auto", "engine='auto'"), (" cached", "default engine")):
        small, large = f"stream{kind} small", f"stream{kind} large"
        if figures.has(small, large):
            rows = f"{figures.first(large)['rows']:,} rows over {figures.first(small)['rows']:,}"
            ratio = figures.ratio(large, small, lambda told: told["peak"])
            lines.append((f"peak memory of encoding {rows}, {engine}", "itself", "under 1.3 times", ratio))
    if figures.has("stream", "stream large"):
        rows = f"{figures.first('stream large')['rows']:,} rows over {figures.first('stream')['rows']:,}"
        ratio = figures.ratio("stream large", "stream", lambda told: told["cpu"] / told["rows"])
        lines.append((f"CPU per row, {rows}", "itself", "within 10 percent", ratio))
    if figures.has("startup"):
        for name in ("prepare", "diagnose"):
            ratio = figures.median("startup", lambda told, name=name: told[name] / told["loading"])
            lines.append((f"time of `{name}(tokenizer)`", "loading the tokenizer", "under 0.25", _show(ratio)))
    return _table(("what", "against", "to reach", "reached (least to greatest of a round)"), lines)


def _collate_lines(rounds: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return a line a batch size, with the median ratio for each form that the rows may come in."""
    lines = []
    for size, bound in (("8", 15), ("64", 25)):
        told = [table for one in rounds for title, table in one.items() if title.startswith(f"collate {size} rows")]
        forms = list(told[0]) if told else []
        ratios = {form: statistics.median(table[form]["ratio"] for table in told) for form in forms}
        reached = ", ".join(f"{form}: {_show(ratio)}" for form, ratio in ratios.items()) or "not measured"
        lines.append((f"collate {size} rows", "TRL's collator on lists", _bound(bound, True), reached))
    told = [table for one in rounds for title, table in one.items() if title.startswith("load batches of 64 rows")]
    ratios = {form: statistics.median(table[form]["ratio"] for table in told) for form in (told[0] if told else ())}
    reached = ", ".join(f"{form}: {_show(value)}" for form, value in ratios.items()) or "not measured"
    lines.append(("a `DataLoader`, 64 rows", "TRL's collator on its dataset", _bound(5, True), reached))
    return lines


def _write_costs(results: dict[str, Any], figures: Figures) -> str:
    names = [name for name in results["runs"] if figures.has(name) and name in NOTES]
    best = min((figures.median(name, _cpu) for name in names), default=0.0)
    lines = []
    for name in sorted(names, key=lambda name: figures.median(name, _cpu)):
        cpu = figures.median(name, _cpu)
        cells = [f"{figures.median(name, lambda told, key=key: told[key]):.2f}" for key in ("wall", "process_cpu")]
        memory = f"{figures.median(name, lambda told: told['peak']) / 1e6:,.0f} MB"
        written = f"{figures.median(name, lambda told: told['written']) / 1e6:,.0f} MB"
        lines.append((name, NOTES[name], f"{cpu:.2f}", f"{cpu / best:.1f}", *cells, memory, written))
    head = ("run", "", "CPU s", "times the least", "wall s", "CPU s of the process", "peak memory", "written")
    return _table(head, lines)


def _write_equality(results: dict[str, Any]) -> str:
    lines = []
    for name, told in results.get("compared", {}).items():
        if name == SLOW:
            continue
        ids, labels = told.get("ids_equal", "other rows"), told.get("labels_equal", "makes none")
        habits = []
        if told.get("end_of_text_behind"):
            habits.append(f"an `<|end_of_text|>` behind {told['end_of_text_behind']:,} rows")
        if told.get("headers_trained"):
            habits.append(f"the assistant's header is trained in {told['headers_trained']:,} rows")
        if habits:
            habits.append(
                f"equal without that: ids {told['ids_equal_without']:,}, labels {told['labels_equal_without']:,}"
            )
        lines.append((name, f"{told['rows']:,}", _count(ids), _count(labels), "; ".join(habits)))
    return _table(("rows of", "rows", "ids equal to ours", "ids and labels equal", "what sets them apart"), lines)


def _write_steps(figures: Figures) -> str:
    """Return where our own time goes: the median of each step, and its share of the table that it belongs to."""
    if not figures.has("steps"):
        return ""
    lines: list[tuple[str, ...]] = []
    for table, steps in figures.first("steps")["steps"].items():
        taken = {
            step: figures.median("steps", lambda told, table=table, step=step: told["steps"][table].get(step, 0.0))
            for step in steps
        }
        whole = sum(seconds for step, seconds in taken.items() if not step.startswith("("))
        for step, seconds in sorted(taken.items(), key=lambda item: -item[1]):
            share = "" if step.startswith("(") else f"{seconds / whole:.0%}"
            lines.append((table, step, f"{1000 * seconds:,.0f}", share))
    return _table(("where our time goes", "step", "CPU ms", "share"), lines)


def _write_versions(figures: Figures) -> str:
    lines = []
    for name in (FAST, "Unsloth", "LLaMA-Factory", "torchtune", "Axolotl"):
        if figures.has(name):
            versions = figures.first(name)["versions"]
            lines.append((name, ", ".join(f"{package} {version}" for package, version in versions.items())))
    return _table(("environment of", "packages"), lines)


def _table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    if not lines:
        return ""
    rows = [head, ("---",) * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _bound(bound: float, more: bool) -> str:
    if not more:
        return f"within {bound:g} times"
    return f"{bound:g} times less" if bound != 1 else "no slower"


def _show(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.1f}" if ratio >= 3 else f"{ratio:.2f}"


def _count(value: int | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _cpu(told: Any) -> float:
    return float(told["cpu"])


def _process_cpu(told: Any) -> float:
    return float(told["process_cpu"])
