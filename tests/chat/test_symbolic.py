"""Templates that look into texts by every road there is: each is refused, or what it writes holds for every text."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment, TemplateSyntaxError

from llama_padfix.chat.symbolic import render_symbolic
from llama_padfix.chat.symbolic_slots import TemplateBranched, trim
from tests.support.conversations import shared

REFUSED = (
    "{{ (c | safe) + '<' }}",
    "{{ '<' + (c | safe) }}",
    "{{ c | safe | tojson }}",
    "{{ c | safe | trim }}",
    "{% if c | safe %}A{% endif %}{{ c }}",
    "{% if (c | safe) == 'yes' %}A{% endif %}{{ c }}",
    "{{ (c | safe).upper() }}",
    "{% if c | length > 1 %}A{% endif %}{{ c }}",
    "{% if c | length == 3 %}A{% endif %}{{ c }}",
    "{% if c | length < 3 %}A{% endif %}{{ c }}",
    "{{ c | length + 1 }}{{ c }}",
    "{{ 'abc'[c | length] }}{{ c }}",
    "{{ {3: 'A'}[c | length] }}{{ c }}",
    # comparisons and truth
    "{% if c < 'm' %}A{% endif %}{{ c }}",
    "{% if 'm' >= c %}A{% endif %}{{ c }}",
    "{% if c == messages[0].content %}A{% endif %}{{ c }}",
    "{% if c > messages[0].content %}A{% endif %}{{ c }}",
    "{% if c ~ 'x' == 'yesx' %}A{% endif %}{{ c }}",
    "{% if c.strip('.') %}A{% endif %}{{ c }}",
    "{% if c.strip('.') == '' %}A{% endif %}{{ c }}",
    "{% if c.strip('.') ~ '' %}A{% endif %}{{ c }}",
    "{% if not c | trim('y') %}A{% endif %}{{ c }}",
    # searches, both ways
    "{% if c in 'yes no' %}A{% endif %}{{ c }}",
    "{% if c not in 'yes no' %}A{% endif %}{{ c }}",
    "{% if c in {'yes': 1} %}A{% endif %}{{ c }}",
    "{% if c is in 'yes no' %}A{% endif %}{{ c }}",
    "{% if 'a' < 'b' in c %}A{% endif %}{{ c }}",
    "{% if '' in c %}A{% endif %}{{ c }}",
    "{% if c.startswith(('y', 'n')) %}A{% endif %}{{ c }}",
    "{% if c.endswith('s', 1) %}A{% endif %}{{ c }}",
    "{% if 'yes no'.startswith(c) %}A{% endif %}{{ c }}",
    "{% if 'yes no'.endswith(messages[-1].content) %}A{% endif %}{{ c }}",
    "{% if 'yes no'.find(c) >= 0 %}A{% endif %}{{ c }}",
    "{{ 'yes no'.replace(c, 'A') }}{{ c }}",
    "{{ 'a-b'.replace('-', c) }}",
    "{{ 'yes no yes'.split(c) | length }}{{ c }}",
    "{{ 'yes no yes'.strip(c) }}{{ c }}",
    "{{ 'yes no yes' | trim(c) }}{{ c }}",
    "{{ 'yes no yes'.count(c) }}{{ c }}",
    "{{ c.count('y') }}{{ c }}",
    "{{ c.find('y') }}{{ c }}",
    "{{ c.index('y') }}{{ c }}",
    "{% if ['yes', 'no'].index(c) %}A{% endif %}{{ c }}",
    "{{ ['yes', 'no'].count(c) }}{{ c }}",
    "{{ {'yes': 'A'}.get(c, 'B') }}{{ c }}",
    "{{ {'yes': 'A'}[c] }}{{ c }}",
    "{{ {c: 'A'}['yes'] }}{{ c }}",
    "{% if messages[c] is defined %}A{% endif %}{{ c }}",
    # lengths, places, slices, numbers
    "{{ c | length }}{{ c }}",
    "{{ c | count }}{{ c }}",
    "{{ c | list | length }}{{ c }}",
    "{{ (c ~ 'x') | length }}{{ c }}",
    "{{ c[0] }}{{ c }}",
    "{{ c[:3] }}{{ c }}",
    "{{ c[0:] }}",
    "{{ c[::-1] }}",
    "{{ c | first }}{{ c }}",
    "{{ c | last }}{{ c }}",
    "{{ c | reverse }}{{ c }}",
    "{% for x in c %}{{ x }}.{% endfor %}",
    "{% for x in c %}{{ loop.length }}{% endfor %}{{ c }}",
    "{{ c | int(7) }}{{ c }}",
    "{{ c | float }}{{ c }}",
    "{{ c * 2 }}",
    "{{ 2 * c }}",
    "{{ c | wordcount }}{{ c }}",
    "{% if c.isdigit() %}A{% endif %}{{ c }}",
    "{% if c.isspace() %}A{% endif %}{{ c }}",
    "{% if c is lower %}A{% endif %}{{ c }}",
    "{% if c is upper %}A{% endif %}{{ c }}",
    "{% if c is sameas messages[0].content %}A{% endif %}{{ c }}",
    "{% if c is eq 'yes' %}A{% endif %}{{ c }}",
    "{% if 'yes' is eq c %}A{% endif %}{{ c }}",
    # rewritings
    "{{ c | upper }}",
    "{{ c.upper() }}",
    "{{ c | title }}",
    "{{ c | capitalize }}",
    "{{ c.casefold() }}",
    "{{ c | replace('y', 'n') }}",
    "{{ c.replace('', '-') }}",
    "{{ c | e }}",
    "{{ c | escape }}",
    "{{ c | forceescape }}",
    "{{ c | urlencode }}",
    "{{ c | urlize }}",
    "{{ c | striptags }}",
    "{{ c | indent(2) }}",
    "{{ ('x\n' ~ c) | indent(2) }}",
    "{{ c | truncate(5) }}",
    "{{ c | center(20) }}",
    "{{ c | wordwrap(4) }}",
    "{{ c | pprint }}",
    "{{ c | xmlattr }}",
    "{{ {'a': c} | xmlattr }}",
    "{{ c | batch(2) | list }}",
    "{{ c | filesizeformat }}",
    "{% filter upper %}{{ c }}{% endfilter %}",
    "{% filter replace('y', 'n') %}{{ c }}{% endfilter %}",
    "{% autoescape true %}{{ c }}{% endautoescape %}",
    "{% autoescape true %}{{ '<' ~ c }}{% endautoescape %}",
    "{% autoescape true %}{% set x %}{{ c }}{% endset %}{{ x }}{% endautoescape %}",
    "{{ ('<b>' | safe) + c }}",
    "{{ ('<b>' | safe).join([c, c]) }}",
    "{{ c.title().strip() }}",
    "{{ c.encode() }}",
    "{{ c.translate({121: 'A'}) }}",
    "{{ c.zfill(9) }}{{ c.expandtabs() }}",
    "{{ c.partition(' ')[0] }}",
    "{{ c.rpartition('</think>')[2] }}",
    "{{ c.removeprefix('yes') }}",
    "{{ c.splitlines()[0] }}",
    "{{ c.split()[0] }}",
    "{{ c.split('\\n') | join('\\n') }}",
    # trimming
    "{{ c.strip(messages[0].content) }}",
    # joining and formatting
    "{{ [c, 'x'] | join }}",
    "{{ messages | map(attribute='content') | join('-') }}",
    "{{ messages | join('-', attribute='content') }}",
    "{{ ''.join([c, 'x']) }}",
    "{% set x = ''.join([c, 'x']) %}{{ x | length }}",
    "{% set x = ''.join(messages | map(attribute='content')) %}{% if x | length > 30 %}A{% endif %}{{ c }}",
    "{% set x = ' '.join(m.values()) %}{{ x | upper }}",
    "{% set x = m.values() | join(' ') %}{% if x | length > 30 %}A{% endif %}{{ c }}",
    "{{ c.join(['a', 'b']) }}",
    "{{ ['a', 'b'] | join(c) }}",
    "{{ '%s' % c }}",
    "{{ '%s-%s' % (c, 1) }}",
    "{{ '%(content)s' % m }}",
    "{{ '%r' % c }}",
    "{{ '%.3s' % c }}",
    "{{ c % 1 }}",
    "{{ '%s' | format(c) }}",
    "{{ '{}'.format(c) }}",
    "{% set x = '{}'.format(c) %}{% if x | length > 30 %}A{% endif %}{{ c }}",
    "{% if '{}'.format(c) == 'yes' %}A{% endif %}{{ c }}",
    "{% if '{}'.format(c)[0] == 'y' %}A{% endif %}{{ c }}",
    "{{ '{:.3}'.format(c) }}",
    "{{ '{!r}'.format(c) }}",
    "{{ '{0[0]}'.format(c) }}",
    "{% set ns = namespace(x=c) %}{% set y = '{0.x}'.format(ns) %}{{ y[0] }}",
    "{{ '{a}'.format_map({'a': c}) }}",
    "{{ c.format(1) }}",
    "{{ c }}{{ c.format }}",
    "{{ m }}",
    "{{ [c] }}",
    "{{ messages }}",
    "{{ (c, 1) }}",
    "{{ [c] | string }}",
    # loops, blocks, macros, helpers
    "{% if loop.changed(c) %}A{% endif %}{{ c }}",
    "{% if loop.previtem and loop.previtem.content == c %}A{% endif %}{{ c }}",
    "{% if loop.nextitem is defined %}{{ loop.nextitem.content | length }}{% endif %}{{ c }}",
    "{% set k = cycler(c, 'x') %}{% if k.next()[0] == 'y' %}A{% endif %}{{ c }}",
    "{% set ns = namespace(x='') %}{% set ns.x = ns.x ~ c %}{{ ns.x | length }}",
    "{% set ns = namespace(x=c) %}{{ ns }}",
    "{% set d = dict(a=c) %}{{ d | dictsort }}",
    "{% set d = dict.fromkeys(['a'], c) %}{{ d.a }}",
    "{% set x %}{{ c }}{% endset %}{{ x | length }}",
    "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(c) | length }}",
    "{% macro f(x) %}<{{ x[0] }}>{% endmacro %}{{ f(c) }}",
    "{% macro f() %}<{{ varargs }}>{% endmacro %}{{ f(c) }}",
    "{% macro w() %}<{{ caller() | upper }}>{% endmacro %}{% call w() %}{{ c }}{% endcall %}",
    "{% for x in [c, 'm'] | sort %}{{ x }};{% endfor %}",
    "{% for x in m.values() | sort %}{{ x }};{% endfor %}",
    "{% for x in [c, 'yes'] | unique %}{{ x }};{% endfor %}",
    "{% for x in messages | groupby('content') %}{{ x.grouper }};{% endfor %}",
    "{% for x in messages | groupby('role') %}{{ x.grouper }};{% endfor %}{{ c }}",
    "{% for x in messages | sort(attribute='content') %}{{ x.content }};{% endfor %}",
    "{% for x in messages | selectattr('content', 'equalto', 'yes') %}A{% endfor %}{{ c }}",
    "{% for x in messages | selectattr('content', 'in', 'yes no') %}A{% endfor %}{{ c }}",
    "{% for x in messages | map(attribute='content') | select('lower') %}A{% endfor %}{{ c }}",
    "{% for x in messages | map(attribute='content') | map('upper') %}{{ x }}{% endfor %}",
    "{% for x in messages | map(attribute='content.0') %}{{ x }}{% endfor %}{{ c }}",
    "{{ messages | map(attribute='content') | max }}",
    "{{ messages | map(attribute='content') | sum(start='') }}",
    "{{ [c, 'b'] | random }}",
    "{{ ['a', 'b'] | random }}{{ c }}",
    "{{ lipsum(1, false, 2, 3) }}{{ c }}",
    "{{ m | attr('content') }}",
    "{{ c.strip('y') | default('A', true) }}",
    "{{ c.text }}{{ c }}",
    "{{ c.text is defined }}{{ c }}",
    # what never depends on a text
    "{{ raise_exception(c) }}",
    "{{ strftime_now('%H:%M:%S') }}{{ c }}",
    "{{ strftime_now(c) }}{{ c }}",
)
LEARNED = (
    "{{ c | tojson }}",
    "{{ m.values() | list | tojson }}",
    "{{ {'a': [c]} | tojson }}",
    "{{ messages | tojson }}",
    "{{ m | tojson }}",
    "{{ [c, 'no'].count('yes') }}{{ c }}",
    "{% set k = joiner(c) %}{{ k() }}{{ k() }}",
    "{{ range(3) | join }}{{ c }}",
    "{% set t = c %}{{ ''.strip('\\n') }}{{ t }}",
    "{% if c == 'yes' %}A{% endif %}{{ c }}",
    "{% if 'yes' == c %}A{% endif %}{{ c }}",
    "{% if c != 'yes' %}A{% endif %}{{ c }}",
    "{% if (c,) == ('yes',) %}A{% endif %}{{ c }}",
    "{% if [c] == ['yes'] %}A{% endif %}{{ c }}",
    "{% if m == {'role': 'user', 'content': 'yes'} %}A{% endif %}{{ c }}",
    "{% if c %}{{ c }}{% else %}A{% endif %}",
    "{% if c.strip() == '' %}A{% endif %}{{ c }}",
    "{% if c.strip('\\n ') %}{{ c }}{% else %}A{% endif %}",
    "{% if c and c != none and c is not none and c is defined %}{{ c }}{% endif %}",
    "{{ c or 'A' }}",
    "{{ 'A' if not c else c }}",
    "{{ c and 'A' }}",
    "{% if 'yes' in c %}A{% endif %}{{ c }}",
    "{% if 'yes' not in c %}A{% endif %}{{ c }}",
    "{% if c in ['yes', 'no'] %}A{% endif %}{{ c }}",
    "{% if c in ('yes', 'no') %}A{% endif %}{{ c }}",
    "{% if 'yes' in messages | map(attribute='content') %}A{% endif %}{{ c }}",
    "{% if 'yes' in messages | map(attribute='content') | list %}A{% endif %}{{ c }}",
    "{% if 'yes' in m.values() %}A{% endif %}{{ c }}",
    "{% if ('content', 'yes') in m.items() %}A{% endif %}{{ c }}",
    "{% if c.startswith('y') %}A{% endif %}{{ c }}",
    "{{ {'a': 'A'}.get('b', c) }}",
    "{% if messages | map(attribute='content') | list is eq ['yes', 'no', 'yes'] %}A{% endif %}{{ c }}",
    "{{ c.replace('yes', 'no') }}",
    "{{ c | string }}",
    "{{ ('<b>' | safe) ~ c }}",
    "{{ c.split('</think>')[-1] }}",
    "{{ c.split('</think>')[-1].lstrip('\\n') }}",
    "{{ c.rsplit('yes', 1)[0] }}",
    "{{ c.split('yes', 0)[0] }}",
    "{{ (c.split('yes') | first).strip() }}",
    "{{ c.split('yes') | length }}{{ c }}",
    "{{ c.strip() }}",
    "{% filter trim %}  {{ c }}  {% endfilter %}",
    "{{ (c ~ ' ') | trim }}",
    "{{ (c + '\\n').rstrip() }}",
    "{% set x | trim %} {{ c }} {% endset %}{{ x }}",
    "{{ c | trim }}",
    "{{ c.lstrip() }}|{{ c }}",
    "{{ c.rstrip('\\n') }}",
    "{{ c.strip('ys') }}",
    "{{ c.strip('ys').strip() }}",
    "{{ c | trim('.') }}",
    "{{ 'x' ~ c ~ 1 ~ none ~ undefined }}",
    "{{ 'x' + c + 'y' }}",
    "{{ c + c }}",
    "{{ loop.cycle(c, 'x') }}",
    "{% set k = cycler(c, 'x') %}{{ k.next() }}{{ k.current }}",
    "{% set ns = namespace(x='') %}{% set ns.x = ns.x ~ c %}{{ ns.x }}",
    "{% set d = dict(a=c) %}{{ d.a }}",
    "{% set d = dict(a=c) %}{{ d.values() | list | first }}",
    "{% set x %}{{ c }}{% endset %}{{ x }}",
    "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(c) }}",
    "{% macro f() %}<{{ varargs[0] }}{{ kwargs.k }}>{% endmacro %}{{ f(c, k=c) }}",
    "{% macro w() %}<{{ caller() }}>{% endmacro %}{% call w() %}{{ c }}{% endcall %}",
    "{% macro w(x) %}{{ caller(x) }}{% endmacro %}{% call(y) w(c) %}{{ y }}{% endcall %}",
    "{% for x in [[c, []]] recursive %}{{ x[0] }}{{ loop(x[1]) }}{% endfor %}",
    "{% for x in [c] if x %}{{ x }}{% endfor %}",
    "{% for x in [c] if x == 'yes' %}A{% endfor %}{{ c }}",
    "{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in m | items %}{{ k }}={{ v }};{% endfor %}",
    "{% for x in messages | selectattr('content', 'in', ['yes']) %}A{% endfor %}{{ c }}",
    "{% for x in messages | selectattr('content') %}{{ x.content }}{% endfor %}",
    "{% for x in messages | rejectattr('content', 'string') %}A{% endfor %}{{ c }}",
    "{% for x in messages | selectattr('role', 'equalto', 'user') %}{{ x.content }}{% endfor %}",
    "{% for x in messages | map(attribute='content') | map('trim') %}{{ x }}{% endfor %}",
    "{{ messages | map(attribute='content') | list | first }}",
    "{{ (messages | map(attribute='content') | list)[1] }}",
    "{{ m.get('content') }}",
    "{{ m['content'] }}",
    "{{ c | default('A') }}",
    "{{ c | default('A', true) }}",
    "{{ undefined | default(c) }}",
    "{{ '' | default(c, true) }}",
    "{% if c is string and c is not mapping and c is iterable and c is not number %}{{ c }}{% endif %}",
    "{{ m | length }}{{ messages | length }}{{ m.role | upper }}{{ c }}",
    "{% if m.role == 'user' %}{{ c }}{% continue %}{% endif %}{{ c }}{% if loop.last %}{% break %}{% endif %}",
    "{% generation %}{{ c }}{% endgeneration %}",
    "{{ raise_exception('no') if c == 'yes' }}{{ c }}",
    "{% if raise_exception is defined %}A{% endif %}{{ c }}",
    "\n  {% if true %}\n{{ c }}\n  {% endif %}\n",
    "{{ {'a': '<b>'} | tojson }}{{ c }}",
    "{% if ({'a': '<b>'} | tojson) == '{\"a\": \"<b>\"}' %}{{ c }}{% else %}A{% endif %}",
    "{{ c }}{{ c }}",
    "A",
    "{{ c | safe }}",
    "{% set x %}{{ c }}{% endset %}{% if x == 'yes' %}A{% endif %}{{ c }}",
    "{% for k, v in m | dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{{ (c | safe) ~ '<' }}{{ '&' ~ (c | safe) }}",
    "{% if c | length > 0 %}A{% endif %}{{ c }}{% if 0 == c | count %}B{% endif %}",
    "{% if c | trim | length %}A{% endif %}{{ c }}",
)
LOOKS = (*REFUSED, *LEARNED)
WORDS: tuple[str, ...] = (
    "yes",
    "no",
    "y",
    "s",
    "...",
    ".",
    "m",
    "</think>",
    "\n",
    " ",
    "{}",
    "{0}",
    "%s",
    "%",
    "<",
    "&",
    "'",
    "é",
    "7",
)
WORDS += ("A", "x", "\\n", "\t", "yes no", "\u00a0", "\x1c", "\u200b", "\ufeff", "👍", "\u0301", "\x85")
ROLES = ("user", "assistant", "user")


def whole(body: str) -> str:
    return f"{{% for m in messages %}}{{% set c = m.content %}}[{body}]{{% endfor %}}"


def learn(source: str) -> Any:
    try:
        return render_symbolic(source, [{"role": role} for role in ROLES], {"add_generation_prompt": False})
    except (TemplateBranched, Exception):
        return None


def fill(literals: tuple[str, ...], slots: Any, texts: list[str]) -> str:
    said = []
    for slot in slots:
        said.append(trim(texts[slot.place], slot.operations))
    return literals[0] + "".join(text + literal for text, literal in zip(said, literals[1:], strict=True))


def render(source: str, texts: list[str]) -> str:
    messages = [{"role": role, "content": text} for role, text in zip(ROLES, texts, strict=True)]
    return str(shared("3.1-instruct").apply_chat_template(messages, chat_template=source, tokenize=False))


def say(rng: random.Random) -> str:
    return "".join(rng.choices(WORDS, k=rng.choice((1, 1, 1, 2, 3, 12))))


def holds_for(source: str, learned: Any, rng: random.Random, count: int) -> int:
    """Compare what was learned with the template itself on random texts; return on how many it says something."""
    literals, slots, lacks = learned
    compared = 0
    for _ in range(count):
        texts = [say(rng) for _ in ROLES]
        if any(not text.strip() or any(word in text for word in lacks) for text in texts):
            continue
        assert fill(literals, slots, texts) == render(source, texts), (source, texts)
        compared += 1
    return compared


def knows_loop_controls() -> bool:
    """Whether this transformers renders `{% break %}` and `{% continue %}`, which are an extension of jinja2."""
    try:
        return render("{% for m in messages %}{% break %}{% endfor %}", ["a"] * len(ROLES)) == ""
    except TemplateSyntaxError:
        return False


@pytest.mark.parametrize("body", LOOKS)
def test_a_look_into_a_text_is_refused_or_changes_nothing(body: str) -> None:
    source = whole(body)
    learned = learn(source)
    assert (learned is not None) == (body in LEARNED)
    if "{% continue %}" in body and not knows_loop_controls():
        pytest.skip("this transformers renders no template with {% continue %}, so there is nothing to compare with")
    if learned is not None:
        assert holds_for(source, learned, random.Random(body), 80) > 4


# Expressions made up at random, of everything that jinja knows

ATOMS: tuple[str, ...] = (
    "c",
    "c",
    "c",
    "'yes'",
    "'a yes b'",
    "''",
    "1",
    "none",
    "[c, 'yes']",
    "m",
    "{'k': c}",
    "m.values()",
    "''.join([c])",
)
ATOMS += ("messages | map(attribute='content')", "('x' ~ c)", "c.strip()", "c.split('yes')[-1]", "m.role", "(c, 'm')")
FILTERS = sorted(set(Environment().filters) - {"random"})
COMMON = ("trim", "string", "default", "list", "first", "length", "join", "upper")
METHODS = sorted(name for name in dir(str) if not name.startswith("_"))
TESTS = sorted(name for name in Environment().tests if name.isidentifier() and name not in ("filter", "test"))
OPERATORS = ("+", "~", "*", "%", "==", "!=", "<", ">", "in", "not in", "and", "or", "//", "-")


def make_expression(rng: random.Random, depth: int = 3) -> str:
    if depth == 0 or rng.random() < 0.15:
        return rng.choice(ATOMS)
    one, other = make_expression(rng, depth - 1), make_expression(rng, depth - 1 if rng.random() < 0.3 else 0)
    given = rng.choice(("", "", other, other, "'yes'", "1", f"'yes', {other}"))
    return rng.choice(
        (
            f"(({one}) | {rng.choice(FILTERS)}({given}))",
            f"(({one}) | {rng.choice(COMMON)}({given}))",
            f"({one}).{rng.choice(METHODS)}({given})",
            f"({one}).{rng.choice(('strip', 'split', 'replace', 'format', 'join', 'startswith', 'get'))}({given})",
            f"(({one}) {rng.choice(OPERATORS)} ({other}))",
            f"(({one}) is {rng.choice(TESTS)}({other}))",
            f"(({one}) is {rng.choice(TESTS)})",
            f"({one})[{rng.choice(('0', '-1', ':2', other))}]",
            f"({one} if {other} else 'B')",
            f"[{one}, {other}]",
        )
    )


def make_body(rng: random.Random) -> str:
    made = make_expression(rng)
    return rng.choice(
        (
            f"{{{{ {made} }}}}",
            f"{{% if {made} %}}A{{% endif %}}{{{{ c }}}}",
            f"{{% set x %}}{{{{ {made} }}}}{{% endset %}}{{% if x | length > 25 %}}A{{% endif %}}{{{{ c }}}}",
            f"{{% for x in [{made}] %}}{{{{ x }}}}{{% if x == 'yes' %}}A{{% endif %}}{{% endfor %}}",
            f"{{% macro f(x) %}}{{{{ x }}}}{{% endmacro %}}{{{{ f({made}) }}}}",
        )
    )


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.integers(0, 10**9))
@pytest.mark.slow
def test_whatever_a_template_does_with_a_text_what_is_learned_holds(seed: int) -> None:
    rng = random.Random(seed)
    source = whole(make_body(rng))
    learned = learn(source)
    if learned is not None:
        holds_for(source, learned, rng, 12)
