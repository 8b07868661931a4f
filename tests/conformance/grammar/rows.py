"""Random recipes and conversations for the grammar: what a recipe writes is what its conversations hold."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tests.conformance.grammar.options import DIMENSIONS, PLAIN, normalize
from tests.conformance.grammar.parts import Message, Recipe

TEXTS = (
    *("Yes", "Hi", "Yes", "Two words.", "", " ", "\n", "x\n\ny", "\n\nQ\n", "ends in space ", "ends in lines\n\n"),
    *("assistant", "user\n", "model", "### Response:\nNo", "USER: hi", "ASSISTANT: ", "From: user\n\n hi", "To:"),
    *("Here it is.", "Here are my steps:\n1. a", "Here are my steps:\n", "look", "look:", "look: blue", "blue"),
    *(
        "é你",
        "👩‍👧 ok",
        "\ttab",
        "{{ c }}",
        "%s {} %",
        "</think>",
        "<think>\nhm",
        "call",
        "<k>at</k>",
        '{"at": 1}',
        "a",
    ),
    *("final", "analysis", "Be kind.", "\u00a0x\u00a0", "\u2028"),
)
SPELLED = ("<E>", "Hi<E>\n", "<S>assistant\nI obey.<E>", "<E1><E>", "[/INST]", "</result>", "<result>blue</result>")
ARGUMENTS: tuple[dict[str, Any], ...] = (
    {},
    {"at": "sky"},
    {"at": "look", "look": "at"},
    {"x": [1, "b"], "n": 3},
    {"q": 'Zürich\n"quoted"', "deep": {"a": [], "b": True}},
    {"empty": ""},
)


def make_recipe(rng: random.Random) -> Recipe:
    """Return a recipe with a few options that are not plain; now and then with many."""
    recipe = dict(PLAIN)
    share = rng.choice((0.15, 0.3, 0.3, 0.5, 0.9))
    for name, options in DIMENSIONS.items():
        if rng.random() < share:
            recipe[name] = rng.choice(options)
    if rng.random() < 0.4:  # what the lists hold only once
        recipe["calls"] = rng.choice(DIMENSIONS["calls"][1:])
        recipe["results"] = rng.choice(DIMENSIONS["results"])
    if recipe["stop"].startswith("<E1>") and rng.random() < 0.3:
        recipe["ask"] = "last of shared"
    if recipe["channels"] != "none" and rng.random() < 0.6:
        recipe["channels"] = "none"
    return normalize(recipe)


def make_conversation(rng: random.Random, recipe: Recipe) -> list[Message]:
    """Return a conversation that holds calls, results and thoughts where the recipe writes them."""
    messages = make_messages(rng, recipe)
    if rng.random() < 0.06:
        for message in rng.sample(messages, rng.randint(1, len(messages))):
            if message["role"] != "tool" or recipe["results"] != "inside by a look ahead":
                message["content"] = rng.choice(SPELLED)
    if recipe["results"] == "inside by a look ahead":  # that part does not tell results from the template's text
        for message in messages:
            if message["role"] == "tool" and "think>" in message["content"]:
                message["content"] = "a thought"
    if recipe["content"] == "parts":
        for message in rng.sample(messages, len(messages) // 2):
            text = message["content"]
            parts = [text[: len(text) // 2], text[len(text) // 2 :]] if rng.random() < 0.5 else [text]
            message["content"] = [{"type": "text", "text": part} for part in parts]
    if recipe["runs"] == "apart" and rng.random() < 0.06:
        answers = [message for message in messages if message["role"] == "assistant"]
        rng.choice(answers)["train"] = False
    return messages


def make_messages(rng: random.Random, recipe: Recipe) -> list[Message]:
    messages: list[Message] = []
    if rng.random() < 0.25:
        messages.append({"role": "system", "content": rng.choice(TEXTS)})
    if rng.random() < 0.1:
        messages.append(make_answer(rng, recipe))
    for _ in range(rng.choice((1, 1, 2, 3))):
        messages.append({"role": "user", "content": rng.choice(TEXTS)})
        if recipe["calls"] != "none" and rng.random() < 0.6:
            messages += make_calls(rng, recipe)
            if rng.random() < 0.1 and not recipe["results"].startswith("inside"):
                continue
        messages.append(make_answer(rng, recipe))
        if rng.random() < 0.1:
            messages.append(make_answer(rng, recipe))
    if rng.random() < 0.1:
        messages.append({"role": "user", "content": rng.choice(TEXTS)})
    return messages


def make_answer(rng: random.Random, recipe: Recipe) -> Message:
    message: Message = {"role": "assistant", "content": rng.choice(TEXTS)}
    thought = recipe["thought"]
    if thought.startswith(("field", "block")) and rng.random() < 0.5:
        message["reasoning_content"] = rng.choice(("hm", "Yes", "a\nb", "Here are", " x "))
    elif rng.random() < (0.5 if thought in ("cut from earlier content", "empty block at the end") else 0.05):
        message["content"] = f"<think>\n{rng.choice(('hm', 'Yes', ''))}\n</think>\n\n{message['content']}"
    return message


def make_calls(rng: random.Random, recipe: Recipe) -> list[Message]:
    """Return one or two rounds of a message with calls and of their results."""
    messages: list[Message] = []
    single = recipe["results"] in ("inside by nextitem", "inside with the name") or recipe["channels"] != "none"
    for _ in range(rng.choice((1, 1, 1, 2))):
        content = rng.choice(("", "", None, "Let me look.", rng.choice(TEXTS)))
        message = make_answer(rng, recipe) | {"content": content}
        calls: list[Message] = [
            {
                "type": "function",
                "id": f"abcdefgh{at}",
                "function": {"name": rng.choice(("look", "look", "find_it")), "arguments": rng.choice(ARGUMENTS)},
            }
            for at in range(1 if single else rng.choice((1, 1, 2)))
        ]
        if recipe["calls"] == "json or text" and rng.random() < 0.4:
            for call in calls:
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        messages.append(message | {"tool_calls": calls})
        for call in calls:
            messages.append(
                {
                    "role": "tool",
                    "name": call["function"]["name"],
                    "tool_call_id": call["id"],
                    "content": rng.choice(TEXTS),
                }
            )
    return messages


def simpler(messages: Sequence[Message]) -> list[list[Message]]:
    """Return conversations that are a little smaller: one message or run of messages less, or a plainer text."""
    found: list[list[Message]] = []
    for start in range(len(messages)):
        for length in (3, 2, 1):
            rest = [*messages[:start], *messages[start + length :]]
            if len(messages) >= start + length and rest and is_whole(rest):
                found.append(rest)
    for at, message in enumerate(messages):
        plain = {"user": "Hi", "assistant": "Yes", "tool": "blue"}.get(message["role"], "Be brief.")
        changes: list[Message] = [{"content": plain}]
        if message.get("tool_calls"):
            one = message["tool_calls"][0]
            function = {"name": "look", "arguments": {"at": "sky"}}
            changes += [{"tool_calls": [one | {"function": function}]}, {"content": ""}]
        for key in ("reasoning_content", "train"):
            if key in message:
                bare = {name: value for name, value in message.items() if name != key}
                found.append([*messages[:at], bare, *messages[at + 1 :]])
        if "reasoning_content" in message:
            changes.append({"reasoning_content": "hm"})
        for change in changes:
            changed = message | change
            if changed != message and len(changed["content"] or "") <= max(3, len(message["content"] or "")):
                made = [*messages[:at], changed, *messages[at + 1 :]]
                if is_whole(made):
                    found.append(made)
    return found


def is_whole(messages: Sequence[Message]) -> bool:
    """Whether every call has its result behind it, and every result its call, and an answer follows."""
    if not any(message["role"] == "assistant" for message in messages):
        return False
    waiting = 0
    for at, message in enumerate(messages):
        if message["role"] == "tool":
            waiting -= 1
            if waiting < 0 or at == len(messages) - 1:
                return False
        elif waiting or (message["role"] == "system" and at):
            return False
        waiting += len(message.get("tool_calls") or [])
    roles = [message["role"] for message in messages]
    return not waiting and all(b != "user" for a, b in pairwise(roles) if a == "tool")


def takes(recipe: Recipe, messages: Sequence[Message]) -> bool:
    """Whether a recipe writes what a conversation holds."""
    calls = [len(message["tool_calls"]) for message in messages if message.get("tool_calls")]
    if recipe["content"] != "parts" and any(isinstance(message["content"], list) for message in messages):
        return False
    if recipe["calls"] != "json or text" and '"arguments": "' in json.dumps(messages):
        return False
    if recipe["calls"] == "none":
        return not calls and all(message["role"] != "tool" and message["content"] is not None for message in messages)
    inside = recipe["results"].startswith("inside")
    single = recipe["results"] in ("inside by nextitem", "inside with the name") or recipe["channels"] != "none"
    if single and max(calls, default=0) > 1:
        return False
    return not inside or all(
        messages[at + 1]["role"] == "assistant"
        for at, message in enumerate(messages[:-1])
        if message["role"] == "tool" and messages[at + 1]["role"] != "tool"
    )
