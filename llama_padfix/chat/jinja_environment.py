"""The jinja2 environment in which transformers renders chat templates, for strings that are more than characters.

Two classes of strings go through a template: a traced one knows the origin of each character, a symbolic one stands
for any text. A `StringPolicy` decides what becomes of such a string where a template prints, joins, formats, filters
or tests it. `tests/chat/test_jinja_environment.py` tries all that this relies on in jinja2 with the installed version.
"""

# ruff: noqa: D102 - methods without a docstring are those of jinja2
from __future__ import annotations

import copy
import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes
from jinja2.runtime import LoopContext
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from llama_padfix.chat.seams.note_prompts import note_prompts, watch

if TYPE_CHECKING:
    from jinja2.parser import Parser
    from jinja2.runtime import Context

    Function = Callable[..., object]
    """A filter, test, macro, method or global function: what a template calls has any signature."""


class Effect(Enum):
    """What a filter does with a string."""

    PASSES = "returns it as it is"
    ITEMS = "returns items of a list, or their number, and looks at no item"
    TRIMS = "returns what the string's own method returns"
    REWRITES = "may look into it and make a new text of it"
    VARIES = "returns something else each time"


# The filters of jinja2 by effect; one that is not named here counts as a rewriting.
FILTERS = {
    **dict.fromkeys(("d", "default"), Effect.PASSES),
    **dict.fromkeys(("count", "first", "items", "last", "length", "list"), Effect.ITEMS),
    **dict.fromkeys(("map", "reject", "rejectattr", "select", "selectattr"), Effect.ITEMS),
    **dict.fromkeys(("string", "trim"), Effect.TRIMS),
    "random": Effect.VARIES,
}
_JOIN = "~"  # a filter that no template can name
# Attributes that are looked up without the sandbox's tests, which let all of them pass.
PLAIN_DICTS: set[type] = {dict}
"""Types of dicts that have no attributes and items of their own making."""
_OF_DICT = frozenset(dir(dict))
_OF_STR = frozenset(name for name in dir(str) if name[0] != "_") - {"format", "format_map"}


class TreeEditor(NodeTransformer):
    """Make each `~` of a template a filter, since jinja2 lets an environment replace filters and not operators."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802 - jinja2 finds it by this name
        self.generic_visit(node)
        if all(isinstance(piece, nodes.Const) for piece in node.nodes):
            return node  # jinja2 joins constants when it compiles
        pieces = nodes.Tuple(node.nodes, "load", lineno=node.lineno)
        return nodes.Filter(pieces, _JOIN, [], [], None, None, lineno=node.lineno)


class StringPolicy(ABC):
    """What becomes of one class of strings in a template; by default, what becomes of any `str`."""

    editor: TreeEditor = TreeEditor()
    """Edits the syntax tree of a template before it is compiled."""

    @abstractmethod
    def on_join(self, pieces: Iterable[object]) -> str:
        """Join what a template or a macro prints, or `~` joins."""

    def on_print(self, value: object) -> object:
        """Return what is printed for a value."""
        return value

    def on_generation(self, text: str) -> str:
        """Return what is written for the body of `{% generation %}`."""
        return text

    def on_modulo(self, left: object, right: object) -> object:
        """Return what stands for the left operand of `%`."""
        return left

    def on_key(self, key: object) -> object:
        """Return the key that a subscription looks up."""
        return key

    def on_call(
        self, function: Function, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[Function, tuple[object, ...]]:
        """Return the function that is called for this one, and its positional arguments."""
        return function, args

    def on_format(self, pattern: str, name: str, function: Callable[..., str]) -> Callable[..., str]:
        """Return what is called for the method `name` (format or format_map) of a pattern."""
        return function

    def on_filter(self, name: str, effect: Effect, function: Function) -> Function:
        """Return what is called for a filter."""
        return function

    def on_test(self, name: str, function: Function) -> Function:
        """Return what is called for a test."""
        return function


class _PlainStrings(StringPolicy):
    """Every string is a `str`."""

    def on_join(self, pieces: Iterable[object]) -> str:
        return "".join(map(str, pieces))


PLAIN = _PlainStrings()
"""Renders as transformers does, and follows nothing."""


class _Generation(jinja2.ext.Extension):
    """The tag `{% generation %}`."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it
    environment: ChatEnvironment

    def parse(self, parser: Parser) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body, lineno=line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return self.environment.policy.on_generation(caller())


class ChatEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The environment of transformers, in which a policy decides about strings."""

    intercepted_binops = frozenset({"%"})

    def __init__(self, policy: StringPolicy) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
            finalize=policy.on_print,
            optimized=False,  # folding constants takes a fifth of the time to compile, and a template is run few times
        )
        self.policy = policy
        self.concat = policy.on_join  # type: ignore[method-assign] # declared by its default, `"".join`
        self.globals["raise_exception"] = raise_exception
        del self.globals["lipsum"]  # other words each time
        self.filters["tojson"] = to_json
        for name, function in self.filters.items():
            self.filters[name] = policy.on_filter(name, FILTERS.get(name, Effect.REWRITES), function)
        self.filters[_JOIN] = policy.on_join
        for name, function in self.tests.items():
            self.tests[name] = policy.on_test(name, function)  # type: ignore[arg-type] # a dict of `function`, untyped

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        return super().call_binop(context, operator, self.policy.on_modulo(left, right), right)

    def getattr(self, obj: Any, attribute: str) -> Any:  # Any: of whatever a template looks at
        """Return an attribute or item as the sandbox does, in less time where it needs no tests."""
        kind = type(obj)
        if kind in PLAIN_DICTS and attribute not in _OF_DICT:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if kind in (Namespace, LoopContext) and attribute[0] != "_":
            value = getattr(obj, attribute, None)
            if type(value) in (bool, int):
                return value
        if isinstance(obj, str) and attribute in _OF_STR:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> object:  # Any: of whatever a template looks at
        if type(obj) is dict and type(argument) is str and argument in obj:
            return obj[argument]
        return super().getitem(obj, self.policy.on_key(argument))

    def call(__self, __context: Context, __obj: Function, *args: object, **kwargs: object) -> object:  # noqa: N805
        function, given = __self.policy.on_call(__obj, args, kwargs)
        return super().call(__context, function, *given, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        function = super().wrap_str_format(value)  # Any: each attribute that a template looks up is passed in
        if function is None:
            return None
        return self.policy.on_format(value.__self__, value.__name__, function)


def raise_exception(message: str) -> None:
    """Refuse a conversation, as templates do."""
    raise jinja2.TemplateError(str.__str__(message))


_INDENTED = 64
_indented: dict[object, str] = {}  # tools are the same in many rows, and JSON with an indent takes its time


def to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return a value as JSON: the filter `tojson` as transformers defines it."""
    if indent is None:
        return json.dumps(value, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys)
    compact = json.dumps(value, ensure_ascii=ensure_ascii, sort_keys=sort_keys)
    key = (compact, ensure_ascii, str(indent), repr(separators))
    found = _indented.get(key)
    if found is None:
        if len(_indented) >= _INDENTED:
            _indented.clear()
        found = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        _indented[key] = found
    return found


@functools.cache
def environment_for(policy: StringPolicy) -> ChatEnvironment:
    """Return the one environment of a policy."""
    return ChatEnvironment(policy)


@functools.lru_cache(maxsize=128)
def compile_template(source: str, policy: StringPolicy) -> jinja2.Template:
    """Return a compiled chat template; raises `jinja2.TemplateSyntaxError`, and what the policy's editor raises."""
    environment = environment_for(policy)
    # A copy takes half the time of parsing.
    tree = copy.deepcopy(parse_template(source), {id(environment_for(PLAIN)): environment})
    notes = policy is not PLAIN and note_prompts(tree)
    template = environment.from_string(policy.editor.visit(tree))
    return watch(template) if notes else template


@functools.lru_cache(maxsize=64)
def parse_template(source: str) -> nodes.Template:
    """Return the syntax tree of a chat template, which all callers share and none may change."""
    return environment_for(PLAIN).parse(source)
