"""Training after `diagnose(trainer)` reads what it would have read without it, wherever state lies."""

from __future__ import annotations

import array
import itertools
import json
import multiprocessing
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from transformers import Trainer, TrainingArguments

from llama_padfix import PadCollator, diagnose
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.doctor.observe.snapshot import remember_state
from tests.support import runs
from tests.support.versions import make_arguments

ROWS = [{"input_ids": [128000, n, n + 1], "labels": [-100, n, n + 1]} for n in range(100, 140)]
Row = dict[str, list[int]]


class Rows(torch.utils.data.Dataset):
    """Rows that state of one kind decides, whatever place is asked for."""

    def __init__(self, state: Any = None, take: Callable[[Any], int] = lambda state: 0) -> None:
        self.state, self.take = state, take

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, place: int) -> Row:
        return ROWS[self.take(self.state) % len(ROWS)]


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, state: Any = None, take: Callable[[Any], Any] = iter) -> None:
        self.state, self.take = state, take

    def __iter__(self) -> Iterator[Row]:
        yield from self.take(self.state)


def make_trainer(out: Path, data: Any, kind: type[Trainer] = Trainer, collator: Any = None) -> Any:
    model = make_tiny_llama("3.1-instruct", hidden_size=16, num_hidden_layers=1)
    arguments = make_arguments(TrainingArguments, str(out), **runs.QUICK)
    return kind(model=model, args=arguments, train_dataset=data, data_collator=collator or PadCollator(128001))


def read_on(trainer: Any, look: bool, seen: Callable[[Any], bool] = bool) -> list[Any]:
    """Return the ids of the first batches that training reads; the state of `seen` is what diagnose must find."""
    torch.manual_seed(0)
    if look:
        [sample] = diagnose(trainer).samples
        assert seen(sample.seen), sample
    return [batch["input_ids"].tolist() for batch in itertools.islice(trainer.get_train_dataloader(), 4)]


def added(state: Any, place: int = 0) -> int:
    state[place] += 1
    return int(state[place])


def turned(state: Any) -> int:
    state.append(state.popleft())
    return int(state[0])


def popped(state: Any) -> int:
    return int(state.pop())


def last_to_front(state: Any) -> int:
    state.move_to_end(next(iter(state)))
    inner = state[next(iter(state))]
    return added(inner, "n")  # type: ignore[arg-type]


def counted(state: Any) -> int:
    state.value += 1
    return int(state.value)


class Slotted:
    __slots__ = ("__hidden", "late", "value")

    def __init__(self) -> None:
        self.value, self.__hidden = 0, 0

    def move(self) -> int:
        self.value += 1
        self.__hidden += 1
        self.late = getattr(self, "late", 0) + 1
        return self.value + self.__hidden + self.late


class Classwide:
    count = 0
    drawn: list[int] = []  # noqa: RUF012

    @classmethod
    def move(cls) -> int:
        cls.count += 1
        cls.drawn.append(cls.count)
        return len(cls.drawn)


calls = 0


def of_module(state: Any) -> int:
    global calls
    calls += 1
    return calls


def enclosed() -> Callable[[Any], int]:
    count = 0

    def take(state: Any) -> int:
        nonlocal count
        count += 1
        return count

    return take


def with_attribute() -> Callable[[Any], int]:
    def take(state: Any) -> int:
        take.calls += 1  # type: ignore[attr-defined]
        return int(take.calls)  # type: ignore[attr-defined]

    take.calls = 0  # type: ignore[attr-defined]
    return take


def line_of(file: Any) -> int:
    return int(json.loads(file.readline()))


STATES: dict[str, Callable[[Path], tuple[Any, Callable[[Any], int]]]] = {
    "list": lambda _: ([0], added),
    "set": lambda _: (set(range(2000)), popped),
    "deque": lambda _: (deque(range(40), maxlen=40), turned),
    "bytearray": lambda _: (bytearray(1), added),
    "array": lambda _: (array.array("q", [0]), added),
    "tensor": lambda _: (torch.zeros(3, dtype=torch.int64), added),
    "numpy array": lambda _: (numpy.zeros((3, 1), dtype=numpy.int64), lambda state: added(state[0])),
    "multiprocessing.Value": lambda _: (multiprocessing.Value("i", 0), counted),
    "multiprocessing.Array": lambda _: (multiprocessing.Array("i", 3), added),
    "OrderedDict of dicts": lambda _: (OrderedDict((n, {"n": n}) for n in range(5)), last_to_front),
    "a large dict": lambda _: ({n: n for n in range(500)}, lambda state: added(state, 7)),
    "a large dict of lists": lambda _: ({n: [n] for n in range(500)}, lambda state: added(state[499])),
    "slots": lambda _: (Slotted(), Slotted.move),
    "class attributes": lambda _: (Classwide, Classwide.move.__func__),  # type: ignore[attr-defined]
    "globals": lambda _: (None, of_module),
    "nonlocal": lambda _: (None, enclosed()),
    "attribute of a function": lambda _: (None, with_attribute()),
    "a generator in a large list": lambda _: (
        [random.Random(n) for n in range(300)],
        lambda state: state[299].randrange(40),
    ),
    "bit generator": lambda _: (
        numpy.random.PCG64(1),
        lambda state: int(numpy.random.Generator(state).integers(40)),
    ),
    "open file": lambda path: ((path / "n.jsonl").open(), line_of),
    "open binary file": lambda path: ((path / "n.jsonl").open("rb"), line_of),
}


@pytest.mark.parametrize("kind", STATES)
def test_the_state_of_a_dataset_is_put_back(kind: str, tmp_path: Path) -> None:
    (tmp_path / "n.jsonl").write_text("".join(f"{n}\n" for n in range(500)))

    def read(look: bool) -> list[Any]:
        global calls
        calls, Classwide.count, Classwide.drawn = 0, 0, []
        return read_on(make_trainer(tmp_path, Rows(*STATES[kind](tmp_path))), look)

    assert read(look=False) == read(look=True)


class OwnOrder(Trainer):  # type: ignore[misc]
    """A trainer that keeps what decides the order of its rows."""

    make: Callable[[], Any]
    move: Callable[[Any], list[int]]

    def _get_train_sampler(self, *args: Any) -> list[int]:
        if not hasattr(self, "order"):
            self.order = type(self).make()
        return type(self).move(self.order)


class EpochSampler(torch.utils.data.Sampler[int]):
    def __init__(self) -> None:
        self.epoch = 0

    def __len__(self) -> int:
        return 40

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter([(n * 7 + self.epoch) % 40 for n in range(40)])


def shuffled(state: Any) -> list[int]:
    order = list(range(40))
    state.shuffle(order)
    return order


def sampler(state: Any) -> Any:
    return state


def permuted(state: Any) -> list[int]:
    return [int(n) for n in torch.randperm(40, generator=state)]


def rolled(state: Any) -> list[int]:
    state.rotate(1)
    return list(state)


def shifted(state: Any) -> list[int]:
    state += 1
    return [int(n) % 40 for n in state]


ORDERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "random.Random": (lambda: random.Random(0), shuffled),
    "numpy generator": (lambda: numpy.random.default_rng(0), shuffled),
    "torch generator": (lambda: torch.Generator().manual_seed(0), permuted),
    "sampler with an epoch": (EpochSampler, sampler),
    "deque": (lambda: deque(range(40)), rolled),
    "tensor": (lambda: torch.arange(40), shifted),
    "array": (lambda: numpy.arange(40), shifted),
}


@pytest.mark.parametrize("kept", [True, False], ids=["made before", "made by the reading"])
@pytest.mark.parametrize("kind", ORDERS)
def test_what_a_trainer_keeps_of_its_own_is_put_back(kind: str, kept: bool, tmp_path: Path) -> None:
    make, move = ORDERS[kind]
    own = type("Own", (OwnOrder,), {"make": staticmethod(make), "move": staticmethod(move)})

    def read(look: bool) -> list[Any]:
        trainer = make_trainer(tmp_path, ROWS, own)
        if kept:
            trainer.order = make()
        return read_on(trainer, look)

    assert read(look=False) == read(look=True)


# ---- what can be read only once


once_global: Iterator[Row] = iter(())


def stream_of_global(state: Any) -> Iterator[Row]:
    return once_global


def stream_of_closure(rows: Iterator[Row]) -> Callable[[Any], Iterator[Row]]:
    return lambda state: rows


class Once(torch.utils.data.IterableDataset):
    """A stream that only its method knows."""

    def __iter__(self) -> Iterator[Row]:
        return once_global


def rows_once() -> Iterator[Row]:
    yield from ROWS


ONCE: dict[str, tuple[Callable[[], Any], str]] = {
    "a global behind a method": (Once, "generator"),
    "a global behind a function": (lambda: Stream(None, stream_of_global), "generator"),
    "a closure": (lambda: Stream(None, stream_of_closure(once_global)), "generator"),
    "a class made in a function": (
        lambda: type("Inner", (Stream,), {"__iter__": (lambda rows: lambda self: rows)(once_global)})(),
        "generator",
    ),
    "a bound method": (lambda: Stream(once_global.__next__, lambda pull: iter(pull, None)), "generator"),
    "a map-style dataset": (lambda: Rows(iter(range(500)), lambda state: next(state)), "range_iterator"),
    "a map-style dataset that counts": (lambda: Rows(itertools.count(), lambda state: next(state)), "count"),
    "a queue of processes": (lambda: Rows(multiprocessing.Queue(), lambda state: 0), "Queue"),
}


@pytest.mark.parametrize("kind", ONCE)
def test_a_dataset_whose_place_cannot_be_put_back_is_not_drawn_from(kind: str, tmp_path: Path) -> None:
    global once_global
    once_global = rows_once()
    make, name = ONCE[kind]
    report = diagnose(make_trainer(tmp_path, make()))
    reason = f"its dataset reads from a {name}, which can be read only once"
    assert [(sample.seen, sample.not_drawn) for sample in report.samples] == [(0, reason)]
    assert f"rows (train batch): {reason}" in str(report)
    assert report.skipped["LBL001"] == f"no rows of the train batch: {reason}"
    assert len(list(once_global)) == len(ROWS)


def test_a_trainer_and_a_collator_that_read_something_once_are_left_alone(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, ROWS, OwnOrder)
    trainer.order = iter(range(40))
    [sample] = diagnose(trainer).samples
    assert sample.not_drawn == "its trainer reads from a range_iterator, which can be read only once"
    assert len(list(trainer.order)) == 40
    noise = iter(range(9))
    [sample] = diagnose(make_trainer(tmp_path, ROWS, collator=lambda rows: (next(noise), rows)[1])).samples
    assert sample.not_drawn == "its collator reads from a range_iterator, which can be read only once"
    assert len(list(noise)) == 9


def test_a_set_is_put_back_with_its_order() -> None:
    numbers = {n * 5 for n in range(300)}
    before = list(numbers)
    restore = remember_state([numbers])
    for _ in range(50):
        numbers.pop()
    numbers.add(5000)
    restore()
    assert list(numbers) == before == [numbers.pop() for _ in before]
