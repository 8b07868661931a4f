"""Chat templates composed of constructs of real ones, each with its own account of what it writes and what is trained.

A `Recipe` names one option for each dimension of a template. `compose` turns it into jinja and, beside it, into Python
functions that write the same text from the messages as pieces of (text, made). `made` is true for what the model must
generate. The pieces come from how the template was composed; nothing is read back from jinja or from the library.

What the model must generate, in each composition:

- Headers are not made, however the history's header and the generation prompt differ (white space in front, a line
  more in the prompt). What the prompt does not supply and the history holds between header and content is made
  (`ASSISTANT:` in the prompt, `ASSISTANT: ` in the history: the space). Text that ends header and prompt alike
  (`</think>` of a prompt that ends in `<think></think>`) is header.
- What the prompt supplies behind the header (an opened thought, first words) is not made where the history holds all
  of it at that place, even if it stands in the content. A part of it supplies nothing: then all is made.
- Contents, thoughts and calls of the assistant are made as the template writes them, with the channel headers between
  the thought and the answer of one message: the model generates those in one go.
- All closing tokens of the turn are made, up to the last one and with the white space between content and them. White
  space behind the last one is not. A closer that is written only when a message follows, or by the next message, is
  made where it is written. Separators of white space between messages are never made.
- Without a closer the turn ends where the message's text ends.
- Tool results, and the tags around them, are not made; behind a result inside the model's turn the model goes on
  without a header.
- A generation prompt that the template writes without request is not made.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]
Piece: TypeAlias = tuple[str, bool]
Recipe: TypeAlias = dict[str, str]


@dataclass
class Place:
    """Where in a conversation a part writes: the messages of the loop, and the index of the current one."""

    messages: Sequence[Message]
    index: int = 0
    memory: dict[str, str] = field(default_factory=dict)

    @property
    def message(self) -> Message:
        return self.messages[self.index]

    def near(self, step: int) -> str:
        """Return the role of the message before (-1) or behind (1) this one; "" where there is none."""
        at = self.index + step
        return str(self.messages[at]["role"]) if 0 <= at < len(self.messages) else ""

    @property
    def last_question(self) -> int:
        return max((at for at, message in enumerate(self.messages) if message["role"] == "user"), default=-1)


@dataclass(frozen=True)
class Condition:
    """A condition twice: in jinja and in Python."""

    jinja: str
    holds: Callable[[Place], bool]

    def __and__(self, other: Condition) -> Condition:
        return Condition(f"({self.jinja}) and ({other.jinja})", lambda place: self.holds(place) and other.holds(place))

    def __invert__(self) -> Condition:
        return Condition(f"not ({self.jinja})", lambda place: not self.holds(place))


@dataclass(frozen=True)
class Part:
    """A stretch of a message's text: a jinja expression (or a block of statements), and what it writes."""

    jinja: str
    text: Callable[[Place], str]
    made: bool = False
    when: Condition | None = None
    block: bool = False

    def write(self, place: Place) -> Piece:
        there = self.when is None or self.when.holds(place)
        return (self.text(place) if there else "", self.made)


def quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def literal(text: str, made: bool = False, when: Condition | None = None) -> Part:
    return Part(quote(text), lambda place: text, made, when)


# The options. The first of each dimension is the plain one, to which the shrinker goes back.

DIMENSIONS: dict[str, tuple[str, ...]] = {
    "header": ("chatml", "two tokens", "role tokens", "words", "from", "colon", "text tag", "turn"),
    "role": ("literal", "variable", "renamed"),
    "stop": ("<E>\\n", "<E>", "<E1><E>", "<E1>\\n<E>\\n", "\\n<E>\\n", " <E> ", "<E>\\n\\n", "never"),
    "ask": ("shared", "own", "none", "newline", "last of shared"),
    "closing": ("always", "when followed", "not the last", "before the next"),
    "between": ("nothing", "before", "after"),
    "gap": (
        "same",
        "space before the prompt",
        "line more in the prompt",
        "prompt ends earlier",
        "newline more in the prompt",
        "opened thought",
        "first words",
        "empty thought",
        "history holds the end",
    ),
    "thought": (
        "none",
        "field",
        "field behind the last question",
        "field of the last message",
        "cut from earlier content",
        "empty block at the end",
        "block always",
    ),
    "calls": ("none", "json", "tagged arguments", "python arguments", "quoted arguments"),
    "call stop": ("as answers", "own"),
    "results": ("own turn", "in a user turn", "inside the turn", "inside by nextitem", "inside with the name"),
    "channels": ("none", "channels"),
    "system": ("as any", "default", "sliced", "into the question"),
    "start": ("nothing", "bos_token", "literal"),
    "loop": ("messages", "range", "set", "slice"),
    "assemble": ("data", "quoted", "~", "+", "%", "format", "join", "namespace", "macro", "set"),
    "content": ("as it is", "trim", "strip()", "rstrip()", "set and trim"),
    "empty": ("written", "guarded", "left out when last"),
    "prompt": ("if", "after a question", "inline", "in the loop", "not after an answer", "ignored", "always"),
    "eos": ("the stop token", "another"),
    "vocabulary": ("bytes", "merges", "thought tokens"),
}
PLAIN: Recipe = {name: options[0] for name, options in DIMENSIONS.items()}
CONTROLS = (
    *(
        "<S>",
        "<T>",
        "<H>",
        "<U>",
        "<A>",
        "<Y>",
        "<R>",
        "<turn>",
        "<text>",
        "<E>",
        "<E1>",
        "<Q>",
        "<K>",
        "<B>",
        "<other>",
    ),
    *("<call>", "</call>", "<result>", "</result>", "<C>", "<M>", "<D>"),
)
SOFT = ("<think>", "</think>")
DEFAULT_SYSTEM = "Be kind."
FIRST_WORDS = "Here are my steps:\n"


def normalize(recipe: Recipe) -> Recipe:
    """Return the recipe with the options that cannot stand beside others set to the plain ones."""
    made = dict(recipe)

    def plain(*names: str) -> None:
        for name in names:
            made[name] = PLAIN[name]

    if made["channels"] != "none":
        plain("header", "role", "gap", "content", "empty", "thought")
        made["thought"] = recipe["thought"] if recipe["thought"].startswith("field") else "none"
        made["calls"] = "none" if made["calls"] == "none" else "json"
    if made["calls"] == "none":
        plain("call stop", "results")
    if made["stop"] == "never":
        plain("ask", "closing", "call stop")
        made["ask"] = "newline" if recipe["ask"] == "newline" else "none"
    if made["ask"] == "last of shared" and not made["stop"].startswith("<E1>"):
        plain("ask")
    if made["results"].startswith("inside"):
        plain("closing", "call stop", "between", "prompt")
        made["prompt"] = "after a question"
    if made["between"] != "nothing" or made["closing"] == "before the next":
        made["gap"] = "same" if made["gap"] == "space before the prompt" else made["gap"]
    if made["prompt"] == "ignored":
        plain("gap")
    if made["prompt"] == "always" and made["closing"] in ("when followed", "not the last", "before the next"):
        plain("closing")
    if made["header"] == "role tokens" and made["role"] != "literal":
        plain("role")
    if made["header"] in ("words", "colon"):
        plain("role")
    if made["gap"] == "prompt ends earlier" and header(made, "assistant") == header(made, "assistant").rstrip():
        plain("gap")
    if made["gap"] == "line more in the prompt" and made["header"] in ("role tokens", "turn"):
        plain("gap")
    if made["empty"] == "left out when last" and made["calls"] != "none":
        plain("empty")
    if made["loop"] == "range" and made["results"] == "inside by nextitem":
        plain("loop")
    if made["system"] == "into the question" and made["results"] == "in a user turn":
        plain("system")
    return made


# Headers and closers


def header(recipe: Recipe, role: str) -> str:
    """Return the text that opens a message of a role."""
    name = "model" if recipe["role"] == "renamed" and role == "assistant" else role
    if recipe["channels"] != "none":
        return f"<S>{name}" + ("" if role == "assistant" else "<M>")
    return {
        "chatml": f"<S>{name}\n",
        "two tokens": f"<T>{name}<H>\n\n",
        "role tokens": {"user": "<U>", "assistant": "<A>", "system": "<Y>", "tool": "<R>"}[role],
        "words": "### " + {"user": "Instruction", "assistant": "Response"}.get(role, role.title()) + ":\n",
        "from": f"From: {name}\n\n ",
        "colon": role.upper() + ": ",
        "text tag": f"<{name}>\n",
        "turn": f"<turn>{name}:<text>",
    }[recipe["header"]]


def header_part(recipe: Recipe, role: str, when: Condition | None = None) -> Part:
    whole = header(recipe, role)
    if recipe["role"] == "literal":
        return literal(whole, when=when)
    name = "model" if recipe["role"] == "renamed" and role == "assistant" else role
    before, _, behind = whole.partition(name)
    variable = "role" if recipe["role"] == "renamed" else "m.role"
    return Part(f"{quote(before)} ~ {variable} ~ {quote(behind)}", lambda place: whole, when=when)


def closer(recipe: Recipe, role: str) -> str:
    """Return the text that closes a message of a role."""
    if recipe["stop"] == "never":
        shared = ""
    else:
        shared = recipe["stop"].replace("\\n", "\n")
    if role == "assistant":
        return shared
    tail = shared[len(shared.rstrip()) :]
    return {"shared": shared, "own": "<Q>\n", "none": "", "newline": "\n", "last of shared": "<E>" + tail}[
        recipe["ask"]
    ]


def prompt(recipe: Recipe) -> str:
    """Return the generation prompt."""
    whole = header(recipe, "assistant")
    more = {
        "newline more in the prompt": "\n",
        "opened thought": "<think>\n",
        "first words": FIRST_WORDS,
        "empty thought": "<think>\n\n</think>\n\n",
    }.get(recipe["gap"], "")
    if recipe["gap"] == "space before the prompt":
        whole = "\n" + whole
    elif recipe["gap"] == "line more in the prompt":
        at = len(whole) - 1 if whole.endswith((" ", "\n")) else len(whole)
        whole = whole[:at] + "\nTo: user" + whole[at:]
    elif recipe["gap"] == "prompt ends earlier":
        whole = whole.rstrip()
    elif recipe["gap"] == "history holds the end":
        whole += "<think></think>"
    if recipe["between"] != "nothing":
        whole = "\n\n" + whole
    return whole + more


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


def is_first(recipe: Recipe) -> Condition:
    return Condition(names(recipe).first, lambda place: place.index == 0)


def is_last(recipe: Recipe) -> Condition:
    return Condition(names(recipe).last, lambda place: place.index == len(place.messages) - 1)


HAS_CALLS = Condition("m.tool_calls", lambda place: bool(place.message.get("tool_calls")))


# The text of an answer


def content_part(recipe: Recipe) -> Part:
    expression = "m.content" if recipe["calls"] == "none" else "(m.content or '')"

    def text(place: Place) -> str:
        return place.message["content"] or ""

    cleanings: dict[str, tuple[str, Callable[[str], str]]] = {
        "as it is": (expression, str),
        "trim": (f"({expression} | trim)", str.strip),
        "strip()": (f"{expression}.strip()", str.strip),
        "rstrip()": (f"{expression}.rstrip()", str.rstrip),
        "set and trim": ("c", str.strip),
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

        return Part(cut, write)
    return Part(jinja, lambda place: clean(text(place)))


def thought_parts(recipe: Recipe) -> list[Part]:
    kind, channels = recipe["thought"], recipe["channels"] != "none"
    has = Condition("m.reasoning_content", lambda place: bool(place.message.get("reasoning_content")))
    opened, closed = ("<C>analysis<M>", "<D><S>assistant") if channels else ("<think>\n", "\n</think>\n\n")

    def thought(place: Place) -> str:
        return place.message.get("reasoning_content") or ""

    written = Part("m.reasoning_content", thought, True, has)
    if kind.startswith("field"):
        if kind == "field behind the last question":
            late = Condition(f"{names(recipe).index} > ns.question", lambda place: place.index > place.last_question)
            has = late & has
        elif kind == "field of the last message":
            has = is_last(recipe) & has
        written = Part("m.reasoning_content", thought, True, has)
        return [literal(opened, True, has), written, literal(closed, True, has)]
    if kind == "block always":
        return [literal(opened, True), Part("(m.reasoning_content or '')", thought, True), literal(closed, True)]
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

    elif recipe["calls"] == "json":
        body = '<call>{"name": "' + name + '", "arguments": {{ f.arguments | tojson }}}</call>'

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


def closing_parts(recipe: Recipe, role: str) -> list[Part]:
    """Return what closes a message where it is written: made for the assistant, up to the last token."""
    known, made = names(recipe), role == "assistant"
    if recipe["closing"] == "before the next":
        return []
    when = None
    if recipe["closing"] == "when followed":
        when = Condition(f"not ({known.last}) or add_generation_prompt", (~is_last(recipe)).holds)
    elif recipe["closing"] == "not the last":
        when = ~is_last(recipe)
    if role == "tool" and recipe["results"] == "in a user turn":
        when = ~before_role(recipe, "tool") if when is None else when & ~before_role(recipe, "tool")
    text = closer(recipe, role)
    stop = text.rstrip() if made else text
    behind = text[len(stop) :]
    if made and recipe["results"].startswith("inside"):
        when = ~HAS_CALLS if when is None else when & ~HAS_CALLS
    if made and recipe["call stop"] == "own":
        calls = HAS_CALLS if when is None else when & HAS_CALLS
        answers = ~HAS_CALLS if when is None else when & ~HAS_CALLS
        return [literal("<K>", True, calls), literal(stop, True, answers), literal(behind, when=when)]
    return [literal(stop, made, when), literal(behind, when=when)]


def leading_parts(recipe: Recipe) -> list[Part]:
    """Return what a message writes for the one before it: its closer, and a separator."""
    parts: list[Part] = []
    if recipe["closing"] == "before the next":
        answered = behind_role(recipe, "assistant")
        text = closer(recipe, "assistant")
        stop = text.rstrip()
        parts += [literal(stop, True, answered), literal(text[len(stop) :], when=answered)]
        parts.append(literal(closer(recipe, "user"), when=~is_first(recipe) & ~answered))
    if recipe["between"] == "before":
        parts.append(literal("\n\n", when=~is_first(recipe)))
    return parts


def answer_parts(recipe: Recipe) -> tuple[list[Part], list[Part]]:
    """Return the parts of an answer before its made text, and all others."""
    inside = recipe["results"].startswith("inside")
    new = ~behind_role(recipe, "tool") if inside else None
    opening = opening_parts(recipe, new)
    content = content_part(recipe)
    when = ~HAS_CALLS if recipe["channels"] != "none" else None
    if recipe["empty"] == "guarded":
        filled = Condition("m.content", lambda place: bool(place.message["content"]))
        when = filled if when is None else when & filled
    made = thought_parts(recipe)
    if recipe["channels"] != "none":
        made.append(literal("<C>final<M>", True, ~HAS_CALLS))
    made.append(Part(content.jinja, content.text, True, when))
    if recipe["calls"] != "none":
        made += call_parts(recipe)
    made += closing_parts(recipe, "assistant")
    if recipe["results"] == "inside by nextitem":
        answered = HAS_CALLS & before_role(recipe, "tool")
        result = Part(
            f"{names(recipe).following}.content",
            lambda place: place.messages[place.index + 1]["content"],
            when=answered,
        )
        made += [literal("<result>", when=answered), result, literal("</result>", when=answered)]
    return opening, made


def result_parts(recipe: Recipe) -> list[Part]:
    content = Part("m.content", lambda place: place.message["content"])
    if recipe["results"] == "inside by nextitem":
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
    parts = [*leading_parts(recipe), header_part(recipe, role)]
    if role == "user" and recipe["system"] == "into the question":

        def write(place: Place) -> str:
            system = place.memory.pop("system", "")
            return f"{system}\n\n" if system else ""

        block = '{% if ns.system %}{{ ns.system ~ "\\n\\n" }}{% set ns.system = "" %}{% endif %}'
        parts.append(Part(block, write, block=True))
    return [*parts, content_part(recipe), *closing_parts(recipe, role)]


# From parts to jinja


def put(parts: Sequence[Part], how: str) -> str:
    """Return jinja that writes parts in one of the ways that templates have for it."""
    parts = [part for part in parts if part.jinja != '""']
    if how in ("data", "quoted"):
        found = ""
        for condition, group in itertools.groupby(parts, lambda part: part.when and part.when.jinja):
            written = "".join(put_one(replace(part, when=None), raw=how == "data") for part in group)
            found += f"{{% if {condition} %}}{written}{{% endif %}}" if condition else written
        return found
    source, expressions = "", []
    for at, part in enumerate(parts):
        if part.block:
            source += f"{{% set b{at} %}}{put_one(part)}{{% endset %}}"
            expressions.append(f"b{at}")
        elif part.when is not None:
            expressions.append(f"({part.jinja} if {part.when.jinja} else '')")
        else:
            expressions.append(f"({part.jinja})")
    if not expressions:
        return source
    items, count = ", ".join(expressions), len(expressions)
    joined = " ~ ".join(expressions)
    return (
        source
        + {
            "~": f"{{{{ {joined} }}}}",
            "+": f"{{{{ {' + '.join(expressions)} }}}}",
            "%": "{{ '" + "%s" * count + f"' % ({items},) }}}}",
            "format": "{{ '" + "{}" * count + f"'.format({items}) }}}}",
            "join": f"{{{{ [{items}] | join }}}}",
            "namespace": f"{{% set ns.text = ns.text ~ {joined} %}}",
            "macro": f"{{{{ put({joined}) }}}}",
            "set": f"{{% set x %}}{{{{ {joined} }}}}{{% endset %}}{{{{ x }}}}",
        }[how]
    )


def put_one(part: Part, raw: bool = False) -> str:
    if part.block:
        written = part.jinja
    elif raw and is_plain_data(part.jinja):
        written = json.loads(part.jinja)
    else:
        written = f"{{{{ {part.jinja} }}}}"
    return written if part.when is None else f"{{% if {part.when.jinja} %}}{written}{{% endif %}}"


def is_plain_data(jinja: str) -> bool:
    """Whether an expression is a text that jinja leaves as it is between two blocks."""
    try:
        text = json.loads(jinja)
    except ValueError:
        return False
    return bool(text) and not text[0].isspace() and not text.endswith(" ")


@dataclass(frozen=True)
class Composed:
    """A template, and how to write a conversation as it does."""

    recipe: Recipe
    source: str
    eos: str
    write: Callable[[Sequence[Message]], list[Piece]]


def compose(recipe: Recipe) -> Composed:
    """Return the template of a normalized recipe."""
    eos = "<E>" if recipe["eos"] == "the stop token" else "<other>"
    return Composed(recipe, write_source(recipe), eos, lambda messages: write_pieces(recipe, messages))


def write_source(recipe: Recipe) -> str:
    how, known = recipe["assemble"], names(recipe)
    loop = write_loop(recipe)
    before = "{% macro put(x) %}{{ x }}{% endmacro %}" if how == "macro" else ""
    before += {"nothing": "", "bos_token": "{{ bos_token }}", "literal": "<B>"}[recipe["start"]] + write_system(recipe)
    if "ns.question" in loop:
        before += f"{{% for m in {known.items} %}}{{% if m.role == 'user' %}}{{% set ns.question = loop.index0 %}}"
        before += "{% endif %}{% endfor %}"
    source = before + loop
    if "ns." in source:
        source = "{% set ns = namespace(text='', system='', question=-1) %}" + source
    generate = write_prompt(recipe)
    condition = {
        "after a question": "add_generation_prompt and messages[-1].role == 'user'",
        "not after an answer": "add_generation_prompt and messages[-1].role != 'assistant'",
    }.get(recipe["prompt"], "add_generation_prompt")
    if recipe["prompt"] == "inline":
        inner = f"{{% set late %}}{generate}{{% endset %}}"
        return source + inner + "{{ late if add_generation_prompt else '' }}"
    if recipe["prompt"] == "always":
        return source + generate
    if recipe["prompt"] in ("ignored", "in the loop"):
        return source
    return source + f"{{% if {condition} %}}{generate}{{% endif %}}"


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
    return source


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
    answer = put([*leading_parts(recipe), *opening, *made], how)
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
    pieces: list[Piece] = [("" if recipe["start"] == "nothing" else "<B>", False)]
    memory: dict[str, str] = {}
    looped = messages
    first = messages[0]
    if recipe["system"] in ("sliced", "into the question") and first["role"] == "system":
        looped = messages[1:]
        if recipe["system"] == "sliced":
            text = content_part(recipe | {"thought": "none"}).text(Place([first]))
            pieces.append((header(recipe, "system") + text + closer(recipe, "system"), False))
        else:
            memory["system"] = first["content"]
    elif recipe["system"] == "default" and first["role"] != "system":
        pieces.append((header(recipe, "system") + DEFAULT_SYSTEM + closer(recipe, "system"), False))
    opening, made = answer_parts(recipe)
    others = {
        "user": question_parts(recipe, "user"),
        "system": question_parts(recipe, "system"),
        "tool": result_parts(recipe) if recipe["calls"] != "none" else [],
    }
    supplied = prompt(recipe).lstrip()
    for index, message in enumerate(looped):
        place = Place(looped, index, memory)
        last = index == len(looped) - 1
        if message["role"] != "assistant":
            pieces += [part.write(place) for part in others[message["role"]]]
        elif recipe["empty"] != "left out when last" or message["content"] or not last:
            pieces += [part.write(place) for part in leading_parts(recipe)]
            pieces += mask_supplied([part.write(place) for part in [*opening, *made]], supplied)
        else:
            continue
        if recipe["between"] == "after" and not last:
            pieces.append(("\n\n", False))
    if recipe["prompt"] == "always":
        pieces.append((prompt(recipe), False))
    return [piece for piece in pieces if piece[0]]


def mask_supplied(pieces: Sequence[Piece], supplied: str) -> list[Piece]:
    """Return the pieces of an answer; where they begin with the whole prompt, that much of them is not made."""
    if not "".join(text for text, _ in pieces).startswith(supplied):
        return list(pieces)
    left, masked = len(supplied), []
    for text, made in pieces:
        masked += [(text[:left], False), (text[left:], made)]
        left = max(0, left - len(text))
    return masked
