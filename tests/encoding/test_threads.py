"""One `ChatEncoder` in several threads and in a forked process."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llama_padfix import ChatEncoder
from tests.conftest import fresh_tokenizer

# A header that differs from turn to turn, so that what is learned grows with every sequence of roles.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>' }}"
    "{{ '\n\n' if m['role'] != 'assistant' or loop.index0 % 2 }}{{ m['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>' }}"
    "{{ '\n\n' if (messages | length) % 2 }}{% endif %}"
)


def turn(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"q {number}"}, {"role": "assistant", "content": f"a {number}"}]


BATCHES = [
    [{"messages": [{"role": "system", "content": "s"}] * (k % 2) + turn(n) * (1 + n % 3)} for n in range(20)]
    for k in range(16)
]


@pytest.fixture
def tokenizer() -> Any:
    made = fresh_tokenizer("3.1-instruct")
    made.chat_template = TEMPLATE
    return made


@pytest.fixture
def tiny_switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("tiny_switch_interval")
@pytest.mark.slow
def test_eight_threads_get_the_rows_of_one(tokenizer: Any) -> None:
    alone = [ChatEncoder(tokenizer, engine="tokenizers").encode_rows(batch)[0] for batch in BATCHES]
    for _ in range(4):
        shared = ChatEncoder(tokenizer, engine="tokenizers")
        with ThreadPoolExecutor(8) as pool:
            made = [future.result()[0] for future in [pool.submit(shared.encode_rows, batch) for batch in BATCHES]]
        assert made == alone
        assert shared.counts.rows == shared.counts.kept == sum(map(len, BATCHES))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_not_blocked_by_a_thread_of_its_parent(tokenizer: Any) -> None:
    encoder = ChatEncoder(tokenizer, engine="tokenizers")
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with encoder._lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=encoder.encode_rows, args=(BATCHES[0],))
    process.start()
    process.join(60)
    done.set()
    thread.join()
    assert process.exitcode == 0


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_not_blocked_by_a_call_of_the_tokenizer(tokenizer: Any) -> None:
    encoder = ChatEncoder(tokenizer, engine="tokenizers")
    tokenizer("x")
    begun = threading.Event()

    def encode() -> None:
        begun.set()
        tokenizer.backend_tokenizer.encode_batch(["a b" * 300_000] * 4)  # which holds the lock of the backend

    thread = threading.Thread(target=encode)
    thread.start()
    begun.wait(60)
    time.sleep(0.02)
    process = multiprocessing.get_context("fork").Process(target=encoder.encode_rows, args=(BATCHES[0],))
    process.start()
    assert thread.is_alive()
    process.join(60)
    process.kill()
    thread.join()
    assert process.exitcode == 0
