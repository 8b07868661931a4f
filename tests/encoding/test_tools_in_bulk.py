"""Rows with tools, calls and thoughts are encoded together as they are one by one, whatever the template makes of them."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.support.both import Row, say_hard

WORDS = (
    "look",
    "find_it",
    "sky color",
    "two\nlines",
    'a "quote"',
    "back\\slash",
    "é漢👩",
    "null",
    "5",
    "{}",
    "\\u00e9",
)


def say(rng: random.Random) -> str:
    return say_hard(rng) if rng.random() < 0.02 else " ".join(rng.choices(WORDS[:4], k=rng.choice((1, 2, 3))))


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if kind < 0.6 or depth > 2:
        return rng.choice(WORDS) if rng.random() < 0.4 else say(rng)
    if kind < 0.8:
        return rng.choice((0, 7, -1.5, True, False, 1e30, 12345678901234567890))
    if kind < 0.9:
        return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
    return {rng.choice(WORDS): value(rng, depth + 1) for _ in range(rng.randrange(3))}


def arguments(rng: random.Random) -> Any:
    made = {rng.choice(WORDS): value(rng) for _ in range(rng.choice((0, 1, 1, 2, 3)))}
    kind = rng.random()
    if kind < 0.05:
        return json.dumps(made)
    return {**made, "nothing": None} if kind < 0.07 else made


def call(rng: random.Random) -> Row:
    inner = {"name": rng.choice(WORDS[:2]), "arguments": arguments(rng)}
    made: Row = {"type": "function", "function": inner} if rng.random() < 0.9 else inner
    return {"id": f"call{rng.randrange(100000):05d}", **made} if rng.random() < 0.3 else made


def tool(rng: random.Random) -> Row:
    name = rng.choice(WORDS[:2])
    schema = {"type": "object", "properties": {rng.choice(WORDS): {"type": "string", "description": say(rng)}}}
    inner = {"name": name, "description": say(rng), "parameters": schema}
    return {"type": "function", "function": inner}


def conversation(rng: random.Random) -> Row:
    messages: list[Row] = [{"role": "system", "content": say(rng)}] * (rng.random() < 0.3)
    for _ in range(rng.choice((1, 1, 2))):
        messages.append({"role": "user", "content": say(rng)})
        for _ in range(rng.choice((0, 1, 1, 2))):
            calls = [call(rng) for _ in range(1 if rng.random() < 0.8 else 2)]
            content = rng.choice(("", None, say(rng)))
            messages.append({"role": "assistant", "content": content, "tool_calls": calls})
            if rng.random() < 0.2:
                messages[-1]["reasoning_content"] = say(rng)
            messages += [{"role": "tool", "name": "look", "content": say(rng)} for _ in calls]
        answer: Row = {"role": "assistant", "content": say(rng)}
        if rng.random() < 0.3:
            answer["reasoning_content"] = say(rng)
        if rng.random() < 0.1:
            answer["weight"] = 0
        messages.append(answer)
    tools: Any = [tool(rng) for _ in range(rng.choice((1, 1, 2)))]
    kind = rng.random()
    return {"messages": messages, "tools": json.dumps(tools) if kind < 0.2 else None if kind < 0.3 else tools}


def conversations(count: int, seed: object) -> list[Row]:
    rng = random.Random(str(seed))
    return [conversation(rng) for _ in range(count)]
