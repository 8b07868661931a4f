"""The real tokenizers and tiny models that the suite runs on, built once a session and copied for each test."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import jinja2
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from llama_padfix import ChatEncoder
from llama_padfix.demo import reference
from llama_padfix.tokens.calls import copy_tokenizer

INSTRUCT = ("3-instruct-early", "3.1-instruct-early", "3.1-instruct", "3.2-instruct")
BASE = ("3-base", "3.1-base")
ALL = (*BASE, *INSTRUCT)

_built: dict[str, Any] = {}


def pytest_collection_finish() -> None:
    """Take the libraries' objects out of the collector's sight: a trainer collects often, each time all of them."""
    gc.collect()
    gc.freeze()


def fresh_tokenizer(release: str) -> Any:
    """A tokenizer of the release that the test may change: nobody else sees it."""
    if release not in _built:
        _built[release] = reference.build_tokenizer(release)
    return copy_tokenizer(_built[release])


@pytest.fixture
def make_tokenizer() -> Callable[[str], Any]:
    return fresh_tokenizer


@pytest.fixture
def tokenizer() -> Any:
    """Llama 3.1 Instruct, untouched."""
    return fresh_tokenizer("3.1-instruct")


@pytest.fixture(scope="module")
def shared_tokenizer() -> Any:
    """Llama 3.1 Instruct with a pad token, for all tests of a module: encoding changes no tokenizer."""
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.pad_token = "<|end_of_text|>"
    return tokenizer


@pytest.fixture
def encoder(shared_tokenizer: Any) -> ChatEncoder:
    return ChatEncoder(shared_tokenizer)


@pytest.fixture
def make_model() -> Callable[..., Any]:
    def make(release: str = "3.1-instruct", **overrides: Any) -> Any:
        overrides.setdefault("hidden_size", 16)
        return reference.make_tiny_llama(release, **overrides)

    return make


@pytest.fixture
def renderings(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often any chat template was rendered."""
    counted: Counter[str] = Counter()
    render = jinja2.Template.render

    def counting(self: jinja2.Template, *args: Any, **kwargs: Any) -> str:
        counted["all"] += 1
        return render(self, *args, **kwargs)

    monkeypatch.setattr(jinja2.Template, "render", counting)
    return counted
