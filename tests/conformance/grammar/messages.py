"""The parts of each kind of message."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.conformance.grammar.options import closer, header, header_part
from tests.conformance.grammar.parts import Condition, Message, Part, Place, Recipe, both, literal, quote


def opening_parts(recipe: Recipe, when: Condition | None) -> list[Part]:
    """Return what stands before the text of an answer: the header, and what the prompt leaves to the model."""
    whole = header(recipe, "assistant")
    if recipe["gap"] == "prompt ends earlier":
        kept = whole.rstrip()
        shorter = header_part(recipe, "assistant", when)
        if recipe["role"] == "literal":
            return [literal(kept, when=when), literal(whole[len(kept) :], True, when)]
        cut = Part(f"({shorter.jinja}).rstrip()", lambda place: kept, when=when)
        return [cut, literal(whole[len(kept) :], True, when)]
    parts = [header_part(recipe, "assistant", when)]
    if recipe["gap"] == "history holds the end":
        parts.append(literal("</think>", when=when))
    return parts


# The loop's own names


@dataclass(frozen=True)
class Names:
    """How a template names the place of a message in its loop."""

    items: str
    first: str
    last: str
    previous: str
    following: str
    index: str


def names(recipe: Recipe) -> Names:
    own = recipe["loop"] == "set" or recipe["system"] in ("sliced", "into the question")
    items = "ms" if own else "messages"
    if recipe["loop"] == "range":
        return Names(items, "i == 0", f"i == {items}|length - 1", f"{items}[i - 1]", f"{items}[i + 1]", "i")
    if recipe["loop"] == "slice":
        previous, following = f"{items}[loop.index0 - 1]", f"{items}[loop.index]"
    else:
        previous, following = "loop.previtem", "loop.nextitem"
    return Names(items, "loop.first", "loop.last", previous, following, "loop.index0")


def behind_role(recipe: Recipe, role: str) -> Condition:
    known = names(recipe)
    return Condition(
        f"not ({known.first}) and {known.previous}.role == '{role}'", lambda place: place.near(-1) == role
    )


def before_role(recipe: Recipe, role: str) -> Condition:
    known = names(recipe)
    return Condition(f"not ({known.last}) and {known.following}.role == '{role}'", lambda place: place.near(1) == role)


def is_role(role: str) -> Condition:
    return Condition(f"m.role == '{role}'", lambda place: place.message["role"] == role)


def is_first(recipe: Recipe) -> Condition:
    return Condition(names(recipe).first, lambda place: place.index == 0)


def is_last(recipe: Recipe) -> Condition:
    return Condition(names(recipe).last, lambda place: place.index == len(place.messages) - 1)


HAS_CALLS = Condition("m.tool_calls", lambda place: bool(place.message.get("tool_calls")))


# The text of an answer


def content_part(recipe: Recipe) -> Part:
    expression = "m.content" if recipe["calls"] == "none" else "(m.content or '')"

    def text(place: Place) -> str:
        content = place.message["content"] or ""
        return content if isinstance(content, str) else "".join(part["text"] for part in content)

    cleanings: dict[str, tuple[str, Callable[[str], str]]] = {
        "as it is": (expression, str),
        "trim": (f"({expression} | trim)", str.strip),
        "strip()": (f"{expression}.strip()", str.strip),
        "rstrip()": (f"{expression}.rstrip()", str.rstrip),
        "set and trim": ("c", str.strip),
        "parts": ("flat(m.content)", str),
    }
    jinja, clean = cleanings[recipe["content"]]
    if recipe["thought"] == "cut from earlier content":
        early = f"{names(recipe).index} < ns.question"
        cut = f"({jinja}.split('</think>')[-1].lstrip('\\n') if {early} and m.role == 'assistant' else {jinja})"

        def write(place: Place) -> str:
            whole = clean(text(place))
            if place.message["role"] == "assistant" and place.index < place.last_question:
                return whole.split("</think>")[-1].lstrip("\n")
            return whole

        return Part(cut, write, said="role")
    return Part(jinja, lambda place: clean(text(place)), said="role")


def thought_parts(recipe: Recipe) -> list[Part]:
    kind, channels = recipe["thought"], recipe["channels"] != "none"
    has = Condition("m.reasoning_content", lambda place: bool(place.message.get("reasoning_content")))
    opened, closed = ("<C>analysis<M>", "<D><S>assistant") if channels else ("<think>\n", "\n</think>\n\n")

    def thought(place: Place) -> str:
        return place.message.get("reasoning_content") or ""

    if kind.startswith("field"):
        if kind == "field behind the last question":
            late = Condition(f"{names(recipe).index} > ns.question", lambda place: place.index > place.last_question)
            has = late & has
        elif kind == "field of the last message":
            has = is_last(recipe) & has
        written = Part("m.reasoning_content", thought, True, has, said="role")
        return [literal(opened, True, has), written, literal(closed, True, has)]
    if kind == "block always":
        return [
            literal(opened, True),
            Part("(m.reasoning_content or '')", thought, True, said="role"),
            literal(closed, True),
        ]
    if kind == "empty block at the end":
        bare = Condition(
            "'</think>' not in m.content", lambda place: "</think>" not in (place.message["content"] or "")
        )
        if recipe["calls"] != "none":
            bare = Condition("'</think>' not in (m.content or '')", bare.holds)
        return [literal("<think>\n\n</think>\n\n", True, is_last(recipe) & bare)]
    return []


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def call_parts(recipe: Recipe) -> list[Part]:
    """Return the calls of a message: one block over all of them."""
    echo = recipe["results"] == "inside with the name"
    name = "{{ f.name }}"
    if recipe["channels"] != "none":
        body = '{{ "<C>commentary to=" ~ f.name ~ "<M>" }}{{ f.arguments | tojson }}'

        def one(function: Message) -> str:
            return f"<C>commentary to={function['name']}<M>{dump(function['arguments'])}"

    elif recipe["calls"] == "json or text":
        body = (
            '{{ "<call>" ~ f.name ~ " " }}{{ f.arguments if f.arguments is string else f.arguments | tojson }}</call>'
        )

        def one(function: Message) -> str:
            arguments = function["arguments"]
            return f"<call>{function['name']} {arguments if isinstance(arguments, str) else dump(arguments)}</call>"

    elif recipe["calls"] == "json":
        body = '<call>{"name": "' + name + '{{ "\\", \\"arguments\\": " }}{{ f.arguments | tojson }}}</call>'

        def one(function: Message) -> str:
            return f'<call>{{"name": "{function["name"]}", "arguments": {dump(function["arguments"])}}}</call>'

    elif recipe["calls"] == "tagged arguments":
        body = "<call>" + name + '{% for k, v in f.arguments.items() %}{{ "\\n<k>" ~ k ~ "</k>\\n<v>" }}'
        body += '{{ v if v is string else v | tojson }}{{ "</v>" }}{% endfor %}{{ "\\n" }}</call>'

        def one(function: Message) -> str:
            values = [
                f"\n<k>{key}</k>\n<v>{value if isinstance(value, str) else dump(value)}</v>"
                for key, value in function["arguments"].items()
            ]
            return f"<call>{function['name']}{''.join(values)}\n</call>"

    else:
        shown = "{{ v | tojson }}" if recipe["calls"] == "quoted arguments" else "{{ '%s' | format(v) }}"
        body = "<call>" + name + "({% for k in f.arguments %}{% set v = f.arguments[k] %}{{ k }}=" + shown
        body += '{% if not loop.last %}{{ ", " }}{% endif %}{% endfor %})</call>'
        write_value: Callable[[Any], str] = dump if recipe["calls"] == "quoted arguments" else str

        def one(function: Message) -> str:
            values = [f"{key}={write_value(value)}" for key, value in function["arguments"].items()]
            return f"<call>{function['name']}({', '.join(values)})</call>"

    def write(place: Place) -> str:
        return "".join(one(call["function"]) for call in place.message.get("tool_calls") or [])

    loop = "{% for t in m.tool_calls or [] %}{% set f = t.function %}" + body + "{% endfor %}"
    parts = [Part(loop, write, True, block=True)]
    if echo:
        named = "{% for t in m.tool_calls or [] %}<result>{{ t.function.name }}:{% endfor %}"
        parts.append(
            Part(
                named,
                lambda place: "".join(
                    f"<result>{t['function']['name']}:" for t in place.message.get("tool_calls") or []
                ),
                block=True,
            )
        )
    return parts


def stop_part(recipe: Recipe, text: str, made: bool, when: Condition | None) -> Part:
    """Return a stop token, as a text or by the tokenizer's name for it."""
    before, found, behind = text.partition("<E>")
    if recipe["eos"] != "by name" or not found:
        return literal(text, made, when)
    return Part(f"({quote(before)} ~ eos_token ~ {quote(behind)})", lambda place: text, made, when)


def closing_parts(recipe: Recipe, role: str) -> list[Part]:
    """Return what closes a message where it is written: made for the assistant, up to the last token."""
    known, made = names(recipe), role == "assistant"
    if recipe["closing"] == "before the next":
        return []
    when: Condition | None = None
    if not made and recipe["header"].startswith("inst"):
        return [literal(closer(recipe, role))]
    if recipe["closing"] == "when followed":
        when = Condition(f"not ({known.last}) or add_generation_prompt", (~is_last(recipe)).holds)
    elif recipe["closing"] == "not the last":
        when = ~is_last(recipe)
    elif recipe["closing"] == "only the last" and made:
        when = is_last(recipe)
    if role == "tool" and recipe["results"] == "in a user turn":
        when = both(when, ~before_role(recipe, "tool"))
    if recipe["runs"] == "joined" and role != "system":
        when = both(when, ~before_role(recipe, role))
    text = closer(recipe, role)
    stop = text.rstrip() if made and text.rstrip().endswith(">") else text
    behind = text[len(stop) :]
    if made and recipe["results"].startswith("inside"):
        when = both(when, ~HAS_CALLS)
    if made and recipe["call stop"] == "own":
        calls, answers = both(when, HAS_CALLS), both(when, ~HAS_CALLS)
        return [literal("<K>", True, calls), stop_part(recipe, stop, True, answers), literal(behind, when=when)]
    if made and recipe["closing"] == "another token at the end":
        last, early = is_last(recipe), ~is_last(recipe)
        return [
            literal("<K>", True, both(when, early)),
            stop_part(recipe, stop, True, both(when, last)),
            literal(behind, when=when),
        ]
    return [stop_part(recipe, stop, made, when), literal(behind, when=when)]


def leading_parts(recipe: Recipe) -> list[Part]:
    """Return what a message writes for the one before it: its closer, and a separator."""
    parts: list[Part] = []
    if recipe["closing"] == "before the next":
        answered = behind_role(recipe, "assistant")
        text = closer(recipe, "assistant")
        stop = text.rstrip() if text.rstrip().endswith(">") else text
        parts += [stop_part(recipe, stop, True, answered), literal(text[len(stop) :], when=answered)]
        parts.append(literal(closer(recipe, "user"), when=~is_first(recipe) & ~answered))
    if recipe["runs"] == "joined":
        for role in ("user", "assistant"):
            parts.append(literal("\n\n", role == "assistant", is_role(role) & behind_role(recipe, role)))
    if recipe["between"] == "before":
        parts.append(literal("\n\n", when=~is_first(recipe)))
    return parts


def answer_parts(recipe: Recipe) -> tuple[list[Part], list[Part]]:
    """Return the parts of an answer before its made text, and all others."""
    inside = recipe["results"].startswith("inside")
    new = ~behind_role(recipe, "tool") if inside else None
    if recipe["runs"] == "joined":
        new = ~behind_role(recipe, "assistant")
    opening = opening_parts(recipe, new)
    content = content_part(recipe)
    when = ~HAS_CALLS if recipe["channels"] != "none" else None
    if recipe["empty"] == "guarded":
        filled = Condition("m.content", lambda place: bool(place.message["content"]))
        when = both(when, filled)
    made = thought_parts(recipe)
    if recipe["channels"] != "none":
        made.append(literal("<C>final<M>", True, ~HAS_CALLS))
    made.append(replace(content, made=True, when=when))
    if recipe["calls"] != "none":
        made += call_parts(recipe)
    made += closing_parts(recipe, "assistant")
    if recipe["results"] == "inside by nextitem":
        answered = HAS_CALLS & before_role(recipe, "tool")
        result = Part(
            f"{names(recipe).following}.content",
            lambda place: place.messages[place.index + 1]["content"],
            when=answered,
            said="tool",
        )
        made += [literal("<result>", when=answered), result, literal("</result>", when=answered)]
    if recipe["results"] == "inside by a look ahead":
        made.append(ahead_part(recipe))
    return opening, made


def ahead_part(recipe: Recipe) -> Part:
    """Return the results behind a call, which the message of the call writes."""
    known = names(recipe)
    jinja = f"{{% set ns.open = true %}}{{% for n in {known.items}[{known.index} + 1:] %}}"
    jinja += "{% if ns.open and n.role == 'tool' %}<result>{{ n.content }}</result>{% else %}{% set ns.open = false %}"
    jinja += "{% endif %}{% endfor %}"

    def write(place: Place) -> str:
        behind = place.messages[place.index + 1 :]
        results = itertools.takewhile(lambda message: message["role"] == "tool", behind)
        return "".join(f"<result>{message['content']}</result>" for message in results)

    return Part(jinja, write, when=HAS_CALLS, block=True)


def result_parts(recipe: Recipe) -> list[Part]:
    content = Part("m.content", lambda place: place.message["content"], said="role")
    if recipe["results"] == "own turn as json":
        content = Part("(m.content | tojson)", lambda place: dump(place.message["content"]), said="role")
    if recipe["results"] in ("inside by nextitem", "inside by a look ahead"):
        return []
    if recipe["results"] == "inside with the name":
        return [content, literal("</result>")]
    tagged = [literal("<result>"), content, literal("</result>")]
    if recipe["results"] == "inside the turn":
        return tagged
    if recipe["results"] == "in a user turn":
        first = ~behind_role(recipe, "tool")
        opened = Part(quote(header(recipe, "user")), lambda place: header(recipe, "user"), when=first)
        return [*leading_parts(recipe), opened, *tagged, *closing_parts(recipe, "tool")]
    return [*leading_parts(recipe), header_part(recipe, "tool"), content, *closing_parts(recipe, "tool")]


def question_parts(recipe: Recipe, role: str) -> list[Part]:
    new = ~behind_role(recipe, "user") if recipe["runs"] == "joined" and role == "user" else None
    parts = [*leading_parts(recipe), header_part(recipe, role, new)]
    if role == "user" and recipe["system"] == "into the question":

        def write(place: Place) -> str:
            system = place.memory.pop("system", "")
            return f"{system}\n\n" if system else ""

        block = '{% if ns.system %}{{ ns.system ~ "\\n\\n" }}{% set ns.system = "" %}{% endif %}'
        parts.append(Part(block, write, block=True, said="system"))
    return [*parts, content_part(recipe), *closing_parts(recipe, role)]
