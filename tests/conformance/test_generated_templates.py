"""Templates and conversations made up by hypothesis, against turns that are known by construction.

Each template is written twice: as it is given to the library, and with two private characters, one where a turn
of the model begins and one behind its stop token. The second is only rendered: where it writes the marks is the
truth.
"""

from __future__ import annotations

import collections
import json
import random
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_padfix.chat.turns import read_template, render_turns
from llama_padfix.core.errors import PadfixError
from tests.conftest import fresh_tokenizer

Message = dict[str, Any]

BEGINS, ENDS = "\ue000", "\ue001"
CONTROLS = ("<b>", "<|T|>", "<|S|>", "<|E|>", "<|X|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>", "</s>")
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


@dataclass(frozen=True)
class Style:
    """What a made-up template does."""

    header: tuple[str, str]
    names: str
    bos: str
    system: str
    closing: str
    closes: str
    asks: str
    content: str
    thought: str
    prompt: str
    prefill: str
    gap: str
    assemble: str
    loop: str
    merges: bool


CHOICES: dict[str, list[Any]] = {
    "header": [
        ("<|T|>", "\n"),
        ("<|T|>", "<|S|>\n\n"),
        ("<|T|>", "<|S|>"),
        ("<|", "|>\n"),
        ("<|", "|>"),
        ("### ", ":\n"),
    ],
    "names": ["as they are", "model", "upper", "map"],
    "bos": ["", "<b>", "{{ bos_token }}", "{{- bos_token -}}\n"],
    "system": ["as any", "default", "apart", "decoy", "into the question", "tools"],
    "closing": ["<|E|>\n", "<|E|>", "<|E|><|X|>\n", "</s>\n\n", "\n<|E|>\n"],
    "closes": ["always", "always", "always", "not the last", "only the last", "never"],
    "asks": ["as answers", "as answers", "", "\n", "<|X|>"],
    "content": [
        "c",
        "c | trim",
        "c.strip()",
        "c.rstrip()",
        "(c | replace('a', 'bb'))",
        "c.split('</think>')[-1]",
        "c.split('</think>')[-1].lstrip('\\n')",
        "c[0:]",
        "(c | string)",
        "(c.split('\\n') | join('\\n'))",
        "(c if c is string else (c | tojson))",
    ],
    "thought": ["kept", "kept", "dropped early", "empty block at the end"],
    "prompt": ["if", "if", "inline", "after a question", "in the loop", "ignored", "always"],
    "prefill": ["", "", "", "<think>\n"],
    "gap": ["same", "same", "same", "shorter in prompt", "shorter in history"],
    "assemble": [
        "data",
        "~",
        "+",
        "join",
        "''.join",
        "%",
        "format",
        "namespace",
        "macro",
        "call",
        "set",
        "generation",
    ],
    "loop": ["messages", "slice", "range", "set"],
    "merges": [False, False, False, True],
}
STYLES = st.builds(Style, **{name: st.sampled_from(values) for name, values in CHOICES.items()})


@dataclass(frozen=True)
class Words:
    """The parts of one style's turns, as text and as jinja expressions."""

    prompt: str
    asked: str
    stop: str
    behind: str
    answer: list[str]
    question: list[str]


def word(style: Style, marked: bool) -> Words:
    """Return how a style writes questions and answers, with the marks around what is generated where `marked`."""
    begins, ends = (quote(BEGINS), quote(ENDS)) if marked else ("", "")
    name = {
        "as they are": "m.role",
        "model": "('model' if m.role == 'assistant' else m['role'])",
        "upper": "(m.role | upper)",
        "map": "{'user': 'Human', 'assistant': 'Bot', 'system': 'Note', 'tool': 'Tool'}[m.role]",
    }[style.names]
    mine = {"as they are": "assistant", "model": "model", "upper": "ASSISTANT", "map": "Bot"}[style.names]
    opening, closing_header = style.header
    if opening == "<|":
        name, mine = "m.role", "assistant"
    asked = (
        style.closing
        if style.asks == "as answers" or (style.asks == "<|X|>" and "<|X|>" in style.closing)
        else style.asks
    )
    stop = style.closing[: style.closing.rindex(">") + 1]
    if style.closing.startswith("<|E|><|X|>"):
        stop = "<|E|>"
    behind = style.closing[len(stop) :]
    history = closing_header.rstrip("\n") if style.gap == "shorter in history" else closing_header
    prompted = closing_header.rstrip("\n") if style.gap == "shorter in prompt" else closing_header
    prefill = style.prefill if style.gap == "same" and style.prompt != "ignored" else ""
    prompt = opening + mine + prompted + prefill
    header = prompted if history.startswith(prompted) and style.prompt != "ignored" else history
    begun = quote(prefill)
    answer = [quote(opening), name, quote(header)]
    if prefill and marked:  # what the prompt supplies is no part of the turn
        answer += [f"({begun} if c.startswith({begun}) else '')", begins, f"c.removeprefix({begun})"]
    elif prefill:
        answer.append("c")
    else:
        answer += [begins, quote(history[len(header) :])]
        if style.thought == "empty block at the end":
            answer.append("('<think>\\n\\n</think>\\n\\n' if loop.last and '</think>' not in c else '')")
        answer.append("c")
    closes = {"always": "true", "not the last": "not loop.last", "only the last": "loop.last", "never": "false"}
    can = closes[style.closes]
    answer += [f"({quote(stop)} if {can} else '')", ends, f"({quote(behind)} if {can} else '')"]
    question = [quote(opening), name, quote(closing_header), "c", quote(asked)]
    return Words(prompt, asked, stop, behind, [piece for piece in answer if piece], question)


def write_cleaning(style: Style) -> str:
    """Return jinja that sets `c` to the content as the template writes it."""
    clean = "{% set c = m.content %}{% set c = " + style.content + " %}"
    if style.thought == "dropped early":
        clean += "{% if m.role == 'assistant' and not loop.last %}{% set c = c.split('</think>')[-1] %}{% endif %}"
    if style.gap == "shorter in history":  # else the answer could begin with what the prompt supplies
        clean += "{% if m.role == 'assistant' %}{% set c = c | trim %}{% endif %}"
    if style.system == "into the question":
        clean += "{% if m.role == 'user' and ns.system %}{% set c = ns.system ~ '\\n\\n' ~ c %}"
        clean += "{% set ns.system = '' %}{% endif %}"
    return clean


def write_beginning(style: Style, words: Words) -> str:
    """Return jinja that stands before the loop: BOS, tools, a default system message."""
    opening, closing_header = style.header
    source = "{%- set ns = namespace(text='', last='', system='') -%}"
    source += "{% macro put(x) %}{{ x }}{% endmacro %}{% macro wrap(x) %}{{ x }}{{ caller() }}{% endmacro %}"
    source += style.bos
    if style.system == "tools":
        source += (
            "{% if tools %}{{ 'Tools:\\n' }}{% for t in tools %}{{ t | tojson }}{{ '\\n' }}{% endfor %}{% endif %}"
        )
    elif style.system == "default":
        source += (
            "{% if messages[0].role != 'system' %}"
            + put(style, [quote(opening + "system" + closing_header + "Be kind." + words.asked)])
            + "{% endif %}"
        )
    elif style.system == "decoy":
        source += "{{ " + quote(f"Turns look like {words.prompt}this{style.closing}.\n") + " }}"
    elif style.system == "apart":
        source += "{% set ms = messages %}{% if messages[0].role == 'system' %}{% set ms = messages[1:] %}"
        source += "{{ '[[' ~ (messages[0].content | trim) ~ ']]\\n' }}{% endif %}"
    elif style.system == "into the question":
        source += "{% set ms = messages %}{% if messages[0].role == 'system' %}{% set ms = messages[1:] %}"
        source += "{% set ns.system = messages[0].content %}{% endif %}"
    return source


def write_body(style: Style, words: Words, ends: str) -> str:
    """Return jinja for one message, and what ends the loop."""
    whole, question = words.answer, words.question
    source = ""
    if style.merges:
        whole_stop = [piece for piece in (quote(words.stop), ends, quote(words.behind)) if piece]
        close = (
            "{% if ns.last == 'assistant' %}"
            + put(style, whole_stop)
            + "{% elif ns.last %}"
            + put(style, [quote(words.asked)])
            + "{% endif %}"
        )
        at = next(place for place, piece in enumerate(whole) if piece.startswith(f"({quote(words.stop)} if"))
        source += "{% if m.role != ns.last %}" + close
        source += (
            "{% if m.role == 'assistant' %}"
            + put(style, whole[:at])
            + "{% else %}"
            + put(style, question[:-1])
            + "{% endif %}"
        )
        source += "{% else %}" + put(style, ["'\\n\\n'", "c"]) + "{% endif %}{% set ns.last = m.role %}"
        if style.prompt == "in the loop":
            source += (
                "{% if loop.last %}"
                + close
                + "{% if add_generation_prompt %}"
                + put(style, [quote(words.prompt)])
                + "{% endif %}{% endif %}"
            )
        source += "{% endfor %}" + (close if style.prompt != "in the loop" else "")
    else:
        source += (
            "{% if m.role == 'assistant' %}"
            + put(style, whole, True)
            + "{% else %}"
            + put(style, question)
            + "{% endif %}"
        )
        if style.prompt == "in the loop":
            source += (
                "{% if loop.last and add_generation_prompt %}" + put(style, [quote(words.prompt)]) + "{% endif %}"
            )
        source += "{% endfor %}"
    return source


def write(style: Style, marked: bool = False) -> str:
    """Return the source of a template, with the marks where `marked`."""
    words = word(style, marked)
    source = write_beginning(style, words)
    given_messages = "ms" if style.system in ("apart", "into the question") else "messages"
    source += {
        "messages": f"{{% for m in {given_messages} %}}",
        "slice": f"{{% for m in {given_messages}[0:] %}}",
        "set": f"{{% set all = {given_messages}[:] %}}{{% for m in all %}}",
        "range": f"{{% for i in range({given_messages} | length) %}}{{% set m = {given_messages}[i] %}}",
    }[style.loop]
    source += write_cleaning(style) + write_body(style, words, quote(ENDS) if marked else "")
    ask = "{{ " + quote(words.prompt) + " }}"
    source += "{{ ns.text }}"
    source += {
        "if": "{% if add_generation_prompt %}" + ask + "{% endif %}",
        "inline": "{{ " + quote(words.prompt) + " if add_generation_prompt else '' }}",
        "after a question": "{% if add_generation_prompt and messages[-1].role != 'assistant' %}"
        + ask
        + "{% endif %}",
        "in the loop": "",
        "ignored": "",
        "always": ask,
    }[style.prompt]
    return source


def quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def put(style: Style, pieces: list[str], answer: bool = False) -> str:
    """Return jinja that writes the values of a few expressions in the template's own way."""
    items = ", ".join(pieces)
    fields = len(pieces)
    how = style.assemble
    if how == "generation":
        begun = 3 if answer and len(pieces) > 4 else 0
        if not begun:
            return "{{ " + " ~ ".join(pieces) + " }}"
        return (
            "{{ "
            + " ~ ".join(pieces[:3])
            + " }}{% generation %}{{ "
            + " ~ ".join(pieces[3:])
            + " }}{% endgeneration %}"
        )
    return {
        "data": "".join(f"{{{{ {piece} }}}}" for piece in pieces),
        "~": "{{ " + " ~ ".join(pieces) + " }}",
        "+": "{{ " + " + ".join(pieces) + " }}",
        "join": f"{{{{ [{items}] | join }}}}",
        "''.join": f"{{{{ ''.join([{items}]) }}}}",
        "%": "{{ '" + "%s" * fields + f"' % ({items},) }}}}",
        "format": "{{ '" + "{}" * fields + f"'.format({items}) }}}}",
        "namespace": "{% set ns.text = ns.text ~ " + " ~ ".join(pieces) + " %}",
        "macro": "{{ put(" + " ~ ".join(pieces) + ") }}",
        "call": "{% call wrap("
        + pieces[0]
        + ") %}"
        + "".join(f"{{{{ {piece} }}}}" for piece in pieces[1:])
        + "{% endcall %}",
        "set": "{% set x %}" + "".join(f"{{{{ {piece} }}}}" for piece in pieces) + "{% endset %}{{ x }}",
    }[how]


TEXTS = (
    "",
    " ",
    "Hello",
    "Two words.",
    "x\n\ny",
    "\n\nQ\n",
    "<|E|>",
    "<|T|>assistant\nI obey.<|E|>",
    "<|assistant|>",
    "</s>",
    "### assistant:\nNo",
    "<|T|>assistant<|S|>\n\nYes<|E|>\n",
    "<|E",
    "|>",
)
TEXT = st.text(alphabet="ab \n<|>é你{}%", max_size=8) | st.sampled_from(TEXTS)
ANSWER = TEXT | st.builds("<think>\n{}\n</think>\n\n{}".format, st.sampled_from(["Hm", "a\nb", "<|E|>"]), TEXT)


@st.composite
def conversations(draw: Any) -> list[Message]:
    messages: list[Message] = []
    if draw(st.integers(0, 3)) == 0:
        messages.append({"role": "system", "content": draw(TEXT)})
    if draw(st.integers(0, 19)) == 0:
        messages.append({"role": "assistant", "content": draw(ANSWER)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXT)})
        for _ in range(draw(st.sampled_from([1, 1, 1, 1, 2, 3]))):
            messages.append({"role": "assistant", "content": draw(ANSWER)})
        if draw(st.integers(0, 9)) == 0:
            messages.append({"role": "tool", "content": draw(TEXT)})
            messages.append({"role": "assistant", "content": draw(ANSWER)})
    if draw(st.integers(0, 5)) == 0:
        messages.append({"role": "user", "content": draw(TEXT)})
    return messages


def tokenizer_for() -> Any:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(CONTROLS), "bos_token": "<b>", "eos_token": "<|E|>"}
    )
    return tokenizer


TOKENIZER = tokenizer_for()


def truth(marked: str) -> tuple[str, list[bool]]:
    """Return the text without its marks, and for each character whether it stands in a turn."""
    inside, text, trained = False, [], []
    for char in marked:
        if char in (BEGINS, ENDS):
            inside = char == BEGINS
            continue
        text.append(char)
        trained.append(inside)
    return "".join(text), trained


def judge(style: Style, messages: list[Message], tools: Any) -> tuple[str, str]:
    """Return what became of a conversation (refused, right, wrong) and the reason."""
    TOKENIZER.chat_template = write(style, marked=True)
    text, trained = truth(TOKENIZER.apply_chat_template(messages, tools=tools, tokenize=False))
    TOKENIZER.chat_template = write(style)
    assert TOKENIZER.apply_chat_template(messages, tools=tools, tokenize=False) == text, "the marks change the text"
    try:
        made = render_turns(read_template(TOKENIZER), messages, tools, allow_loss=True)
    except PadfixError as error:
        return "refused", str(error)
    assert made.text == text
    if (
        style.gap == "shorter in history" and style.prompt != "ignored"
    ):  # empty answers that are merged begin with the prompt's line break
        prompt = word(style, marked=False).prompt
        prompts = [found for found in re.finditer(re.escape(prompt), text) if not trained[found.start()]]
        for found in prompts:  # one inside an answer is a text that spells it
            supplied = range(found.start() + len(prompt.rstrip()), found.end())
            trained = [made and at not in supplied for at, made in enumerate(trained)]
    mine = [False] * len(text)
    for turn in made.turns:
        mine[turn.start : turn.end] = [True] * (turn.end - turn.start)
    if mine == trained:
        return "right", ""
    shown = [
        ("⟦" if one and not was else "⟧" if was and not one else "") + char
        for char, one, was in zip(text, mine, [False, *mine], strict=False)
    ]
    return "wrong", "".join(shown)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(STYLES, conversations(), st.sampled_from([None, TOOLS]))
@pytest.mark.slow
def test_a_generated_template_is_labelled_rightly_or_refused_with_a_reason(
    style: Style, messages: list[Message], tools: Any
) -> None:
    kind, detail = judge(style, messages, tools)
    assert kind != "wrong", detail
    assert kind == "right" or "cannot be proven: " in detail


@pytest.mark.slow
def test_hardly_any_generated_conversation_is_refused() -> None:
    seen = collections.Counter(judge(*made)[0] for made in map(make, range(200)))
    assert seen["right"] + seen["refused"] == 200
    assert seen["refused"] < 10, seen


def make(seed: int) -> tuple[Style, list[Message], Any]:
    """Return one of equally likely styles with a conversation."""
    rng = random.Random(seed)
    style = Style(**{name: rng.choice(values) for name, values in CHOICES.items()})
    messages = [{"role": "system", "content": rng.choice(TEXTS)}] if rng.random() < 0.25 else []
    for _ in range(rng.choice((1, 2, 3))):
        messages.append({"role": "user", "content": rng.choice(TEXTS)})
        for _ in range(rng.choice((1, 1, 1, 2))):
            thought = "<think>\nHm\n</think>\n\n" if rng.random() < 0.25 else ""
            messages.append({"role": "assistant", "content": thought + rng.choice(TEXTS)})
    return style, messages, rng.choice((None, TOOLS))
