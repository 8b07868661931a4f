"""Conversations of realistic lengths, made from text that every machine has: Python's standard library.

    python benchmarks/throughput/data.py ROWS FILE

Writes an Arrow stream that `datasets.Dataset.from_file` maps into memory, with one column `messages`. The same Python
gives the same bytes, and row N is the same however many rows are asked for. 1 to 5 turns, a system message in 40 of
100, log-normal lengths with a mean of about 640 tokens of Llama 3.1; no message begins or ends with white space.
"""

from __future__ import annotations

import argparse
import ast
import bisect
import functools
import itertools
import pydoc_data.topics
import random
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEED = 6
SIGMA = 0.8  # of the logarithm of a conversation's length
MEAN_CHARACTERS = 2630  # 640 tokens, of which the template writes about 25
TURNS = (1, 2, 3, 4, 5)
TURN_WEIGHTS = (40, 25, 15, 12, 8)
SYSTEM_SHARE = 0.4
CODE_SHARE = 0.45  # of the answers
_BATCH_ROWS = 1000
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "pydoc_data", "encodings"}


class Pool:
    """Text from which excerpts are cut: they begin at the start of a line and end with a whole word."""

    def __init__(self, texts: list[str]) -> None:
        self.text = "\n\n".join(texts)
        lengths = (len(line) for line in self.text.splitlines(keepends=True))
        self._lines = [0, *itertools.accumulate(lengths)][:-1]

    def cut(self, draw: random.Random, characters: int) -> str:
        """Return about as many characters from a random place, without white space at the ends."""
        while True:
            place = draw.randrange(max(1, len(self.text) - characters))
            start = self._lines[bisect.bisect_left(self._lines, place) - 1 if place else 0]
            end = start + max(characters, 8)
            while end < len(self.text) and not self.text[end].isspace():
                end += 1
            found = self.text[start:end].strip()
            if found:
                return found


@functools.cache
def read_library() -> tuple[Pool, Pool]:
    """Return the standard library's prose (its documentation and docstrings) and its source code."""
    folder = Path(sysconfig.get_path("stdlib"))
    prose = [text.strip() for _, text in sorted(pydoc_data.topics.topics.items())]
    code = []
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        if _SKIPPED & set(path.relative_to(folder).parts):
            continue
        try:
            source = path.read_text(encoding="utf-8")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old escapes in old sources
                tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue
        code.append(source)
        nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, nodes))
        prose.extend(text.strip() for text in found if text and len(text) > 40)
    return Pool(prose), Pool(code)


def make_rows(rows: int, seed: int = SEED) -> Iterator[dict[str, Any]]:
    """Yield `{"messages": [...]}`; row N depends on the seed and N alone."""
    prose, code = read_library()
    mu = -SIGMA * SIGMA / 2  # so that the mean of the factor is 1
    for number in range(rows):
        draw = random.Random(f"{seed}:{number}")
        turns = draw.choices(TURNS, TURN_WEIGHTS)[0]
        length = MEAN_CHARACTERS * draw.lognormvariate(mu, SIGMA)
        messages = []
        if draw.random() < SYSTEM_SHARE:
            messages.append({"role": "system", "content": prose.cut(draw, draw.randint(40, 300))})
        weights = [draw.random() + 0.1 if place % 2 == 0 else 2 * (draw.random() + 0.2) for place in range(2 * turns)]
        for place, weight in enumerate(weights):
            characters = int(length * weight / sum(weights))
            role = "user" if place % 2 == 0 else "assistant"
            messages.append({"role": role, "content": _write_message(draw, prose, code, role, characters)})
        yield {"messages": messages}


def _write_message(draw: random.Random, prose: Pool, code: Pool, role: str, characters: int) -> str:
    if role == "user" or characters < 100 or draw.random() >= CODE_SHARE:
        return prose.cut(draw, characters)
    said = draw.randint(20, characters // 2)
    return f"{prose.cut(draw, said)}\n\n```python\n{code.cut(draw, characters - said)}\n```"


def write_rows(rows: int, file: Path) -> None:
    """Write an Arrow stream, whole or not at all."""
    import pyarrow

    message = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    schema = pyarrow.schema([("messages", pyarrow.list_(message))])
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    made = make_rows(rows)
    with pyarrow.OSFile(str(unfinished), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        while batch := list(itertools.islice(made, _BATCH_ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))
    unfinished.replace(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", type=int)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    write_rows(options.rows, options.file)
