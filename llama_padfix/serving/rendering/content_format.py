"""Whether a template reads content as parts: the question that vLLM and SGLang answer by its syntax tree."""

from __future__ import annotations

from functools import lru_cache

from jinja2 import nodes

from llama_padfix.chat.jinja_environment import parse_template

_MEDIA = ("image", "audio", "video", "vision")


@lru_cache(maxsize=64)
def reads_parts(source: str) -> bool:
    """Return True if a template loops over the content of a message, as vLLM finds it (renderers/hf.py, 0.33)."""
    try:
        tree = parse_template(source)
        loops = list(tree.find_all(nodes.For))
        lists = _names_of(tree, "messages")
        single = {
            loop.target.name for loop in loops if isinstance(loop.target, nodes.Name) and _is_of(loop.iter, lists)
        }
        return any(_is_content_of(loop.iter, single) for loop in loops)
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
    """Return the names that hold a value or a part of it, by following assignments."""
    names = {first}
    assignments = [one for one in tree.find_all(nodes.Assign) if isinstance(one.target, nodes.Name)]
    while True:
        more = {one.target.name for one in assignments if _is_of(one.node, names)} - names  # type: ignore[attr-defined]
        if not more:
            return names
        names |= more


def _strip(node: nodes.Node | None) -> nodes.Node | None:
    """Return what filters, tests and slices are applied to."""
    while isinstance(node, (nodes.Filter, nodes.Test)) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    return node


def _is_of(node: nodes.Node | None, names: set[str]) -> bool:
    bare = _strip(node)
    return isinstance(bare, nodes.Name) and bare.ctx == "load" and bare.name in names


def _is_content_of(node: nodes.Node | None, names: set[str]) -> bool:
    bare = _strip(node)
    if isinstance(bare, nodes.Getattr):
        holder, key = bare.node, bare.attr
    elif isinstance(bare, nodes.Getitem) and isinstance(bare.arg, nodes.Const):
        holder, key = bare.node, bare.arg.value
    else:
        return False
    return key == "content" and isinstance(holder, nodes.Name) and holder.ctx == "load" and holder.name in names
