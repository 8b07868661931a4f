"""Rows of generated templates through the encoder, each compared token by token: `make conformance`."""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llama_padfix import ChatEncoder, PadfixError
from tests.conformance.grammar.compose import Composed, compose
from tests.conformance.grammar.options import CONTROLS, DIMENSIONS, PLAIN, SOFT, normalize
from tests.conformance.grammar.parts import Message, Piece, Recipe
from tests.conformance.grammar.rows import make_conversation, make_recipe, simpler, takes
from tests.support.byte_tokenizer import MERGES, make_byte_tokenizer

ROWS_OF_A_TEMPLATE = 12
CRASH = "Crash: "
EITHER = -1
"""The label of a token that may be trained or not."""


@dataclass(frozen=True)
class Verdict:
    """What became of a row.

    exact, wrong, refused (an error, or dropped), untrained (nothing of it is trained), or crashed (an exception that
    is no PadfixError).
    """

    kind: str
    got: str = ""
    want: str = ""

    @property
    def sign(self) -> tuple[str, ...]:
        """What a smaller case must share: the kind, and the reason of a refusal or the first difference."""
        if self.kind == "crashed":
            return self.kind, self.got
        if self.kind in ("exact", "refused"):
            return self.kind, self.got.partition("cannot be proven: ")[2].partition(".")[0]
        got, want = mark(self.got), mark(self.want)
        first = next((at for at, (one, two) in enumerate(zip(got, want, strict=False)) if one != two), -1)
        char, trained = got[first] if got and first >= 0 else ("", False)
        return self.kind, str(trained), "space" if char.isspace() else "control" if char in "<>" else "text"


@functools.cache
def tokenizer_of(eos: str | None, vocabulary: str) -> Any:
    """Return a tokenizer with the control tokens of all templates; without an `eos` it has none of them."""
    if eos is None:
        return make_byte_tokenizer((), "<none>", merges=MERGES if vocabulary == "merges" else ())
    return make_byte_tokenizer(
        CONTROLS,
        eos,
        bos="<B>",
        soft=SOFT if vocabulary == "thought tokens" else (),
        merges=MERGES if vocabulary == "merges" else (),
    )


def tokenizer_for(composed: Composed) -> Any:
    tokenizer = tokenizer_of(composed.eos, composed.recipe["vocabulary"])
    tokenizer.chat_template = composed.source
    return tokenizer


def label(tokenizer: Any, pieces: Sequence[Piece]) -> tuple[list[int], list[int]]:
    """Return the ids of a text, and the labels of its made pieces; a token over an edge, and the first, have none."""
    ids: list[int] = []
    labels: list[int] = []
    encode = functools.partial(encode_plain, "merges" if "Yes" in tokenizer.get_vocab() else "bytes")
    for control, run in itertools.groupby(split_controls(tokenizer, pieces), lambda one: one[0]):
        for stretch in [[one] for one in run] if control else [[*run]]:
            text = "".join(piece.text for _, piece in stretch)
            made = [piece.made for _, piece in stretch for _ in piece.text]
            tokens, offsets = ([tokenizer.convert_tokens_to_ids(text)], [(0, len(text))]) if control else encode(text)
            ids += tokens
            labels += [
                token if start < end and all(made[start:end]) else EITHER if is_free(made[start:end]) else -100
                for token, (start, end) in zip(tokens, offsets, strict=True)
            ]
    return ids, [-100, *labels[1:]]


@functools.lru_cache(maxsize=10_000)
def encode_plain(vocabulary: str, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the ids of a text that spells no control token, and their places."""
    encoded = tokenizer_of(None, vocabulary).backend_tokenizer.encode(text, add_special_tokens=False)
    return encoded.ids, encoded.offsets


def is_free(made: Sequence[bool | None]) -> bool:
    return None in made and False not in made


def settle(made: tuple[list[int], list[int]], want: tuple[list[int], list[int]]) -> tuple[list[int], list[int]]:
    """Return what is wanted, with the made labels where both readings are right."""
    if len(made[0]) != len(want[0]):
        return want
    labels = zip(made[1], *want, strict=True)
    return want[0], [
        one if other == EITHER and one in (-100, token) else -100 if other == EITHER else other
        for one, token, other in labels
    ]


def split_controls(tokenizer: Any, pieces: Sequence[Piece]) -> Iterator[tuple[bool, Piece]]:
    """Yield the pieces with the tokens apart that are no ordinary text; docs/labels.md says what messages can spell.

    The template's control tokens, thought tokens that the assistant says, and thought tokens of which the template's
    source knows nothing.
    """
    soft = [token for token in SOFT if token in tokenizer.get_added_vocab()]
    unknown = [token for token in soft if token not in tokenizer.chat_template]
    for piece in pieces:
        known = soft if piece.said == "assistant" else unknown if piece.said else [*CONTROLS, *soft]
        for text in _pattern(tuple(known)).split(piece.text) if known else [piece.text]:
            if text:
                yield text in known, piece._replace(text=text)


@functools.cache
def _pattern(tokens: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"({'|'.join(map(re.escape, tokens))})")


def show(tokenizer: Any, ids: Sequence[int], labels: Sequence[int]) -> str:
    """Return the text of a row, with its trained stretches in guillemets."""
    runs: list[tuple[bool, list[int]]] = []
    for token, one in zip(ids, labels, strict=True):
        if not runs or runs[-1][0] != (one != -100):
            runs.append((one != -100, []))
        runs[-1][1].append(token)
    return "".join(f"«{tokenizer.decode(run)}»" if made else tokenizer.decode(run) for made, run in runs)


def mark(shown: str) -> list[tuple[str, bool]]:
    """Return each character of a shown row with whether it is trained."""
    inside, found = False, []
    for char in shown:
        if char in "«»":
            inside = char == "«"
        else:
            found.append((char, inside))
    return found


def judge(composed: Composed, rows: Sequence[list[Message]]) -> list[Verdict]:
    """Encode rows of one template together, and compare each; those of a batch that drops some are encoded alone."""
    tokenizer = tokenizer_for(composed)
    expected = []
    for messages in rows:
        pieces = composed.write(messages)
        text = "".join(piece.text for piece in pieces)
        rendered = tokenizer.apply_chat_template(messages, tools=composed.tools, tokenize=False)
        assert rendered == text, (
            f"the oracle writes another text\n{composed.source}\n{messages}\n{rendered!r}\n{text!r}"
        )
        expected.append(label(tokenizer, pieces))
    encoder = ChatEncoder(tokenizer, on_error="drop")
    made: list[tuple[list[int], list[int]] | str]
    try:
        columns, counts = encoder.encode_rows([{"messages": messages, "tools": composed.tools} for messages in rows])
        kept = counts.kept
    except Exception:  # one that is no PadfixError: each row alone shows it
        kept = 0
    if kept == len(rows):
        made = [*zip(columns["input_ids"], columns["labels"], strict=True)]
    else:
        made = [encode_alone(tokenizer, {"messages": one, "tools": composed.tools}) for one in rows]
    return [verdict(tokenizer, one, want) for one, want in zip(made, expected, strict=True)]


def encode_alone(tokenizer: Any, given: Message) -> tuple[list[int], list[int]] | str:
    try:
        row = ChatEncoder(tokenizer)(given)
    except PadfixError as error:
        return str(error)
    except Exception as error:
        return f"{CRASH}{type(error).__name__}: {error}"
    return row["input_ids"], row["labels"]


def verdict(tokenizer: Any, made: tuple[list[int], list[int]] | str, want: tuple[list[int], list[int]]) -> Verdict:
    want = want if isinstance(made, str) else settle(made, want)
    shown = show(tokenizer, *want)
    empty = all(one == -100 for one in want[1])
    if isinstance(made, str):
        if made.startswith(CRASH):
            return Verdict("crashed", made, shown)
        if empty:
            return Verdict("exact")
        return Verdict("untrained" if "leaves nothing to train on" in made else "refused", made, shown)
    if made == want:
        return Verdict("exact")
    kind = "untrained" if all(one == -100 for one in made[1]) else "wrong"
    return Verdict(kind, show(tokenizer, *made), shown)


# Smallest cases


def shrink(
    recipe: Recipe, messages: list[Message], sign: tuple[str, ...], others: Sequence[tuple[str, str]] = ()
) -> tuple[Recipe, list[Message]]:
    """Return a plainer recipe and a smaller conversation whose verdict has the same sign.

    `others` are options to try that are not plain.
    """
    asked = starts_with_question(messages)

    def fails(recipe: Recipe, messages: list[Message]) -> bool:
        if not takes(recipe, messages) or asked > starts_with_question(messages):
            return False
        return judge(compose(recipe), [messages])[0].sign == sign

    changed = True
    while changed:
        changed = False
        for name, option in [*PLAIN.items(), *others]:
            plainer = normalize(recipe | {name: option})
            if simplicity(plainer) < simplicity(recipe) and fails(plainer, messages):
                recipe, changed = plainer, True
        for smaller in simpler(messages):
            if weigh(smaller) < weigh(messages) and fails(recipe, smaller):
                messages, changed = smaller, True
                break
    return recipe, messages


def starts_with_question(messages: Sequence[Message]) -> bool:
    return next((message["role"] for message in messages if message["role"] != "system"), "") == "user"


def weigh(messages: Sequence[Message]) -> tuple[int, int]:
    return len(messages), sum(len(str(message)) for message in messages)


def options_of(recipe: Recipe) -> frozenset[str]:
    """Return the options of a recipe that are not plain."""
    return frozenset(f"{name}: {option}" for name, option in recipe.items() if option != PLAIN[name])


def simplicity(recipe: Recipe) -> tuple[int, int]:
    """Return what a plainer recipe has less of: options that are not plain, and then their places in the lists."""
    return len(options_of(recipe)), sum(DIMENSIONS[name].index(option) for name, option in recipe.items())


def make_rows(seed: int, rows: int) -> Iterator[tuple[Composed, list[list[Message]]]]:
    """Yield templates, each with its conversations, the same for the same seed."""
    made = 0
    for number in range(seed * 1_000_000, (seed + 1) * 1_000_000):
        rng = random.Random(number)
        composed = compose(make_recipe(rng))
        count = min(ROWS_OF_A_TEMPLATE, rows - made)
        yield composed, [make_conversation(rng, composed.recipe) for _ in range(count)]
        made += count
        if made >= rows:
            return


# The report

SIMPLER = (("calls", "json"), ("results", "inside the turn"), ("stop", "<E>"))


@dataclass(frozen=True)
class Failure:
    """The smallest known case of a kind of failure: what is not plain in the recipe names the kind."""

    verdict: Verdict
    recipe: Recipe
    messages: tuple[Message, ...]
    count: int = 1

    @property
    def name(self) -> str:
        return f"{self.verdict.kind} / {', '.join(sorted(options_of(self.recipe))) or 'plain'}"


def explain(failure: Failure) -> str:
    composed = compose(failure.recipe)
    return "\n".join(
        [
            f"{failure.name} ({failure.count} rows)",
            f"  template  {composed.source!r}",
            f"  eos       {composed.eos}",
            f"  messages  {list(failure.messages)}",
            f"  got       {failure.verdict.got!r}",
            f"  want      {failure.verdict.want!r}",
        ]
    )


@dataclass
class Report:
    """Counts of verdicts, in all and for each option, and the smallest case of each kind."""

    counts: collections.Counter[str]
    options: dict[str, collections.Counter[str]]
    failures: dict[str, Failure]


def run(rows: int, seed: int = 0, shrinks: int = 400) -> Report:
    """Encode rows and return what became of them; at most `shrinks` of the failing ones are shrunk to name a kind."""
    report = Report(collections.Counter(), collections.defaultdict(collections.Counter), {})
    for composed, conversations in make_rows(seed, rows):
        seen: set[tuple[str, ...]] = set()
        for messages, one in zip(conversations, judge(composed, conversations), strict=True):
            report.counts[one.kind] += 1
            for option in options_of(composed.recipe):
                report.options[option][one.kind] += 1
            if one.kind == "exact":
                continue
            if shrinks and one.sign not in seen:
                seen.add(one.sign)
                shrinks -= 1
                add(report, *shrink(composed.recipe, messages, one.sign, SIMPLER))
            elif (known := find_known(report, composed.recipe, one)) is not None:
                report.failures[known] = replace(report.failures[known], count=report.failures[known].count + 1)
    return report


def find_known(report: Report, recipe: Recipe, one: Verdict) -> str | None:
    """Return the known kind of failure with the most options that a recipe has all of."""
    options = options_of(recipe)
    fitting = [
        (len(options_of(failure.recipe)), name)
        for name, failure in report.failures.items()
        if failure.verdict.sign == one.sign and options_of(failure.recipe) <= options
    ]
    return max(fitting)[1] if fitting else None


def add(report: Report, recipe: Recipe, messages: list[Message]) -> None:
    failure = Failure(judge(compose(recipe), [messages])[0], recipe, tuple(messages))
    known = report.failures.get(failure.name)
    if known is None:
        report.failures[failure.name] = failure
    else:
        smaller = min(known, failure, key=lambda one: weigh(one.messages))
        report.failures[failure.name] = replace(smaller, count=known.count + 1)


KINDS = ("exact", "wrong", "refused", "untrained", "crashed")


def print_report(rows: int, seed: int) -> None:
    began = time.process_time()
    report = run(rows, seed)
    failures = sorted(report.failures.values(), key=lambda one: (-one.count, one.name))
    lines = [explain(failure) + "\n" for failure in failures]
    width = max(map(len, report.options))
    lines.append(f"{'':{width}}" + "".join(f"{kind:>11}" for kind in KINDS))
    for option, counts in [*sorted(report.options.items()), ("all rows", report.counts)]:
        lines.append(f"{option:{width}}" + "".join(f"{counts[kind]:>11,}" for kind in KINDS))
    lines.append(f"{time.process_time() - began:.0f} CPU seconds, seed {seed}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print_report(given.rows, given.seed)
