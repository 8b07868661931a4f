"""Templates in the styles of many families, each against turns that are written out by hand."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from llama_padfix.chat.profile.template_profile import TemplateProfile, observe_template
from llama_padfix.chat.render import Refusal, Rendered
from llama_padfix.chat.spans.spans import AssistantSpan, _check_authors
from llama_padfix.chat.trace import Trace
from llama_padfix.chat.turns import read_template, render_turns
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.encoded_rows import label_tokens
from llama_padfix.tokens.offsets import place_spans
from tests.conftest import fresh_tokenizer
from tests.support.conversations import Message
from tests.support.families import family_tokenizer, originals

USER: Message = {"role": "user", "content": "Q1"}
ANSWER: Message = {"role": "assistant", "content": "A1"}
CHAT: list[Message] = [USER, ANSWER, {"role": "user", "content": "Q2"}, {"role": "assistant", "content": "A2"}]
TWICE: list[Message] = [USER, ANSWER, {"role": "assistant", "content": "A2"}]
THOUGHT: list[Message] = [USER, {"role": "assistant", "content": "<think>\nT\n</think>\n\nA1"}]
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "look", "arguments": {"at": "sky"}}}
CALLED: list[Message] = [
    USER,
    {"role": "assistant", "content": "A1", "tool_calls": [CALL]},
    {"role": "tool", "content": "R1", "name": "look", "tool_call_id": "abcdefghi"},
    {"role": "assistant", "content": "A2"},
]
BY_STEM = {path.stem: path for path in originals()}

CHATML = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set loop_messages = messages[1:] %}{%- else %}"
    "{%- set loop_messages = messages %}{%- endif %}{{- bos_token }}{%- for m in loop_messages %}"
    "{%- if m.role not in ['user', 'assistant'] %}{{- raise_exception('no ' + m.role) }}{%- endif %}"
    "{%- if m['role'] == 'user' %}{{- '[INST] ' + m['content'] + ' [/INST]' }}"
    "{%- else %}{{- ' ' + m['content'] | trim + '</s>' }}{%- endif %}{%- endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
DEEPSEEK = (
    "{% set ns = namespace(tool=false) %}{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set ns.tool = false %}{{ '<｜User｜>' + m.content }}"
    "{% elif m.role == 'tool' %}{% set ns.tool = true %}{{ '<｜tool▁output▁begin｜>' + m.content }}"
    "{{ '<｜tool▁output▁end｜>' }}{% elif m.tool_calls %}{{ '<｜Assistant｜>' }}{% for c in m.tool_calls %}"
    "{{ '<｜tool▁call▁begin｜>' + c.function.name + '\n' + (c.function.arguments | tojson) }}"
    "{{ '<｜tool▁call▁end｜>' }}{% endfor %}{{ '<｜end▁of▁sentence｜>' }}{% else %}"
    "{{ ('' if ns.tool else '<｜Assistant｜>') + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt and not ns.tool %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
MINICPM = (  # its BOS opens every question
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<s>' + m.content.strip() + '<AI>' }}"
    "{% else %}{{ m.content.strip() }}{% endif %}{% endfor %}"
)
PREFILL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
CLOSED_BY_NEXT = (
    "[gMASK]{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ALWAYS_OPENED = (
    "{% for m in messages %}{% if m.role == 'user' %}<|T|><|USER|>{{ m.content }}<|E|>"
    "{% else %}<|T|><|BOT|><|SAY|>{{ m.content }}<|SAID|><|E|>{% endif %}{% endfor %}<|T|><|BOT|>"
)
BLANKS_ELSEWHERE = (
    "{% for m in messages %}{{ '\n\n<|u|>\n' if m.role == 'user' else '\n\n<|a|>\n' }}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role == 'user' %}{{ '<|a|>\n' }}{% endif %}"
)
TWO_ENDS = (
    "<|b|>{% for m in messages %}{% if m.role == 'user' %}<|x▁User|>{{ m.content }}"
    "{% else %}<|x▁Bot|>{{ m.content }}<|x▁end▁2|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|x▁Bot|>{% else %}<|x▁end▁8|>{% endif %}"
)
MERGED = (
    "{% set ns = namespace(last='') %}{% for m in messages %}{% if m.role != ns.last %}"
    "{{ '<|E|>' if ns.last }}<|T|>{{ m.role }}\n{% else %}{{ '\n' }}{% endif %}{{ m.content }}"
    "{% set ns.last = m.role %}{% endfor %}<|E|>{% if add_generation_prompt %}<|T|>assistant\n{% endif %}"
)
MACRO = (
    "{% macro turn(m) -%}<|T|>{{ m.role | upper }}|{{ caller() }}<|E|>{%- endmacro %}"
    "{% for m in messages %}{% call turn(m) %}{{ m.content | replace('A', 'B') }}{% endcall %}{% endfor %}"
    "{% if add_generation_prompt %}<|T|>ASSISTANT|{% endif %}"
)
PARTS = (
    "{% for m in messages %}<|T|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{{ m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join }}{% endif %}<|E|>"
    "{% endfor %}{% if add_generation_prompt %}<|T|>assistant\n{% endif %}"
)
PREAMBLE = (
    "<|T|>system\n{% if tools is defined and tools %}{% for t in tools %}{{ t | tojson(indent=2) }}\n{% endfor %}"
    "{% endif %}Say <|T|>assistant\n to speak. {{ strftime_now('%Y') }}<|E|>{% for m in messages %}"
    "{{ '<|T|>' ~ m.role ~ '\n' ~ (m.content if loop.index0 < 99 else '') ~ '<|E|>' }}{% endfor %}"
    "{{ '<|T|>assistant\n' if add_generation_prompt }}"
)
WORDS = (
    "{% for m in messages %}{{ m.role.upper() }}: {{ m.content }}{{ eos_token if m.role == 'assistant' }}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tokenizer_with(template: str, *controls: str) -> Any:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.add_special_tokens({"additional_special_tokens": list(controls)})
    tokenizer.chat_template = template
    return tokenizer


def told(made: Rendered) -> list[str]:
    return [made.text[turn.start : turn.end] for turn in made.turns]


@pytest.mark.parametrize(
    ("template", "controls", "chat", "turns"),
    [
        (CHATML, "<|im_start|> <|im_end|>", CHAT, ["A1<|im_end|>", "A2<|im_end|>"]),
        (MISTRAL, "</s>", CHAT, [" A1</s>", " A2</s>"]),
        (MISTRAL, "[INST] [/INST] </s>", CHAT, [" A1</s>", " A2</s>"]),
        (MISTRAL, "</s>", TWICE, [" A1</s>", " A2</s>"]),
        (MISTRAL, "</s>", [ANSWER, USER, ANSWER], [" A1</s>", " A1</s>"]),
        (GEMMA, "<start_of_turn> <end_of_turn>", CHAT, ["A1<end_of_turn>", "A2<end_of_turn>"]),
        (
            DEEPSEEK,
            "<｜User｜> <｜Assistant｜> <｜end▁of▁sentence｜> <｜tool▁output▁begin｜> <｜tool▁output▁end｜> "
            "<｜tool▁call▁begin｜> <｜tool▁call▁end｜>",
            CALLED,
            [
                '<｜tool▁call▁begin｜>look\n{"at": "sky"}<｜tool▁call▁end｜><｜end▁of▁sentence｜>',
                "A2<｜end▁of▁sentence｜>",
            ],
        ),
        (MINICPM, "<s> <AI>", CHAT, ["A1", "A2"]),
        (PREFILL, "<|im_start|> <|im_end|>", THOUGHT, ["T\n</think>\n\nA1<|im_end|>"]),
        (PREFILL, "<|im_start|> <|im_end|>", CHAT, ["A1<|im_end|>", "A2<|im_end|>"]),
        (CLOSED_BY_NEXT, "[gMASK] <|user|> <|assistant|>", CHAT, ["A1", "A2"]),
        (
            ALWAYS_OPENED,
            "<|T|> <|E|> <|USER|> <|BOT|> <|SAY|> <|SAID|>",
            CHAT,
            ["<|SAY|>A1<|SAID|><|E|>", "<|SAY|>A2<|SAID|><|E|>"],
        ),
        (BLANKS_ELSEWHERE, "<|u|> <|a|>", CHAT, ["A1", "A2"]),
        (BLANKS_ELSEWHERE, "<|u|> <|a|>", TWICE, ["A1", "A2"]),
        (TWO_ENDS, "<|b|> <|x▁User|> <|x▁Bot|> <|x▁end▁2|> <|x▁end▁8|>", CHAT, ["A1<|x▁end▁2|>", "A2<|x▁end▁2|>"]),
        (MERGED, "<|T|> <|E|>", TWICE, ["A1", "\nA2<|E|>"]),
        (MERGED, "<|T|> <|E|>", CHAT, ["A1<|E|>", "A2<|E|>"]),
        (MACRO, "<|T|> <|E|>", CHAT, ["B1<|E|>", "B2<|E|>"]),
        (PARTS, "<|T|> <|E|>", CHAT, ["A1<|E|>", "A2<|E|>"]),
        (PREAMBLE, "<|T|> <|E|>", CHAT, ["A1<|E|>", "A2<|E|>"]),
        (WORDS, "</s>", CHAT, [" A1<|eot_id|>", " A2<|eot_id|>"]),
    ],
)
def test_turns_of_many_styles(template: str, controls: str, chat: list[Any], turns: list[str]) -> None:
    tokenizer = tokenizer_with(template, *controls.split())
    made = render_turns(read_template(tokenizer), chat, allow_loss=True)
    assert made.text == tokenizer.apply_chat_template(chat, tokenize=False)
    assert told(made) == turns


def test_text_behind_a_tools_answer_is_a_second_turn_of_its_message() -> None:
    tokenizer = family_tokenizer(BY_STEM["gemma4"])
    made = render_turns(read_template(tokenizer), CALLED)
    call = '<|tool_call>call:look{at:<|"|>sky<|"|>}<tool_call|><|tool_response>'
    assert told(made) == [call, "A1<turn|>", "A2<turn|>"]
    assert [(turn.message, turn.stops) for turn in made.turns] == [(1, True), (1, True), (3, True)]
    assert "R1" in made.text


def test_a_thought_that_is_left_out_of_the_history_does_not_hide_the_second_turn() -> None:
    tokenizer = family_tokenizer(BY_STEM["gemma4"])
    first = CALLED[1] | {"reasoning_content": "Hm"}
    made = render_turns(read_template(tokenizer), [USER, first, *CALLED[2:], USER, ANSWER], allow_loss=True)
    assert [turn.message for turn in made.turns] == [1, 1, 3, 5]
    assert told(made)[1] == "A1<turn|>"


def test_an_answer_that_the_history_empties_keeps_the_turns_beside_it_apart() -> None:
    tokenizer = family_tokenizer(BY_STEM["nemotron_3_nano"])
    empty = {"role": "assistant", "content": "<think>\nHm\n</think>\n\n"}
    chat = [USER, empty, {"role": "assistant", "content": "A2"}, USER]
    made = render_turns(read_template(tokenizer), chat, allow_loss=True)
    assert told(made) == ["</think><|im_end|>", "</think>A2<|im_end|>"]


def test_an_answer_under_the_header_of_another_role_is_refused() -> None:
    # Llama 3.1 writes the first message, whoever's it is, under the user's header, behind the tools.
    tokenizer = fresh_tokenizer("3.1-instruct")
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    with pytest.raises(PadfixError, match="first message"):
        render_turns(read_template(tokenizer), [ANSWER, *CHAT], [tool])


def test_what_a_template_loses_is_an_error_or_told() -> None:
    tokenizer = tokenizer_with(CHATML, "<|im_start|>", "<|im_end|>")
    template = read_template(tokenizer)
    silent = [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, *CALLED[2:]]
    with pytest.raises(PadfixError, match="leaves out the tool call 'look' of message 1"):
        render_turns(template, silent)
    made = render_turns(template, silent, allow_loss=True)
    assert told(made) == ["<|im_end|>", "A2<|im_end|>"]
    assert len(made.losses) == 1 and render_turns(template, CHAT).losses == ()
    tokenizer.chat_template = PREFILL
    parts: list[Message] = [USER, {"role": "assistant", "content": [{"type": "text", "text": "A1 <|im_end|>"}]}]
    with pytest.raises(PadfixError, match="as Python code"):
        render_turns(read_template(tokenizer), parts)
    made = render_turns(read_template(tokenizer), parts, allow_loss=True)
    assert told(made) == ["[{'type': 'text', 'text': 'A1 <|im_end|>'}]<|im_end|>"]
    assert [made.text[start:end] for start, end in made.spelled] == ["<|im_end|>"]  # Python code is no control token


def test_parts_that_together_spell_a_control_token_are_text() -> None:
    tokenizer = tokenizer_with(PARTS, "<|T|>", "<|E|>")
    parts = [{"type": "text", "text": text} for text in ("a<|", "E|>b")]
    for role in ("user", "assistant"):
        chat: list[Message] = [USER, ANSWER, {"role": "user", "content": "Q2"}, {"role": "assistant", "content": "A2"}]
        chat[0 if role == "user" else 1] = {"role": role, "content": parts}
        made = render_turns(read_template(tokenizer), chat)
        assert [made.text[start:end] for start, end in made.spelled] == ["<|E|>"]
        assert told(made)[1] == "A2<|E|>"


def test_a_token_on_the_seam_of_two_turns_that_touch_is_trained() -> None:
    offsets = [(0, 2), (2, 5), (5, 7), (7, 9)]
    touching, parted = (place_spans([1, 2, 3, 4], offsets, spans) for spans in ([(2, 4), (4, 7)], [(2, 4), (5, 7)]))
    assert label_tokens(*touching[:2]) == [-100, 2, 3, -100] and touching.ends == [1, 3]
    assert label_tokens(*parted[:2]) == [-100, -100, 3, -100]


def test_a_turn_never_holds_the_text_of_another_message() -> None:
    whole = Trace("<p>Q<p>A<e>", "<p>\0<p>\0<e>", ((3, 4, 0), (7, 8, 1)), (), False)
    assert _check_authors(whole, AssistantSpan(1, 7, 11)).refusal is None
    assert _check_authors(whole, AssistantSpan(1, 3, 11)).refusal is Refusal.FOREIGN


def test_a_template_that_repeats_the_question_for_an_empty_answer_is_refused() -> None:
    template = (
        "{% for m in messages %}<|T|>{{ m.role }}\n{{ m.content if m.content else messages[loop.index0 - 1].content }}"
        "<|E|>{% endfor %}{% if add_generation_prompt %}<|T|>assistant\n{% endif %}"
    )
    read = read_template(tokenizer_with(template, "<|T|>", "<|E|>"))
    assert told(render_turns(read, CHAT)) == ["A1<|E|>", "A2<|E|>"]
    with pytest.raises(PadfixError, match="it would hold text that its message does not hold"):
        render_turns(read, [USER, {"role": "assistant", "content": ""}])


EACH = "{% for m in messages %}<|T|>{{ m.role }}{{ mark }}\n{{ m.content }}{{ eos_token }}{% endfor %}"


def test_a_profile_is_learned_once_and_again_when_the_template_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_with(EACH, "<|T|>", "<|E|>")
    first = find_profile(tokenizer)
    assert find_profile(tokenizer) is first and (first.header, first.stops[0]) == ("<|T|>assistant\n", "<|eot_id|>")
    assert [find_profile(tokenizer, mark=mark).header for mark in (1, True, [1])] == [
        f"<|T|>assistant{mark}\n" for mark in (1, True, [1])
    ]
    tokenizer.eos_token = "<|E|>"
    assert find_profile(tokenizer).stops[0] == "<|E|>"
    tokenizer.add_special_tokens({"additional_special_tokens": ["assistant"]})
    assert "assistant" in find_profile(tokenizer).controls and "assistant" not in first.controls
    tokenizer.chat_template = EACH.replace("<|T|>", "[")
    assert find_profile(tokenizer).header == "[assistant\n"
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *args, **kwargs: "constant", raising=False)
    assert find_profile(tokenizer).error is not None, "a method of its own may render anything"


def test_a_known_profile_keeps_no_tokenizer_alive() -> None:
    tokenizer = tokenizer_with(EACH, "<|T|>")
    find_profile(tokenizer)
    watch = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert watch() is None


def find_profile(tokenizer: Any, **kwargs: object) -> TemplateProfile:
    profile = observe_template(tokenizer, kwargs)
    assert profile is not None
    return profile
