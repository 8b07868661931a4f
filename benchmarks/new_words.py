"""What the default engine costs beside `tokenizers`, by the kind of text: `python benchmarks/new_words.py [options]`.

Text whose words are all new gains nothing from a cache of words, so that it must cost no more than `tokenizers` does;
usual text must cost less. Prints for each family, text and size the CPU seconds of `tokenizers` and the ratios of the
engines, medians of the rounds; each engine in turn in a fork of its own, so that none finds what another one cached.
With `--even` it prints from how many characters on the cache pays. Exits 1 where ids differ.
"""
# ruff: noqa: E402  # without an extra

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update(TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "matrix")]
sys.modules["fastokens"] = None  # type: ignore[assignment]  # what is there without an extra

import engines
import families
import numpy
import pyarrow  # noqa: F401  # its import is no cost of an engine
import shapes

from llama_padfix.tokens.engine import CACHE_FROM, CACHE_FROM_WITHOUT_PATTERN, choose_engine

_HAN = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))
_THAI = "กขคงจชดตทนบปพมยรลวสหาิีุเแโ"
_EMOJI = "".join(map(chr, [*range(0x1F300, 0x1F5FF), *range(0x1F600, 0x1F64F), *range(0x1F680, 0x1F6C5)]))
_CALL = 1000  # texts in one call


def _draw(draw: random.Random, letters: str, least: int, most: int) -> str:
    return "".join(draw.choices(letters, k=draw.randint(least, most)))


# One text of about 1,000 characters.
NEW: dict[str, Callable[[random.Random], str]] = {
    "base64": lambda draw: base64.b64encode(draw.randbytes(750)).decode(),
    "distinct words": lambda draw: " ".join(_draw(draw, "abcdefghijklmnopqrstuvwxyz", 4, 12) for _ in range(110)),
    "CJK": lambda draw: "".join(_draw(draw, _HAN, 5, 20) + draw.choice("，。") for _ in range(70)),
    "Thai": lambda draw: " ".join(_draw(draw, _THAI, 10, 40) for _ in range(40)),
    "emoji": lambda draw: _draw(draw, _EMOJI, 900, 1100),
}
USUAL = ("code", "English and code", "languages")


def write_texts(kind: str, seed: int) -> Iterator[str]:
    """Yield texts of a kind without end."""
    draw = random.Random(f"{kind}:{seed}")
    if kind in NEW:
        while True:
            yield NEW[kind](draw)
    if kind == "code":
        library = engines.read_library()
        while True:
            start = draw.randrange(len(library) - 2000)
            yield library[start : start + 2000]
    shape = "plain" if kind == "English and code" else "many_languages"
    rows = [*shapes.make_rows(shape, 4000)]
    while True:
        yield from (str(message["content"]) for message in draw.choice(rows)["messages"])


def take(kind: str, seed: int, characters: int) -> list[str]:
    """Return texts of a kind of so many characters together."""
    texts, size = [], 0
    for text in write_texts(kind, seed):
        texts.append(text)
        size += len(text)
        if size >= characters:
            return texts
    raise AssertionError("the texts have an end")


def measure(work: Callable[[], Any]) -> tuple[float, Any]:
    """Do some work in a fork; return its CPU seconds and what it returned."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            start = time.process_time()
            made = work()
            with os.fdopen(write, "w") as out:
                json.dump([time.process_time() - start, made], out)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        spent, made = json.load(told)
    os.waitpid(child, 0)
    return spent, made


def encode(tokenizer: Any, choice: str, texts: list[str], loaded: Any = None) -> tuple[str, int]:
    """Encode texts as the encoder of chats does: all characters are known, and come in several calls."""
    engine = loaded or choose_engine(tokenizer, choice, characters=sum(map(len, texts)))  # type: ignore[arg-type]
    found = [engine.encode(texts[start : start + _CALL]) for start in range(0, len(texts), _CALL)]
    ids = numpy.concatenate([ids for ids, _ in found])
    return engine.name, int((ids * numpy.arange(1, len(ids) + 1, dtype=numpy.int64)).sum() % (1 << 52))


def compare(tokenizer: Any, kind: str, size: int, rounds: int) -> bool:
    """Print the ratios of the engines for one text; tell whether the ids were equal."""
    spent: dict[str, list[float]] = {}
    names, same = {}, True
    for seed in range(rounds):
        texts, sums = take(kind, seed, size), set()
        loaded = choose_engine(tokenizer, "cached")  # by choice, so that its making is no part of the text's cost
        works = {
            "tokenizers": lambda texts=texts: encode(tokenizer, "tokenizers", texts),  # type: ignore[misc]
            "auto": lambda texts=texts: encode(tokenizer, "auto", texts),  # type: ignore[misc]
            "cached": lambda texts=texts, loaded=loaded: encode(tokenizer, "cached", texts, loaded),  # type: ignore[misc]
        }
        order = [*works]
        for choice in order[seed % 3 :] + order[: seed % 3]:
            seconds, (names[choice], checksum) = measure(works[choice])
            spent.setdefault(choice, []).append(seconds)
            sums.add(checksum)
        same = same and len(sums) == 1
    bare = spent["tokenizers"]
    ratios = [
        f"{choice} {statistics.median(a / b for a, b in zip(spent[choice], bare, strict=True)):.2f} ({names[choice]})"
        for choice in ("auto", "cached")
    ]
    print(
        f"{kind:17} {size:10,} characters: tokenizers {statistics.median(bare):.3f} s;", "; ".join(ratios), flush=True
    )
    return same


def find_even(tokenizer: Any, kind: str, size: int, rounds: int) -> None:
    """Print from how many characters of a text on the cache costs less than it saves."""
    made, evens = [], []
    for seed in range(rounds):
        texts = take(kind, seed, size)
        making = measure(lambda: choose_engine(tokenizer, "cached").name)[0]
        made.append(making)
        loaded = choose_engine(tokenizer, "cached")
        # The cache fills: what it saves is found by halving.
        least, most = 0, len(texts)
        while most - least > max(len(texts) // 64, 1):
            middle = (least + most) // 2
            part = texts[:middle]
            bare = measure(lambda part=part: encode(tokenizer, "tokenizers", part))[0]  # type: ignore[misc]
            ours = measure(lambda part=part: encode(tokenizer, "cached", part, loaded))[0]  # type: ignore[misc]  # noqa: B023
            least, most = (least, middle) if making + ours < bare else (middle, most)
        evens.append(sum(map(len, texts[:most])))
    even = statistics.median(evens)
    told = f"over {size / 1e6:.1f}" if even > 0.98 * size else f"{even / 1e6:.2f}"
    print(f"{kind:17} making {statistics.median(made):.3f} s; pays from {told} million characters on", flush=True)


def main() -> int:
    """Run it; 1 when ids differ."""
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", nargs="+", default=["llama3_1", "gemma3"])
    parser.add_argument("--texts", nargs="+", default=[*NEW, *USUAL])
    parser.add_argument("--sizes", nargs="+", type=int, default=[600_000, 3_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--even", action="store_true", help="print from which size on the cache pays")
    options = parser.parse_args()
    same = True
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for family in options.families:
            tokenizer = AutoTokenizer.from_pretrained(families.save_tokenizer(family))
            choose_engine(tokenizer, "cached")  # keeps the verdict
            print(
                f"{family} (auto takes the cache from {CACHE_FROM:,} characters on, without a pattern from "
                f"{CACHE_FROM_WITHOUT_PATTERN:,})"
            )
            for kind in options.texts:
                if options.even:
                    find_even(tokenizer, kind, max(options.sizes), options.rounds)
                    continue
                for size in options.sizes:
                    same = compare(tokenizer, kind, size, options.rounds) and same
    print("ids equal:", same)
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
