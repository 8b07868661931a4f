"""What a template's syntax tree proves: that its loop over the messages does for the first ones what it does alone.

`{% for message in messages %}...{% endfor %}{% if add_generation_prompt and not ns.is_tool %}<A>{% endif %}`: in front
of a message, what stands behind the loop would write the prompt of the conversation up to that message.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from jinja2 import nodes

Attribute: TypeAlias = tuple[str, str]
"""A name and an attribute of its namespace."""

ASKED = "add_generation_prompt"
_MESSAGES = "messages"
_BACKWARD = {"index", "index0", "first", "previtem", "depth", "depth0"}  # of a loop: what the items before decide
_STATEFUL = {"joiner", "cycler", "self", "super"}


@dataclass(frozen=True)
class Parts:
    """The parts of a template around its loop over the messages."""

    loop: nodes.For
    behind: list[nodes.Node]
    """What follows the loop."""
    gathering: list[tuple[nodes.For, tuple[Attribute, ...]]]
    """Loops over the messages in front of it, which write nothing, and the attributes that each of them sets."""


@dataclass
class _Uses:
    """What nodes read and set."""

    read: set[str] = field(default_factory=set)
    bare: set[str] = field(default_factory=set)
    """The names that are read as a whole, and not one attribute of them."""
    assigned: set[str] = field(default_factory=set)
    attributes: set[Attribute] = field(default_factory=set)
    """The attributes of namespaces that are set."""
    of_loop: set[str] = field(default_factory=set)
    """What is read of the loop around the nodes; "break" where they end it."""


def find_parts(tree: nodes.Template) -> Parts | None:
    """Return the parts of a template whose loop depends on no later message; None where that is not proven."""
    places = [place for place, node in enumerate(tree.body) if _is_loop(node)]
    if not places:
        return None
    loop, behind = tree.body[places[-1]], tree.body[places[-1] + 1 :]
    assert isinstance(loop, nodes.For)
    inner = _read([loop.target, *loop.body])
    if {_MESSAGES, ASKED} & inner.read or inner.of_loop - _BACKWARD:
        return None
    after, whole = _read(behind), _read(tree.body)
    shared = after.read & inner.assigned or after.assigned & (inner.read | inner.assigned)
    if shared or _MESSAGES in after.read or after.attributes or after.of_loop:
        return None
    odd = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block)
    if any(True for _ in tree.find_all(odd)) or whole.read & _STATEFUL or _MESSAGES in whole.assigned:
        return None
    if _find_namespaces(tree, whole) & whole.bare:  # it may have another name
        return None
    if any(_read(macro.body).attributes for macro in tree.find_all(nodes.Macro)):
        return None
    if any(True for node in behind for _ in node.find_all(nodes.Macro)):
        return None
    gathering = []
    for node in tree.body[: places[-1]]:
        if _is_loop(node):
            assert isinstance(node, nodes.For)
            own = _read([node.target, *node.body])
            if {_MESSAGES, ASKED} & own.read or own.of_loop - _BACKWARD or node.find(nodes.Output):
                return None
            gathering.append((node, tuple(sorted(own.attributes))))
        elif not _is_default(node):
            own = _read([node])
            if {_MESSAGES, ASKED} & (own.read | own.assigned):
                return None
    return Parts(loop, behind, gathering)


def _is_loop(node: nodes.Node) -> bool:
    """Return True for a loop over all messages."""
    if not (isinstance(node, nodes.For) and isinstance(node.iter, nodes.Name) and node.iter.name == _MESSAGES):
        return False
    return isinstance(node.target, nodes.Name) and not (node.test or node.else_ or node.recursive)


def _is_default(node: nodes.Node) -> bool:
    """Return True for `{% if not add_generation_prompt is defined %}`, which is always given."""
    if not isinstance(node, nodes.If) or node.elif_ or node.else_ or not isinstance(node.test, nodes.Not):
        return False
    test = node.test.node
    given = test.node if isinstance(test, nodes.Test) and test.name == "defined" else None
    return isinstance(given, nodes.Name) and given.name == ASKED


def _find_namespaces(tree: nodes.Template, whole: _Uses) -> set[str]:
    """Return the names of objects whose attributes a template sets, or may."""
    made = {name for name, _ in whole.attributes}
    for node in tree.find_all((nodes.Assign, nodes.AssignBlock)):
        if any(name.name == "namespace" for name in node.find_all(nodes.Name)):
            made |= _read([node]).assigned
    return made


def _read(body: Iterable[nodes.Node]) -> _Uses:
    uses = _Uses()
    for node in body:
        _add(node, uses, False)
    return uses


def _add(node: nodes.Node, uses: _Uses, inside: bool) -> None:
    """Add what a node reads and sets; `inside` another loop, `loop` is that one."""
    if isinstance(node, nodes.Getitem) and _is_first(node):
        return
    if isinstance(node, nodes.Name):
        if node.ctx != "load":
            uses.assigned.add(node.name)
            return
        uses.read.add(node.name)
        uses.bare.add(node.name)
        if node.name == "loop" and not inside:
            uses.of_loop.add("all")
    elif isinstance(node, nodes.NSRef):
        uses.attributes.add((node.name, node.attr))
    elif isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        uses.read.add(node.node.name)
        if node.node.name == "loop" and not inside:
            uses.of_loop.add(node.attr)
    elif isinstance(node, nodes.For):
        for outer in (node.target, node.iter, *node.else_):
            _add(outer, uses, inside)
        for inner in (*node.body, *filter(None, [node.test])):
            _add(inner, uses, True)
    else:
        if isinstance(node, nodes.Break) and not inside:
            uses.of_loop.add("break")
        if isinstance(node, nodes.Macro):
            uses.assigned.add(node.name)
        for child in node.iter_child_nodes():
            _add(child, uses, inside)


def _is_first(node: nodes.Getitem) -> bool:
    """Return True for `messages[0]`, with which every beginning of the conversation begins."""
    place, items = node.arg, node.node
    is_zero = isinstance(place, nodes.Const) and place.value == 0
    return is_zero and isinstance(items, nodes.Name) and items.name == _MESSAGES
