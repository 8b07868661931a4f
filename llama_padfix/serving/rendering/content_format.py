"""Whether a template reads content as parts: the question that vLLM and SGLang answer by its syntax tree."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from jinja2 import nodes

from llama_padfix.chat.jinja_environment import parse_template

_MEDIA = ("image", "audio", "video", "vision")


@lru_cache(maxsize=64)
def reads_parts(source: str) -> bool:
    """Return True if a template loops over the content of a message, as vLLM finds it (renderers/hf.py, 0.33).

    The content may reach the loop as an argument of a macro; outside of macros a loop over `content` counts.
    """
    try:
        tree = parse_template(source)
        loops = list(tree.find_all(nodes.For))
        lists = _names_of(tree, "messages")
        single = {
            loop.target.name for loop in loops if isinstance(loop.target, nodes.Name) and _is_of(loop.iter, lists)
        }
        in_macros: dict[nodes.For, set[str]] = {}
        for macro in tree.find_all(nodes.Macro):
            given = _content_parameters(tree, macro, single)
            in_macros |= dict.fromkeys(macro.find_all(nodes.For), given)
        return any(
            _is_content_of(loop.iter, single)
            or (isinstance(loop.iter, nodes.Name) and loop.iter.name in in_macros.get(loop, {"content"}))
            for loop in loops
        )
    except Exception:  # a template that jinja2 does not read
        return False


@lru_cache(maxsize=64)
def reads_parts_as_sglang(source: str) -> bool:
    """Return True if SGLang takes a template for one of parts (srt/parser/jinja_template_utils.py, 0.5.23)."""
    if any(word in source for word in _MEDIA):
        return True
    try:
        loops = parse_template(source).find_all(nodes.For)
        return any(_is_content_of(loop.iter, {"message", "msg", "m"}) for loop in loops)
    except Exception:
        return False


def _names_of(tree: nodes.Template, first: str) -> set[str]:
    """Return the names that hold a value or a part of it, by following assignments; "ns.rest" in a namespace."""
    names = {first}
    assignments = list(tree.find_all(nodes.Assign))
    while True:
        more = {name for one in assignments for name in _assigned_names(one, names)} - names
        if not more:
            return names
        names |= more


def _assigned_names(assignment: nodes.Assign, names: set[str]) -> Iterator[str]:
    target, value = assignment.target, assignment.node
    if _is_of(value, names) and isinstance(target, (nodes.Name, nodes.NSRef)):
        yield target.name if isinstance(target, nodes.Name) else f"{target.name}.{target.attr}"
    if isinstance(target, nodes.Name) and isinstance(value, nodes.Call) and _dotted(value.node) == "namespace":
        yield from (f"{target.name}.{given.key}" for given in value.kwargs if _is_of(given.value, names))


def _content_parameters(tree: nodes.Template, macro: nodes.Macro, messages: set[str]) -> set[str]:
    """Return the parameters of a macro that get the content of a message somewhere."""
    given = set()
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name == macro.name:
            named = [(parameter.name, value) for parameter, value in zip(macro.args, call.args, strict=False)]
            named += [(keyword.key, keyword.value) for keyword in call.kwargs]
            given |= {name for name, value in named if _is_content_of(value, messages)}
    return given & {parameter.name for parameter in macro.args}


def _strip(node: nodes.Node | None) -> nodes.Node | None:
    """Return what filters, tests and slices are applied to."""
    while isinstance(node, (nodes.Filter, nodes.Test)) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    return node


def _is_of(node: nodes.Node | None, names: set[str]) -> bool:
    return _dotted(_strip(node)) in names


def _dotted(node: nodes.Node | None) -> str | None:
    """Return a name that is read, or one with its attributes such as "ns.rest"; None for anything else."""
    if isinstance(node, nodes.Getattr):
        base = _dotted(node.node)
        return None if base is None else f"{base}.{node.attr}"
    return node.name if isinstance(node, nodes.Name) and node.ctx == "load" else None


def _is_content_of(node: nodes.Node | None, names: set[str]) -> bool:
    bare = _strip(node)
    if isinstance(bare, nodes.Getattr):
        holder, key = bare.node, bare.attr
    elif isinstance(bare, nodes.Getitem) and isinstance(bare.arg, nodes.Const):
        holder, key = bare.node, bare.arg.value
    else:
        return False
    return key == "content" and isinstance(holder, nodes.Name) and holder.ctx == "load" and holder.name in names
