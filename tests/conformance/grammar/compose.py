"""A whole template of a recipe, and what it writes of a conversation."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.conformance.grammar.messages import (
    answer_parts,
    content_part,
    is_last,
    leading_parts,
    names,
    question_parts,
    result_parts,
)
from tests.conformance.grammar.options import DEFAULT_SYSTEM, closer, header, prompt
from tests.conformance.grammar.parts import Message, Piece, Place, Recipe, literal, put, quote

TOOLS: list[Message] = [
    {
        "type": "function",
        "function": {"name": "look", "description": "Yes", "parameters": {"type": "object", "properties": {}}},
    }
]
TOOL_LIST = '{% if tools %}{{ "Tools:\\n" }}{% for t in tools %}{{ t | tojson }}{{ "\\n" }}{% endfor %}{% endif %}'
FLAT = "{% macro flat(x) %}{% if x is string %}{{ x }}{% else %}{% for p in x %}{{ p.text }}{% endfor %}{% endif %}"
FLAT += "{% endmacro %}"


@dataclass(frozen=True)
class Composed:
    """A template, and how to write a conversation as it does."""

    recipe: Recipe
    source: str
    eos: str
    write: Callable[[Sequence[Message]], list[Piece]]

    @property
    def tools(self) -> list[Message] | None:
        return TOOLS if self.recipe["tools"] == "listed" else None


def compose(recipe: Recipe) -> Composed:
    """Return the template of a normalized recipe."""
    eos = "<other>" if recipe["eos"] == "another" else "<E>"
    return Composed(recipe, write_source(recipe), eos, lambda messages: write_pieces(recipe, messages))


def write_source(recipe: Recipe) -> str:
    how, known = recipe["assemble"], names(recipe)
    loop = write_loop(recipe)
    before = "{% macro put(x) %}{{ x }}{% endmacro %}" if how == "macro" else ""
    before += FLAT if recipe["content"] == "parts" else ""
    before += {"nothing": "", "bos_token": "{{ bos_token }}", "literal": "<B>"}[recipe["start"]] + write_system(recipe)
    before += TOOL_LIST if recipe["tools"] == "listed" else ""
    if "ns.question" in loop:
        before += f"{{% for m in {known.items} %}}{{% if m.role == 'user' %}}{{% set ns.question = loop.index0 %}}"
        before += "{% endif %}{% endfor %}"
    source = before + loop
    if "ns." in source:
        source = "{% set ns = namespace(text='', system='', question=-1, open=false) %}" + source
    source += write_end(recipe)
    if recipe["spacing"] == "indented":  # every tag takes the white space around it
        source = re.sub(r"({[{%])", r"\1-", source)
        source = re.sub(r"([%}]})", r"-\1\n    ", source)
    return source


def write_end(recipe: Recipe) -> str:
    """Return jinja for what stands behind the loop."""
    generate = write_prompt(recipe)
    condition = {
        "after a question": "add_generation_prompt and messages[-1].role == 'user'",
        "not after an answer": "add_generation_prompt and messages[-1].role != 'assistant'",
    }.get(recipe["prompt"], "add_generation_prompt")
    if recipe["prompt"] == "inline":
        inner = f"{{% set late %}}{generate}{{% endset %}}"
        return inner + "{{ late if add_generation_prompt else '' }}"
    if recipe["prompt"] == "always":
        return generate
    if recipe["prompt"] in ("ignored", "in the loop"):
        return ""
    return f"{{% if {condition} %}}{generate}{{% endif %}}"


def write_system(recipe: Recipe) -> str:
    """Return jinja for what stands before the loop."""
    system, name = header(recipe, "system"), names(recipe).items
    source = {"set": "{% set ms = messages[:] %}"}.get(recipe["loop"], "{% set ms = messages %}") * (name == "ms")
    apart = "{% if messages[0].role == 'system' %}{% set ms = messages[1:] %}"
    if recipe["system"] == "sliced":
        content = content_part(recipe | {"thought": "none"}).jinja.replace("m.content", "messages[0].content")
        content = "messages[0].content | trim" if content == "c" else content
        return (
            f"{source}{apart}{{{{ {quote(system)} ~ ({content}) ~ {quote(closer(recipe, 'system'))} }}}}{{% endif %}}"
        )
    if recipe["system"] == "into the question":
        return source + apart + "{% set ns.system = messages[0].content %}{% endif %}"
    if recipe["system"] == "default":
        default = quote(system + DEFAULT_SYSTEM + closer(recipe, "system"))
        return f"{source}{{% if messages[0].role != 'system' %}}{{{{ {default} }}}}{{% endif %}}"
    if recipe["system"] == "decoy":
        return f"{source}{{{{ {quote(decoy(recipe))} }}}}"
    return source


def decoy(recipe: Recipe) -> str:
    """Return text of the template that looks like a turn of the model."""
    return f"Turns look like {header(recipe, 'assistant')}this{closer(recipe, 'assistant')}.\n"


def write_prompt(recipe: Recipe) -> str:
    """Return jinja for the generation prompt, with what the last message leaves to it to close."""
    generate = put([literal(prompt(recipe))], "quoted")
    if recipe["closing"] != "before the next":
        return generate
    answer, other = (quote(closer(recipe, role)) for role in ("assistant", "user"))
    if answer == other:
        return f"{{{{ {answer} }}}}{generate}"
    return f"{{{{ {answer} if messages[-1].role == 'assistant' else {other} }}}}{generate}"


def write_loop(recipe: Recipe) -> str:
    known = names(recipe)
    source = {
        "range": f"{{% for i in range({known.items} | length) %}}{{% set m = {known.items}[i] %}}",
        "slice": f"{{% for m in {known.items}[0:] %}}",
    }.get(recipe["loop"], f"{{% for m in {known.items} %}}")
    source += "{% set role = 'model' if m.role == 'assistant' else m.role %}" if recipe["role"] == "renamed" else ""
    source += write_body(recipe)
    namespace = recipe["assemble"] == "namespace"
    if recipe["prompt"] == "in the loop":
        late = write_prompt(recipe)
        if namespace:
            late = f"{{% set late %}}{late}{{% endset %}}{{% set ns.text = ns.text ~ late %}}"
        source += f"{{% if {known.last} and add_generation_prompt %}}{late}{{% endif %}}"
    return source + ("{% endfor %}{{ ns.text }}" if namespace else "{% endfor %}")


def write_body(recipe: Recipe) -> str:
    """Return jinja for one message."""
    how = recipe["assemble"]
    opening, made = answer_parts(recipe)
    answer = put([*leading_parts(recipe), *opening, *made], how, recipe["generation"] == "marked")
    after = ""
    if recipe["between"] == "after":
        after = put([literal("\n\n", when=~is_last(recipe))], "quoted" if how != "namespace" else how)
    source = "{% set c = (m.content or '') | trim %}" if recipe["content"] == "set and trim" else ""
    source += "{% if m.role == 'user' %}" + put(question_parts(recipe, "user"), how)
    source += "{% elif m.role == 'assistant' %}" + answer
    if recipe["calls"] != "none":
        source += "{% elif m.role == 'tool' %}" + put(result_parts(recipe), how)
    source += "{% else %}" + put(question_parts(recipe, "system"), how) + "{% endif %}" + after
    if recipe["empty"] == "left out when last":
        kept = f"m.role != 'assistant' or m.content or not ({names(recipe).last})"
        source = f"{{% if {kept} %}}{source}{{% endif %}}"
    return source


# From parts to pieces


def write_pieces(recipe: Recipe, messages: Sequence[Message]) -> list[Piece]:
    pieces = [Piece("" if recipe["start"] == "nothing" else "<B>", False)]
    memory: dict[str, str] = {}
    looped = messages
    first = messages[0]
    if recipe["system"] in ("sliced", "into the question") and first["role"] == "system":
        looped = messages[1:]
        if recipe["system"] == "sliced":
            text = content_part(recipe | {"thought": "none"}).text(Place([first]))
            pieces += [Piece(header(recipe, "system"), False), Piece(text, False, "system")]
            pieces.append(Piece(closer(recipe, "system"), False))
        else:
            memory["system"] = first["content"]
    elif recipe["system"] == "default" and first["role"] != "system":
        pieces.append(Piece(header(recipe, "system") + DEFAULT_SYSTEM + closer(recipe, "system"), False))
    elif recipe["system"] == "decoy":
        pieces.append(Piece(decoy(recipe), False))
    if recipe["tools"] == "listed":
        pieces.append(Piece("Tools:\n" + "".join(json.dumps(tool) + "\n" for tool in TOOLS), False))
    opening, made = answer_parts(recipe)
    others = {
        "user": question_parts(recipe, "user"),
        "system": question_parts(recipe, "system"),
        "tool": result_parts(recipe) if recipe["calls"] != "none" else [],
    }
    answers: list[tuple[int, int]] = []
    for index, message in enumerate(looped):
        place = Place(looped, index, memory)
        last = index == len(looped) - 1
        if message["role"] != "assistant":
            written = [part.write(place) for part in others[message["role"]]]
        elif recipe["empty"] != "left out when last" or message["content"] or not last:
            leading = [part.write(place) for part in leading_parts(recipe)]
            opened = [part.write(place) for part in opening]
            answer = opened + [part.write(place) for part in made]
            if any(piece.text for piece in opened):
                answers.append((len(pieces) + len(leading), len(pieces) + len(leading) + len(answer)))
            written = leading + ([one._replace(made=False) for one in answer] if is_untrained(message) else answer)
        else:
            continue
        if index and is_untrained(looped[index - 1]):  # the closer that this message writes
            count = len(leading_parts(recipe))
            written = [one._replace(made=False) for one in written[:count]] + written[count:]
        pieces += written
        if recipe["between"] == "after" and not last:
            closed_late = recipe["closing"] == "before the next" and message["role"] == "assistant"
            if recipe["empty"] == "left out when last" and index == len(looped) - 2:  # nothing closes it
                closed_late = closed_late and not (looped[-1]["role"] == "assistant" and not looped[-1]["content"])
            pieces.append(Piece("\n\n", closed_late and not is_untrained(message)))
    if recipe["prompt"] == "always":
        pieces.append(Piece(prompt(recipe), False))
    for start, end in reversed(answers):  # what follows an answer may hold the end of the prompt
        end = next((at for at in range(end, len(pieces)) if pieces[at].said and pieces[at].text), len(pieces))
        pieces[start:end] = mask_supplied(pieces[start:end], prompt(recipe).lstrip())
    is_known = recipe["prompt"] != "always" and recipe["closing"] in ("always", "only the last")
    if not is_known and recipe["stop"] in ("[end]\\n", "never"):
        pieces = list(free_space(pieces, recipe))
    return [piece for piece in pieces if piece.text]


def free_space(pieces: Sequence[Piece], recipe: Recipe) -> Iterator[Piece]:
    """Yield the pieces; the white space behind the closer `[end]`, or a text without one, may be made or not."""
    closed = False
    for text, made, said in pieces:
        if made and text == "[end]\n":
            yield Piece("[end]", True)
            yield Piece("\n", None)
            closed = True
            continue
        space = text[: len(text) - len(text.lstrip())] if closed and not said else ""
        yield Piece(space, None)
        yield Piece(text[len(space) :], made, said)
        closed = closed and len(space) == len(text) and not said
        closed = closed or (made is True and recipe["stop"] == "never")


def is_untrained(message: Message) -> bool:
    return message.get("train") is False


def mask_supplied(pieces: Sequence[Piece], supplied: str) -> list[Piece]:
    """Return the pieces of an answer; where they begin with the whole prompt, that much of them is not made.

    White space behind a tag in which the prompt ends may be missing.
    """
    text = "".join(piece.text for piece in pieces)
    if supplied.rstrip().endswith(">") and text.startswith(supplied.rstrip()):
        same = zip(text, supplied, strict=False)
        supplied = supplied[: sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], same))]
    if not text.startswith(supplied):
        return list(pieces)
    left, masked = len(supplied), []
    for text, made, said in pieces:
        masked += [Piece(text[:left], False, said), Piece(text[left:], made, said)]
        left = max(0, left - len(text))
    return masked
