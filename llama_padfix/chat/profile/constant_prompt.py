"""What a chat template's syntax tree proves of its generation prompt: that no conversation can change it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING

from llama_padfix.chat.jinja_environment import PLAIN, environment_for, parse_template
from llama_padfix.chat.traced_render import source_of

if TYPE_CHECKING:
    from jinja2 import nodes

    from llama_padfix.core.types import TokenizerLike, Tool

_ASKED = "add_generation_prompt"
# What a template gets from the conversation, or from what stands around a piece of its source.
_VARYING = {"messages", "tools", "documents", _ASKED, "loop", "self", "super", "caller", "varargs", "kwargs"}
_TOOLS: tuple[list[Tool] | None, ...] = (None, [{}])  # a template may have a twin for tools
_DEFAULTS = ("d", "default")


class Constancy(Enum):
    """What a template's syntax tree proves of its generation prompt."""

    NONE = "a conversation may change it"
    WHERE_WRITTEN = "it is one text, and a conversation may have none"
    ALWAYS = "whatever conversation ends with the same one"


def find_constancy(tokenizer: TokenizerLike, kwargs: Mapping[str, object], prompt: str) -> Constancy:
    r"""Return what is proven of the generation prompt.

    `{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`: no conversation can change it, and one
    rendering is enough. At the end of a template it may also hang on arguments, such as `enable_thinking`.

    Args:
        tokenizer: A Hugging Face tokenizer.
        kwargs: The arguments of every rendering.
        prompt: The prompt that was seen.
    """
    from jinja2 import nodes

    try:
        tree, other = (parse_template(source_of(tokenizer, tools, kwargs)) for tools in _TOOLS)
    except Exception:  # a tokenizer without a default template
        return Constancy.NONE
    if tree != other:
        return Constancy.NONE
    uses = [name for name in tree.find_all(nodes.Name) if name.name == _ASKED]
    for choice in tree.find_all(nodes.If):
        if not (isinstance(choice.test, nodes.Name) and choice.test.name == _ASKED):
            continue
        is_last = choice is tree.body[-1]
        pieces = [piece for node in choice.body for piece in getattr(node, "nodes", [node])]
        if len(uses) == 1 and all(isinstance(piece, (nodes.TemplateData, nodes.Const)) for piece in pieces):
            return Constancy.ALWAYS if is_last else Constancy.WHERE_WRITTEN
        names = find_fixed_names(tree)
        # What is asked elsewhere may change the history, and stands in front of what ends the text.
        if is_last and all(_is_fixed(node, names) for node in choice.body):
            given = [node for node in tree.body if isinstance(node, nodes.Assign) and _is_fixed(node, names)]
            written = _write([*given, *choice.body], {**tokenizer.special_tokens_map, **kwargs})
            return Constancy.ALWAYS if written == prompt else Constancy.NONE
    return Constancy.NONE


def marks_generation(tokenizer: TokenizerLike, kwargs: Mapping[str, object]) -> bool:
    """Return True if a template marks with `{% generation %}` what the model writes, or may."""
    from jinja2 import nodes

    try:
        trees = [parse_template(source_of(tokenizer, tools, kwargs)) for tools in _TOOLS]
    except Exception:  # a tokenizer without a default template
        return True
    return any(tree.find(nodes.CallBlock) is not None for tree in trees)


def find_fixed_names(tree: nodes.Template) -> set[str]:
    """Return the names in a template whose values no conversation can change.

    An argument that is never set, or a name that is set once, outside of all loops and choices, by fixed values:
    `{% set enable_thinking = enable_thinking if enable_thinking is defined else true %}`
    """
    from jinja2 import nodes

    names = list(tree.find_all(nodes.Name))
    stored = Counter(name.name for name in names if name.ctx != "load")
    stored.update(macro.name for macro in tree.find_all(nodes.Macro))
    fixed = {name.name for name in names if not stored[name.name]} - _VARYING
    for node in tree.body:
        if isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name) and stored[node.target.name] == 1:
            name = node.target.name
            if name not in _VARYING and _is_fixed(node.node, {*fixed, name}):
                fixed.add(name)
    return fixed


def _is_fixed(node: nodes.Node, names: set[str]) -> bool:
    """Return True if what a node writes or is worth depends on nothing but fixed names."""
    from jinja2 import nodes

    if isinstance(node, nodes.Name):
        return node.name in names
    plain = (
        nodes.Assign,
        nodes.Output,
        nodes.TemplateData,
        nodes.Const,
        nodes.If,
        nodes.CondExpr,
        nodes.Test,
        nodes.Not,
        nodes.And,
    )
    more = (nodes.Or, nodes.Compare, nodes.Operand, nodes.Concat, nodes.Add)
    is_default = isinstance(node, nodes.Filter) and node.name in _DEFAULTS
    return (isinstance(node, (*plain, *more)) or is_default) and all(
        _is_fixed(child, names) for child in node.iter_child_nodes()
    )


def _write(body: list[nodes.Node], context: Mapping[str, object]) -> str | None:
    """Return what fixed nodes write; None where they fail."""
    from jinja2 import nodes

    environment = environment_for(PLAIN)
    own = copy.deepcopy(body, {id(environment): environment})  # compiling changes a tree, and this one is shared
    try:
        return environment.from_string(PLAIN.editor.visit(nodes.Template(own, lineno=1))).render(context)
    except Exception:  # a template is a program of its author: it may raise anything
        return None
