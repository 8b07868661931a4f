"""`mask_labels` gives the labels of `ChatEncoder`, or an error: never another mask."""

from __future__ import annotations

import collections
import copy
import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_padfix import ChatEncoder, PadfixError, TurnMarkers, find_markers, mask_labels
from tests.conformance.grammar.run import make_rows, tokenizer_for
from tests.conformance.test_popular_templates import FAMILIES, tokenizer_of
from tests.support.families import family_encoder, family_tokenizer, make_nasty, originals

# Whose header or end is text that a message may hold, melts into the answer, or is missing.
UNMARKED = {"idefics3", "llava_next", "smolvlm"}
UNMARKED |= {"Zephyr, StableLM, TinyLlama, Tülu 1", "Vicuna", "Falcon", "Starling, OpenChat", "Solar", "Llama 2"}
UNMARKED |= {"Mixtral, Mistral v1", "Nemotron 4, Minitron", "ChatGLM 3, GLM 4", "Baichuan 2", "MiniCPM"}
UNMARKED |= {"DeepSeek LLM", "DeepSeek Coder, WizardCoder", "Guanaco"}
# Most rows of 20 in which a tool's answer, or a second answer, has a header that ids do not show to be the model's.
REFUSED = {"gemma4": 9, "gemma4_v3": 9, "gemma4_v4": 9, "SmolLM 3, QwQ": 6}
REFUSED |= {"Jamba": 9, "Kimi K2, Moonlight": 6, "Mistral v7, tekken": 12, "Alpaca": 3}
UNTRAINED = {"train", "weight"}
MARKS = (
    "### Assistant:\n", "ASSISTANT: hi", "USER: x ASSISTANT:", "[/INST] no", "### Response:\nx", "</s>",
    "<|im_start|>assistant\nhi<|im_end|>", "<|turn>model\nhi<turn|>", "<think>", "<tool_response|>so",
)  # fmt: skip


def spell(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Return a row in which one of the texts holds what stands around turns in some template."""
    row = copy.deepcopy(row)
    texts = [message for message in row["messages"] if isinstance(message.get("content"), str)]
    for message in rng.sample(texts, min(len(texts), rng.choice((0, 1)))):
        message["content"] = rng.choice(("", "x ", message["content"])) + rng.choice(MARKS) + rng.choice(("", " y"))
    return row


def compare(encoder: ChatEncoder, markers: TurnMarkers, rows: list[dict[str, Any]]) -> collections.Counter[str]:
    """Count what became of the rows of which the encoder gives labels; a mask that differs fails."""
    counts = collections.Counter[str]()
    for row in rows:
        try:
            encoded = encoder(row)
        except Exception:  # the template raises, or the turns cannot be proven
            counts["unanswered"] += 1
            continue
        try:
            labels = mask_labels(encoded["input_ids"], markers)
        except PadfixError as refusal:
            assert "ids alone" in str(refusal)
            counts["refused"] += 1
            continue
        assert labels == encoded["labels"], row
        counts["same"] += 1
    return counts


def check(name: str, tokenizer: Any, encoder: ChatEncoder, make: Callable[[random.Random], dict[str, Any]]) -> None:
    if name in UNMARKED:
        with pytest.raises(PadfixError, match=r"ids alone|Ids alone|without a token of its own|melts into"):
            find_markers(tokenizer)
        return
    rng = random.Random(f"masks of {name}")
    counts = compare(encoder, find_markers(tokenizer), [spell(make(rng), rng) for _ in range(20)])
    assert counts["same"] >= 4, counts
    assert counts["refused"] <= REFUSED.get(name, 0), counts


@pytest.mark.parametrize("path", originals(), ids=lambda path: str(path.stem))
@pytest.mark.slow
def test_ids_of_every_shipped_template_get_the_encoders_labels(path: Path) -> None:
    make = functools.partial(make_nasty, stem=path.stem)
    check(path.stem, family_tokenizer(path), family_encoder(path), make)


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_of_popular_templates_get_the_encoders_labels(name: str) -> None:
    tokenizer = tokenizer_of(FAMILIES[name])
    check(name, tokenizer, ChatEncoder(tokenizer), make_nasty)


def made_rows(seed: int, count: int) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    for composed, conversations in make_rows(seed, count):
        # Which messages are trained is not in the ids.
        rows = [[{key: m[key] for key in m if key not in UNTRAINED} for m in messages] for messages in conversations]
        yield tokenizer_for(composed), [{"messages": messages} for messages in rows]


@pytest.mark.slow
def test_ids_of_composed_templates_get_the_encoders_labels() -> None:
    counts = collections.Counter[str]()
    for tokenizer, rows in made_rows(1, 300):
        try:
            markers = find_markers(tokenizer)
        except PadfixError:
            counts["no markers"] += len(rows)
            continue
        counts += compare(ChatEncoder(tokenizer), markers, rows)
    assert counts["same"] > 60, counts


def test_an_empty_answer_whose_thought_the_history_drops_has_its_own_header() -> None:
    path = next(path for path in originals() if path.stem == "glm4moe")
    header = "<|assistant|>"
    thought = {"role": "assistant", "content": "", "reasoning_content": "." * len(header)}  # as long as what follows
    user, empty = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}
    tokenizer, encoder = family_tokenizer(path), family_encoder(path)
    for messages in ([user, thought, empty, user], [user, thought, {**empty, "content": "Yes"}, user]):
        try:
            row = encoder(messages)
        except PadfixError:
            continue
        assert tokenizer.convert_tokens_to_ids(header) not in row["labels"]
        assert tokenizer.convert_tokens_to_ids("<|user|>") not in row["labels"]
