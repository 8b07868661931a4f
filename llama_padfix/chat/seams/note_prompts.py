"""A template that says in front of each answer which prompt it would write if the conversation ended there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from llama_padfix.chat.seams.noted import PROMPTS, Prompts
from llama_padfix.chat.seams.same_state import ASKED, find_parts

if TYPE_CHECKING:
    import jinja2
    from jinja2.runtime import Context

    Render = Callable[[Context], Iterator[str]]

_OPEN, _CLOSED = f"{PROMPTS}_open", f"{PROMPTS}_closed"  # what is written behind the loop, with a prompt and without


class _Answer(NodeTransformer):
    """Puts an answer in place of the question whether there is a prompt."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer

    def visit_Name(self, node: nodes.Name) -> nodes.Expr:  # noqa: N802 - jinja2 finds it by this name
        return nodes.Const(self.answer) if node.name == ASKED else node


def note_prompts(tree: nodes.Template) -> bool:
    """Change a template so that it notes its prompts, if its variable `PROMPTS` is given; False where it cannot.

    What it writes stays the same.
    """
    parts = find_parts(tree)
    if parts is None:
        return False
    behind = copy.deepcopy(parts.behind, {id(tree.environment): tree.environment})
    for number, (loop, attributes) in enumerate(parts.gathering):
        values = nodes.List([nodes.Getattr(_name(name), attribute, "load") for name, attribute in attributes])
        seen = _call("keep", nodes.Const(number), _target(loop), values)
        loop.body.insert(0, _if("asks", loop, [seen]))
        at_end = _call("keep", nodes.Const(number), nodes.Const(None), copy.deepcopy(values))
        tree.body.insert(tree.body.index(loop) + 1, nodes.If(_name(PROMPTS), [at_end], [], []))
    closed, opened = (
        nodes.AssignBlock(nodes.Name(name, "store"), None, [_Answer(answer).visit(node) for node in pieces])
        for name, answer, pieces in ((_CLOSED, False, copy.deepcopy(behind)), (_OPEN, True, behind))
    )
    noted = _call("note", _target(parts.loop), _name(_OPEN))
    # What is written behind an answer that is the last message may ask more of its text.
    parts.loop.body[:0] = [_if("ends", parts.loop, [closed]), _if("asks", parts.loop, [opened, noted])]
    tree.set_lineno(1)
    return True


def _name(name: str) -> nodes.Name:
    return nodes.Name(name, "load")


def _target(loop: nodes.For) -> nodes.Name:
    assert isinstance(loop.target, nodes.Name)
    return _name(loop.target.name)


def _method(name: str, *given: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.Getattr(_name(PROMPTS), name, "load"), [*given], [], None, None)


def _call(name: str, *given: nodes.Expr) -> nodes.Node:
    return nodes.Output([_method(name, *given)])


def _if(method: str, loop: nodes.For, body: list[nodes.Node]) -> nodes.If:
    return nodes.If(nodes.And(_name(PROMPTS), _method(method, _target(loop))), body, [], [])


def watch(template: jinja2.Template) -> jinja2.Template:
    """Have a template that notes its prompts tell them what it writes, too."""
    render: Render = template.root_render_func

    def watched(context: Context) -> Iterator[str]:
        prompts = context.get(PROMPTS)
        if not isinstance(prompts, Prompts):
            return render(context)
        return prompts.follow(context["messages"], render(context))

    template.root_render_func = watched
    return template
