"""Parts of a template: each is jinja, and beside it the text that it writes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

Message: TypeAlias = dict[str, Any]
Recipe: TypeAlias = dict[str, str]


class Piece(NamedTuple):
    """A stretch of a text: whether the model must generate it, and who says it if it is a message's own text.

    `made` is None where both readings are right.
    """

    text: str
    made: bool | None
    said: str = ""


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
    said: str = ""

    def write(self, place: Place) -> Piece:
        there = self.when is None or self.when.holds(place)
        said = self.said and (self.said if self.said != "role" else str(place.message["role"]))
        return Piece(self.text(place) if there else "", self.made, said)


def quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def both(one: Condition | None, other: Condition) -> Condition:
    return other if one is None else one & other


def literal(text: str, made: bool = False, when: Condition | None = None) -> Part:
    return Part(quote(text), lambda place: text, made, when)


# From parts to jinja


def put(parts: Sequence[Part], how: str, marked: bool = False) -> str:
    """Return jinja that writes parts in one of the ways that templates have for it; `marked` ones say what is made."""
    parts = [part for part in parts if part.jinja != '""']
    if how in ("data", "quoted"):
        found = ""
        for (made, condition), group in itertools.groupby(parts, lambda one: (one.made, one.when and one.when.jinja)):
            written = "".join(put_one(replace(part, when=None), raw=how == "data") for part in group)
            written = f"{{% generation %}}{written}{{% endgeneration %}}" if made and marked else written
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
