"""What a chat template writes of one message: on which others that depends, read off the template's syntax tree.

The loop over the messages of many templates looks at one message at a time and keeps nothing for the next one. What
it writes then depends on that message, on whether it is one of the first ones or the last one, and on what the
template looks at before its loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jinja2
from jinja2 import nodes

from llama_padfix.chat.jinja_environment import parse_template


class Reach(NamedTuple):
    """How far a template looks from each message, where it looks no farther than that."""

    firsts: int
    """Each message may be written by the roles of so many first ones, or by how many of these there are."""
    places: int
    """From this place on messages are written alike, wherever they stand, except for the last one."""


_ALLOWED: tuple[type[nodes.Node], ...] = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.Const, nodes.Name)
_ALLOWED += (nodes.Getattr, nodes.Getitem, nodes.Assign, nodes.If, nodes.For, nodes.Filter, nodes.Test, nodes.Call)
_ALLOWED += (nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.CondExpr, nodes.Concat, nodes.Keyword)
_ALLOWED += (nodes.Add, nodes.Sub, nodes.Mul, nodes.Mod, nodes.Neg, nodes.Slice)
_ALLOWED += (nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair)
_FUNCTIONS = ("raise_exception", "strftime_now")
_METHODS: tuple[str, ...] = (
    "strip",
    "lstrip",
    "rstrip",
    "startswith",
    "endswith",
    "split",
    "rsplit",
    "removeprefix",
    "removesuffix",
)
_METHODS += ("replace", "upper", "lower", "title", "capitalize", "get", "items", "keys", "values")
_FILTERS = ("trim", "string", "tojson", "default", "d", "length", "count", "upper", "lower", "title", "capitalize")
_READERS = ("join", "list", "first", "last")  # filters that read an iterator at once
_LAZY = ("map", "select", "reject", "selectattr", "rejectattr", "items")  # filters that return one
_LOOP = "loop"


class _FartherError(Exception):
    """The template may look farther, or keep something from one message to the next."""


def read_reach(source: str) -> Reach | None:
    """Return how far a template looks from each message; None where it may look anywhere.

    Args:
        source: The chat template.
    """
    reader = _Reader()
    try:
        reader.visit(parse_template(source))
    except (_FartherError, jinja2.TemplateError):
        return None
    firsts = reader.firsts + reader.skipped if reader.firsts else 0
    return Reach(firsts, reader.skipped + reader.index + 1)


class _Reader:
    """Goes through a syntax tree and refuses all that is not known to look at one message at a time.

    A loop has variables of its own for each message, and the sandbox lets no template change a list or a dict: only
    namespaces, iterators and functions keep anything, and none of these is let through.
    """

    def __init__(self) -> None:
        self.lists = {"messages"}
        """The names of the messages, of which some first ones may be left out."""
        self.skipped = 0
        """At most so many are left out."""
        self.firsts = 0
        """So many first ones of such a list are looked at, or counted."""
        self.index = 0
        """The last place of a loop that is asked for."""
        self.is_looped = False
        """Whether there is a loop over the messages."""

    def visit(self, node: nodes.Node, depth: int = 0) -> None:
        """Read a node that stands in `depth` loops; raises `_FartherError`."""
        if type(node) not in _ALLOWED:
            raise _FartherError
        special: Callable[[nodes.Node, int], None] | None = getattr(
            self, f"_visit_{type(node).__name__.lower()}", None
        )
        if special is not None:
            special(node, depth)
        else:
            self._visit_inner(node, depth)

    def _visit_inner(self, node: nodes.Node, depth: int) -> None:
        for inner in node.iter_child_nodes():
            self.visit(inner, depth)

    def _visit_name(self, node: nodes.Name, depth: int) -> None:
        if node.name in self.lists or node.name == _LOOP:
            raise _FartherError

    def _visit_getitem(self, node: nodes.Getitem, depth: int) -> None:
        if not self._is_list(node.node):
            self._visit_inner(node, depth)
        else:
            self.firsts = max(self.firsts, _read_number(node.arg) + 1)

    def _visit_getattr(self, node: nodes.Getattr, depth: int) -> None:
        if not _is_of_loop(node, "first", "last"):
            self._visit_inner(node, depth)

    def _visit_compare(self, node: nodes.Compare, depth: int) -> None:
        left, [right, *more] = node.expr, node.ops
        if _is_of_loop(left, "index", "index0") and not more:
            self.index = max(self.index, _read_number(right.expr))
        elif isinstance(left, nodes.Filter) and left.name in ("length", "count") and self._is_list(left.node):
            self.firsts = max(self.firsts, *(_read_number(one.expr) + 1 for one in node.ops))
        else:
            self._visit_inner(node, depth)

    def _visit_call(self, node: nodes.Call, depth: int) -> None:
        called = node.node
        if isinstance(called, nodes.Getattr) and called.attr in _METHODS:
            self.visit(called.node, depth)
        elif not (isinstance(called, nodes.Name) and called.name in _FUNCTIONS):
            raise _FartherError
        for inner in node.iter_child_nodes(exclude=("node",)):
            self.visit(inner, depth)

    def _visit_filter(self, node: nodes.Filter, depth: int) -> None:
        if node.name in _READERS and node.node is not None:
            self._visit_iterated(node.node, depth)
            for inner in node.iter_child_nodes(exclude=("node",)):
                self.visit(inner, depth)
        elif node.name in _FILTERS:
            self._visit_inner(node, depth)
        else:
            raise _FartherError

    def _visit_iterated(self, node: nodes.Node, depth: int) -> None:
        """Read what is iterated where it stands, which may be an iterator."""
        if isinstance(node, nodes.Filter) and node.name in _LAZY and node.node is not None:
            self._visit_iterated(node.node, depth)
            for inner in node.iter_child_nodes(exclude=("node",)):
                self.visit(inner, depth)
        else:
            self.visit(node, depth)

    def _visit_assign(self, node: nodes.Assign, depth: int) -> None:
        if not isinstance(node.target, nodes.Name):
            raise _FartherError
        if self._is_rest(node.node, depth):
            self.lists.add(node.target.name)
            return
        self.visit(node.target, depth)
        self.visit(node.node, depth)

    def _visit_for(self, node: nodes.For, depth: int) -> None:
        if node.recursive or node.test is not None or node.else_:
            raise _FartherError
        self.visit(node.target, depth)
        if not self._is_rest(node.iter, depth):
            self._visit_iterated(node.iter, depth)
        elif self.is_looped:
            raise _FartherError
        else:
            self.is_looped = True
        for inner in node.body:
            self.visit(inner, depth + 1)

    def _is_list(self, node: nodes.Node | None) -> bool:
        return isinstance(node, nodes.Name) and node.name in self.lists

    def _is_rest(self, node: nodes.Node, depth: int) -> bool:
        """Return True for the messages, or all but some first ones; raises where these are chosen in a loop."""
        start = 0
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice) and self._is_list(node.node):
            cut = node.arg
            if cut.start is None or cut.stop is not None or cut.step is not None:
                raise _FartherError
            node, start = node.node, _read_number(cut.start)
        if not self._is_list(node):
            return False
        if depth:
            raise _FartherError
        self.skipped += start
        return True


def _is_of_loop(node: nodes.Node, *names: str) -> bool:
    if not isinstance(node, nodes.Getattr) or node.attr not in names:
        return False
    return isinstance(node.node, nodes.Name) and node.node.name == _LOOP


def _read_number(node: nodes.Node) -> int:
    """Return a number that is written in the template and is not negative."""
    if not isinstance(node, nodes.Const) or type(node.value) is not int or node.value < 0:
        raise _FartherError
    return node.value
