"""Kinds of chat templates whose turns are easy to get wrong, each as small as the kind allows, with the right labels."""
# ruff: noqa: E501  # a template is read whole

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llama_padfix import ChatEncoder, PadfixError, find_markers, mask_labels

USER: dict[str, Any] = {"role": "user", "content": "Hi"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "Yes"}
RESULT = {"role": "tool", "name": "look", "tool_call_id": "abcdefghi", "content": "blue"}


def call(**arguments: Any) -> dict[str, Any]:
    function = {"name": "look", "arguments": arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "id": "abcdefghi", "function": function}],
    }


def make_byte_tokenizer(template: str, special: Sequence[str], eos: str = "<end>") -> Any:
    """A tokenizer with a token for each byte and the special tokens of a template: ids show every character."""
    letters = {char: at for at, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(letters, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, additional_special_tokens=[*special])
    tokenizer.chat_template = template
    return tokenizer


def show(tokenizer: Any, row: Mapping[str, Sequence[int]]) -> str:
    """Return the text of a row, with its trained stretches in guillemets."""
    shown, inside = "", False
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        if (label != -100) != inside:
            shown, inside = shown + ("»" if inside else "«"), not inside
        shown += tokenizer.decode([token])
    return shown + ("»" if inside else "")


SHARED_CLOSERS = (
    "{% for m in messages %}<turn>{{ m.role }}:<text>{{ m.content }}<end_text><end>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant:<text>{% endif %}"
)
RESULT_INSIDE_THE_TURN = (
    "{% for m in messages %}{% if m.role=='assistant' and not (loop.index0 and loop.previtem.role=='tool') %}"
    "<turn>model\n{% endif %}{% if m.role=='assistant' %}{% for c in m.tool_calls or [] %}"
    "<call>{{ c.function.name }}{{ c.function.arguments|tojson }}</call>{% endfor %}"
    "{% if loop.nextitem is defined and loop.nextitem.role=='tool' %}<result>{{ loop.nextitem.content }}</result>"
    "{% elif m.tool_calls %}<result>{% endif %}{{ m.content }}{% if not m.tool_calls %}<end>\n{% endif %}"
    "{% elif m.role=='user' %}<turn>user\n{{ m.content }}<end>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role=='user' %}<turn>model\n{% endif %}"
)
RESULT_NAMES_THE_CALL = (
    "{% for m in messages %}{% if m.role=='assistant' %}"
    "{% if not (loop.index0 and messages[loop.index0-1].role=='tool') %}<turn>model\n{% endif %}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}</call><result>{{ c.function.name }}:{% endfor %}"
    "{% if not m.tool_calls %}{{ m.content }}<end>\n{% endif %}{% elif m.role=='tool' %}{{ m.content }}</result>"
    "{% else %}<turn>user\n{{ m.content }}<end>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role=='user' %}<turn>model\n{% endif %}"
)
CLOSED_WHEN_FOLLOWED = (
    "{% for m in messages %}{{ '<S>'+m.role+'\n'+m.content }}"
    "{% if not loop.last or add_generation_prompt %}{{ '<E>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role!='assistant' %}{{ '<S>assistant\n' }}{% endif %}"
)
SPACE_BEFORE_THE_PROMPT = (
    "{% for m in messages %}{{ '<|h|>'+m.role+'<|/h|>\n\n'+m.content+'\n<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|h|>assistant<|/h|>\n\n' }}{% endif %}"
)
LONGER_PROMPT = (
    "{% for m in messages %}{{ 'From: '+m.role+'\n\n '+m.content+' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'From: assistant\nTo: user\n\n ' }}{% endif %}"
)
HISTORY_HOLDS_THE_END_OF_THE_PROMPT = (
    "{% for m in messages %}{% if m.role=='user' %}<U>{{ m.content }}{% else %}<A></think>{{ m.content }}<end>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<A><think></think>{% endif %}"
)
PROMPT_WITH_WORDS = (
    "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\nHere are my steps:\n{% endif %}"
)
NO_CLOSER_FOR_QUESTIONS = (
    "{% for m in messages %}{% if m.role=='user' %}###Instruction:\n{{ m.content }}{% else %}###Response:\n{{ m.content }}</s>"
    "{% endif %}{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\n###Response:\n' }}{% endif %}"
)
EMPTY_ANSWER_LEFT_OUT_WHEN_LAST = (
    "{% for m in messages %}{% if m.role=='user' %}<user>\n{{ m.content }}\n{% elif m.content or not loop.last %}<assistant>\n"
    "{% if m.content %}{{ m.content }}{% endif %}<end>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n<think>\n{% endif %}"
)
LOST_ORIGIN = (
    "{% for m in messages %}<S>{{ m.role }}\n{% if m.tool_calls %}{% for c in m.tool_calls %}{% for k in c.function.arguments %}"
    "{{ c.function.name }}({{ k }}={{ '%s'|format(c.function.arguments[k]) }}){% endfor %}{% endfor %}{% else %}{{ m.content }}"
    "{% endif %}<E>{% endfor %}{% if add_generation_prompt %}<S>assistant\n{% endif %}"
)
THOUGHT_BESIDE_A_CLOSED_ONE = (
    "{% for m in messages %}{% if m.role=='user' %}<user>{{ m.content }}</user>\n{% else %}<assistant>\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n{% else %}</think>\n{% endif %}"
    "{{ m.content }}</assistant>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>\n</think>{% endif %}"
)

CLOSED_BY_TEXT = (
    "{% for m in messages %}{{ '<S>'+m.role+'\n'+m.content }}{% for c in m.tool_calls or [] %}"
    "<call>{{ c.function.name }}{{ c.function.arguments|tojson }}</call>{% endfor %}{{ '[end]\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<S>assistant\n' }}{% endif %}"
)
NO_HEADER = (
    "{% if messages[0].role=='user' %}Be kind.{% endif %}{% for m in messages %}{% if m.role=='user' %}"
    "{{ '[Q] '+m.content+' [/Q]' }}{% else %}{{ ' '+m.content }}{{ '' if loop.last else '<E>\n' }}{% endif %}{% endfor %}"
)
CLOSED_BY_THE_NEXT_BEHIND_A_DEFAULT = (
    "{{ '<Y>Be kind.' }}{% for m in messages %}<E1><E>{{ {'user': '<U>', 'assistant': '<A>'}[m.role] + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<E1><E><A>{% endif %}"
)
WORDS_LIKE_A_TURN = (
    "{{ 'Turns look like ### Answer:\nthis<E>\n' }}{% for m in messages %}{{ '### '+{'user': 'Ask', 'assistant': 'Answer'}[m.role]"
    "+':\n'+m.content+'<E>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '### Answer:\n' }}{% endif %}"
)
ONLY_THE_LAST_IS_CLOSED = (
    "{% for m in messages %}<S>{{ m.role }}\n{{ (m.content or '') }}{% if m.role=='user' or loop.last %}<E>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<S>assistant\n{% endif %}"
)
CLOSED_EARLY_WITHOUT_A_HEADER = (
    "{% for m in messages %}{% set c=m.content or '' %}{% if m.role=='user' %}{{ '[Q] '+c+' [/Q]' }}{% elif c or not loop.last %}"
    "{{ ' '+c+(' <E> ' if loop.last else '<K> ') }}{% endif %}{% endfor %}"
)
LEFT_OUT_WHEN_LAST = (
    "{% for m in messages %}{% set c=m.content or '' %}{% if m.role=='user' %}<U>{{ c }}{% elif c or not loop.last %}<A>"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content+'</think>\n\n' }}{% endif %}{{ c }}{% endif %}{% endfor %}"
)
JOINED_ANSWERS = (
    "{% for m in messages %}{% if m.role=='user' %}<user>\n{{ m.content }}<end>\n{% else %}"
    "{{ '\n\n' if loop.previtem.role=='assistant' else '<assistant>\n' }}{{ m.content|trim }}"
    "{% if loop.last or loop.nextitem.role=='user' %}<end>\n{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\nSteps:{{ '\n' }}{% endif %}"
)
CLOSED_LATE = (
    "{% for m in messages %}{% if loop.index0 %}{{ '\n\n<end>' }}{% endif %}<{{ m.role }}>{{ m.content|trim }}{% endfor %}"
    "{% if add_generation_prompt %}<end><assistant>Steps:{{ '\n' }}{% endif %}"
)
NO_PROMPT_BUT_A_CLOSER = (
    "{{ 'Turns end in <E>\n.\n' }}{% for m in messages %}{{ '<S>'+m.role+'\n'+m.content }}"
    "{% if not loop.last or add_generation_prompt %}{{ '<E>\n' }}{% endif %}{% endfor %}"
)
NO_PROMPT_BUT_A_CLOSER_AND_A_SEPARATOR = (
    "{% for m in messages %}{{ '' if loop.first else '\n\n' }}{{ '<S>'+m.role+'\n'+m.content }}"
    "{% if not loop.last or add_generation_prompt %}{{ '\n<E>\n' }}{% endif %}{% endfor %}"
)
LEFT_OUT_WHEN_LAST_AND_CLOSED_BY_TEXT = (
    "{% for m in messages %}{% if m.role=='user' or m.content or not loop.last %}"
    "{{ '### '+m.role+':\n'+m.content+'[end]\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
JOINED_ANSWERS_WITH_THOUGHTS = (
    "{% for m in messages %}{% if m.role=='user' %}<user>\n{{ m.content }}<end>\n{% else %}"
    "{{ '\n\n' if loop.previtem.role=='assistant' else '<assistant>\n\n' }}"
    "{{ '<think>\n'+m.reasoning_content+'</think>' if m.reasoning_content else '' }}{{ m.content }}"
    "{% if loop.last or loop.nextitem.role=='user' %}<end>\n{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n\n<think>{{ '\n' }}{% endif %}"
)
CHANNELS_BEHIND_WORDS_LIKE_A_TURN = (
    "Turns look like <S>assistant<M>this<E>.{% for m in messages %}<S>{{ m.role }}{% if m.role=='assistant' %}<C>final{% endif %}"
    "<M>{{ m.content or '' }}<E>{% endfor %}{% if add_generation_prompt and messages[-1].role=='user' %}<S>assistant{% endif %}"
)
THOUGHT_BEHIND_WORDS_LIKE_A_TURN = (
    "Turns look like <assistant>this<end>.{% for m in messages %}<{{ m.role }}>{% if m.role=='assistant' %}"
    "<think>{{ m.reasoning_content or '' }}</think>{% endif %}{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role=='user' %}<assistant>{% endif %}"
)

WORDS_THAT_HOLD_THE_NAME_OF_A_CALL = (
    "Turns look like <T>assistant<H>this.\n{% for m in messages %}{{ '' if loop.first else '\n\n' }}<T>{{ m.role }}<H>"
    "{% if m.content %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '\n\n<T>assistant<H>' }}{% endif %}"
)

KINDS = {
    "a header behind words that hold the name of a probed call": (
        WORDS_THAT_HOLD_THE_NAME_OF_A_CALL,
        ["<T>", "<H>"],
        "<E>",
        [USER, ANSWER, ANSWER],
        "Turns look like <T>assistant<H>this.\n<T>user<H>Hi\n\n<T>assistant<H>«Yes»\n\n<T>assistant<H>«Yes»",
    ),
    "an empty answer behind a closed one": (
        CLOSED_EARLY_WITHOUT_A_HEADER,
        ["[Q]", "[/Q]", "<E>", "<K>"],
        "<E>",
        [USER, ANSWER, {**ANSWER, "content": ""}, USER],
        "[Q] Hi [/Q]« Yes<K>» « <K>» [Q] Hi [/Q]",
    ),
    "a thought without a text, which nothing closes": (
        LEFT_OUT_WHEN_LAST,
        ["<U>", "<A>"],
        "<end>",
        [USER, {**ANSWER, "content": "", "reasoning_content": "hm"}, USER, ANSWER],
        "<U>Hi<A>«<think>hm</think>\n\n»<U>Hi<A>«Yes»",
    ),
    "a prompt that ends in what joins two answers": (
        JOINED_ANSWERS,
        ["<user>", "<assistant>", "<end>"],
        "<end>",
        [USER, {**ANSWER, "content": "Steps:\n"}, ANSWER],
        "<user>\nHi<end>\n<assistant>\nSteps:\n«\nYes<end>»\n",
    ),
    "a prompt that ends in what closes the answer": (
        CLOSED_LATE,
        ["<user>", "<assistant>", "<end>"],
        "<end>",
        [USER, {**ANSWER, "content": "Steps:\n"}, USER, ANSWER],
        "<user>Hi\n\n<end><assistant>Steps:\n«\n<end>»<user>Hi\n\n<end><assistant>«Yes»",
    ),
    "a request for a prompt that only closes": (
        NO_PROMPT_BUT_A_CLOSER,
        ["<S>", "<E>"],
        "<E>",
        [USER, ANSWER, USER, ANSWER],
        "Turns end in <E>\n.\n<S>user\nHi<E>\n<S>assistant\n«Yes<E>»\n<S>user\nHi<E>\n<S>assistant\n«Yes»",
    ),
    "a request for a prompt that only closes, in front of a separator": (
        NO_PROMPT_BUT_A_CLOSER_AND_A_SEPARATOR,
        ["<S>", "<E>"],
        "<E>",
        [ANSWER, USER, ANSWER, ANSWER],
        "<S>assistant\n«Yes\n<E>»\n\n\n<S>user\nHi\n<E>\n\n\n<S>assistant\n«Yes\n<E>»\n\n\n<S>assistant\n«Yes»",
    ),
    "an empty answer that text closes, left out when last": (
        LEFT_OUT_WHEN_LAST_AND_CLOSED_BY_TEXT,
        [],
        "<end>",
        [USER, {**ANSWER, "content": ""}, USER, ANSWER],
        "### user:\nHi[end]\n### assistant:\n«[end]\n»### user:\nHi[end]\n### assistant:\n«Yes[end]\n»",
    ),
    "a second thought in one turn, opened as the prompt opens one": (
        JOINED_ANSWERS_WITH_THOUGHTS,
        ["<user>", "<assistant>", "<end>"],
        "<end>",
        [USER, ANSWER, {**ANSWER, "reasoning_content": "hm"}],
        "<user>\nHi<end>\n<assistant>\n\n«Yes\n\n<think>\nhm</think>Yes<end>»\n",
    ),
    "an empty first answer behind words that look like a turn": (
        CHANNELS_BEHIND_WORDS_LIKE_A_TURN,
        ["<S>", "<M>", "<C>", "<E>"],
        "<E>",
        [{**ANSWER, "content": ""}, USER],
        "Turns look like <S>assistant<M>this<E>.<S>assistant«<C>final<M><E>»<S>user<M>Hi<E>",
    ),
    "a first answer's thought behind words that look like a turn": (
        THOUGHT_BEHIND_WORDS_LIKE_A_TURN,
        ["<end>"],
        "<end>",
        [{**ANSWER, "reasoning_content": "hm"}, USER],
        "Turns look like <assistant>this<end>.<assistant>«<think>hm</think>Yes<end>»<user>Hi<end>",
    ),
    "a call in a turn that text closes": (
        CLOSED_BY_TEXT,
        ["<S>", "<call>", "</call>"],
        "<end>",
        [USER, call(at="sky"), RESULT, ANSWER],
        '<S>user\nHi[end]\n<S>assistant\n«<call>look{"at": "sky"}</call>[end]\n»<S>tool\nblue[end]\n<S>assistant\n«Yes[end]\n»',
    ),
    "two answers without a header": (
        NO_HEADER,
        ["[Q]", "[/Q]", "<E>"],
        "<E>",
        [USER, ANSWER, ANSWER],
        "Be kind.[Q] Hi [/Q]« Yes<E>»\n« Yes»",
    ),
    "closed by the next, behind a default turn": (
        CLOSED_BY_THE_NEXT_BEHIND_A_DEFAULT,
        ["<Y>", "<U>", "<A>", "<E1>", "<E>"],
        "<E>",
        [USER, ANSWER, USER, ANSWER],
        "<Y>Be kind.<E1><E><U>Hi<E1><E><A>«Yes<E1><E>»<U>Hi<E1><E><A>«Yes»",
    ),
    "words of the template that look like a turn": (
        WORDS_LIKE_A_TURN,
        ["<E>"],
        "<E>",
        [ANSWER, USER, ANSWER],
        "Turns look like ### Answer:\nthis<E>\n### Answer:\n«Yes<E>»\n### Ask:\nHi<E>\n### Answer:\n«Yes<E>»\n",
    ),
    "an empty answer that nothing closes": (
        ONLY_THE_LAST_IS_CLOSED,
        ["<S>", "<E>"],
        "<E>",
        [USER, {**ANSWER, "content": ""}, {**USER, "content": ""}, ANSWER],
        "<S>user\nHi<E>\n<S>assistant\n<S>user\n<E>\n<S>assistant\n«Yes<E>»\n",
    ),
    "shared closers": (
        SHARED_CLOSERS,
        ["<turn>", "<text>", "<end_text>", "<end>"],
        "<end>",
        [USER, ANSWER],
        "<turn>user:<text>Hi<end_text><end><turn>assistant:<text>«Yes<end_text><end>»",
    ),
    "a result inside the turn": (
        RESULT_INSIDE_THE_TURN,
        ["<turn>", "<end>", "<call>", "</call>", "<result>", "</result>"],
        "<end>",
        [USER, call(at="sky"), RESULT, ANSWER],
        '<turn>user\nHi<end>\n<turn>model\n«<call>look{"at": "sky"}</call>»<result>blue</result>«Yes<end>»\n',
    ),
    "a result that names the call": (
        RESULT_NAMES_THE_CALL,
        ["<turn>", "<end>", "<call>", "</call>", "<result>", "</result>"],
        "<end>",
        [USER, {**call(at="sky"), "content": None}, RESULT, ANSWER],
        "<turn>user\nHi<end>\n<turn>model\n«<call>look</call>»<result>look:blue</result>«Yes<end>»\n",
    ),
    "closed when followed": (
        CLOSED_WHEN_FOLLOWED,
        ["<S>", "<E>"],
        "<E>",
        [USER, ANSWER, ANSWER, USER, ANSWER],
        "<S>user\nHi<E>\n<S>assistant\n«Yes<E>»\n<S>assistant\n«Yes<E>»\n<S>user\nHi<E>\n<S>assistant\n«Yes»",
    ),
    "white space before the prompt's header": (
        SPACE_BEFORE_THE_PROMPT,
        ["<|h|>", "<|/h|>", "<|eot|>"],
        "<|eot|>",
        [USER, ANSWER],
        "<|h|>user<|/h|>\n\nHi\n<|eot|><|h|>assistant<|/h|>\n\n«Yes\n<|eot|>»",
    ),
    "a prompt longer than the header": (
        LONGER_PROMPT,
        ["<end>"],
        "<end>",
        [USER, ANSWER],
        "From: user\n\n Hi <end> From: assistant\n\n «Yes <end>» ",
    ),
    "a history that holds the prompt's end": (
        HISTORY_HOLDS_THE_END_OF_THE_PROMPT,
        ["<U>", "<A>", "<end>"],
        "<end>",
        [USER, ANSWER],
        "<U>Hi<A></think>«Yes<end>»",
    ),
    "a first word that the prompt has too": (
        PROMPT_WITH_WORDS,
        ["<user>", "<assistant>", "<end>"],
        "<end>",
        [USER, {**ANSWER, "content": "Here it is."}],
        "<user>\nHi<end>\n<assistant>\n«Here it is.<end>»\n",
    ),
    "the assistant first": (
        NO_CLOSER_FOR_QUESTIONS,
        ["</s>"],
        "</s>",
        [ANSWER, USER, ANSWER],
        "###Response:\n«Yes</s>»\n\n###Instruction:\nHi\n\n###Response:\n«Yes</s>»",
    ),
    "an empty answer in the history": (
        EMPTY_ANSWER_LEFT_OUT_WHEN_LAST,
        ["<user>", "<assistant>", "<end>"],
        "<end>",
        [USER, {**ANSWER, "content": ""}, USER, ANSWER],
        "<user>\nHi\n<assistant>\n«<end>»\n<user>\nHi\n<assistant>\n«Yes<end>»\n",
    ),
    "a value whose origin is lost": (
        LOST_ORIGIN,
        ["<S>", "<E>"],
        "<E>",
        [USER, call(x=[1, "b"])],
        "<S>user\nHi<E><S>assistant\n«look(x=[1, 'b'])<E>»",
    ),
    "a thought beside a closed one": (
        THOUGHT_BESIDE_A_CLOSED_ONE,
        ["<user>", "</user>", "<assistant>", "</assistant>"],
        "</assistant>",
        [USER, {**ANSWER, "reasoning_content": "hm"}],
        "<user>Hi</user>\n<assistant>\n«<think>\nhm\n</think>\nYes</assistant>»\n",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_labels_of_each_kind_are_right(kind: str) -> None:
    template, special, eos, messages, expected = KINDS[kind]
    tokenizer = make_byte_tokenizer(template, special, eos)
    assert show(tokenizer, ChatEncoder(tokenizer, special_tokens="allow")(messages)) == expected


def test_a_turn_whose_end_nothing_shows_is_refused() -> None:
    template = LEFT_OUT_WHEN_LAST.replace("<U>{{ c }}", "{{ c }}")
    encode = ChatEncoder(make_byte_tokenizer(template, ["<A>"]))
    with pytest.raises(PadfixError, match="nothing shows what closes it"):
        encode([USER, {**ANSWER, "content": "", "reasoning_content": "hm"}, USER, ANSWER])


@pytest.mark.parametrize("header", ["User:\n", "From: user\n\n "])
@pytest.mark.parametrize(
    "opening", ["Turns look like From: assistant\n this[end]\n.\n", "Be kind.[end]\n", "Be kind.\n", "x]\n", "Hi "]
)
def test_a_default_text_is_no_part_of_the_header_that_words_open(opening: str, header: str) -> None:
    """The prompt stands behind every conversation, and both headers may open with one word."""
    template = (
        f"{{{{ {opening!r} }}}}{{% for m in messages %}}{{% if m.role == 'user' %}}{{{{ {header!r} }}}}{{{{ m.content }}}}"
        "[end]\n{% else %}{{ 'From: assistant\n\n ' }}{{ m.content }}[end]\n{% endif %}{% endfor %}"
        "{{ 'From: assistant\n\n ' }}"
    )
    tokenizer = make_byte_tokenizer(template, ["<end>"])
    shown = show(tokenizer, ChatEncoder(tokenizer)({"messages": [USER, ANSWER, USER, ANSWER]}))
    turn = f"{header}Hi[end]\nFrom: assistant\n\n «Yes[end]\n»"
    assert shown == f"{opening}{turn}{turn}From: assistant\n\n "


_NO_PROMPT = "{% for m in messages %}{{ '<S>' + m['role'] + '<M>\n' + m['content'] + '<end>\n' }}{% endfor %}"


@pytest.mark.parametrize(
    ("behind", "end"),
    [
        ("", ""),
        ("{% if not add_generation_prompt %}{{ eos_token }}{% endif %}", "<end>"),
        ("{% if not add_generation_prompt %}<stop>{% endif %}", "<stop>"),
    ],
)
def test_without_a_generation_prompt_a_header_is_one(behind: str, end: str) -> None:
    """Whether asking for a prompt changes nothing, or only leaves the end of sequence out."""
    tokenizer = make_byte_tokenizer(_NO_PROMPT + behind, ["<S>", "<M>", "<end>", "<stop>"])
    encoder = ChatEncoder(tokenizer)
    turn = "<S>user<M>\nHi<end>\n<S>assistant<M>\n«Yes<end>»\n"
    row = encoder([USER, ANSWER] * 2)
    assert show(tokenizer, row) == turn * 2 + end
    columns, _ = encoder.encode_rows([[USER, ANSWER] * 2] * 3)
    assert all(list(labels) == list(row["labels"]) for labels in columns["labels"])
    assert mask_labels(row["input_ids"], find_markers(tokenizer)) == list(row["labels"])


_CHANNELS = (
    "{% for m in messages %}{% if m.role == 'user' %}<S>user<M>{{ m.content }}<end>\n"
    "{% elif m.role == 'tool' %}<result>{{ m.content }}</result>"
    "{% else %}{% if loop.first or loop.previtem.role != 'tool' %}<S>assistant{% endif %}"
    "{% if loop.last and m.reasoning_content %}<C>analysis<M>{{ m.reasoning_content }}<D><S>assistant{% endif %}"
    "{% for t in m.tool_calls or [] %}<C>call<M>{{ t.function.arguments | tojson }}{% endfor %}"
    "{% if not m.tool_calls %}<C>final<M>{{ m.content }}<end>\n{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role == 'user' %}<S>assistant{% endif %}"
)


def test_an_empty_answer_in_a_channel_behind_a_result() -> None:
    """What the last message alone would have, a thought, hides what is written for it in the history."""
    tokenizer = make_byte_tokenizer(_CHANNELS, ["<S>", "<M>", "<C>", "<D>", "<end>"])
    silent = {"role": "assistant", "content": "", "reasoning_content": "hm"}
    row = ChatEncoder(tokenizer)([USER, call(at="sky"), RESULT, silent, ANSWER])
    called = '<S>user<M>Hi<end>\n<S>assistant«<C>call<M>{"at": "sky"}»<result>blue</result>'
    assert show(tokenizer, row) == called + "«<C>final<M><end>»\n<S>assistant«<C>final<M>Yes<end>»\n"


def test_an_end_behind_an_empty_text_is_found_in_front_of_an_empty_question() -> None:
    """The header behind the thought opens the text of the same answer, and no answer follows."""
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}<S>assistant"
        "{% if m.reasoning_content %}<C>analysis<M>{{ m.reasoning_content }}<D><S>assistant{% endif %}"
        "{% if not m.tool_calls %}<C>final<M>{{ m.content or '' }}{% endif %}{% for t in m.tool_calls or [] %}"
        "<C>commentary to={{ t.function.name }}<M>{{ t.function.arguments | tojson }}{% endfor %}"
        "{{ '<end>' if loop.last else '<K>' }}{% else %}<S>{{ m.role }}<M>{{ m.content or '' }}<end>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<S>assistant{% endif %}"
    )
    tokenizer = make_byte_tokenizer(template, ["<S>", "<M>", "<C>", "<D>", "<K>", "<end>"])
    answer = {"role": "assistant", "content": "", "reasoning_content": "hm"}
    shown = show(tokenizer, ChatEncoder(tokenizer)({"messages": [USER, answer, {"role": "user", "content": ""}]}))
    assert shown == "<S>user<M>Hi<end><S>assistant«<C>analysis<M>hm<D><S>assistant<C>final<M><K>»<S>user<M><end>"


@pytest.mark.parametrize(
    ("template", "turn"),
    [
        (
            "{{ '<Y>Be kind.<end>\n' }}{% for m in messages %}{% if m.role == 'user' %}<U>{{ m.content }}<end>\n"
            "{% elif m.role == 'assistant' %}<A>{{ m.content }}{% for t in m.tool_calls or [] %}<call>{{ t.function.name }}"
            "</call>{% endfor %}{% if loop.last %}<end>{% endif %}{% else %}<U><result>{{ m.content }}</result><end>\n"
            "{% endif %}{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ '\n\n<A>' }}{% endif %}",
            "<U>Hi<end>\n\n\n<A>«Yes»\n\n",
        ),
        (
            "{{ '<Y>Be kind.<end>\n' }}{% for m in messages %}{% if not loop.first %}<end>\n{% endif %}"
            "{{ '<U>' if m.role == 'user' else '<A>' }}{{ m.content }}{% if not loop.last %}{{ '\n\n' }}{% endif %}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<end>\n\n\n<A>' }}{% endif %}",
            "<U>Hi\n\n<end>\n<A>«Yes\n\n<end>»\n",
        ),
    ],
    ids=["a result opens as a question does", "the next message closes"],
)
def test_a_default_turn_hides_no_end_and_no_opening(template: str, turn: str) -> None:
    tokenizer = make_byte_tokenizer(template, ["<Y>", "<U>", "<A>", "<end>"])
    shown = show(tokenizer, ChatEncoder(tokenizer)({"messages": [USER, ANSWER, USER, ANSWER, USER]}))
    assert shown.startswith("<Y>Be kind.<end>\n" + turn * 2)


@pytest.mark.parametrize("before", [[USER], []])
def test_the_end_of_an_empty_question_ends_no_answer_before_it(before: list[dict[str, Any]]) -> None:
    """Only the last answer is closed, so the first token behind another one is the question's."""
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}<S>assistant\n{{ m.content or '' }}"
        "{% for t in m.tool_calls or [] %}<call>{{ t.function.name }}</call>{% endfor %}"
        "{% if loop.last %}<end>\n{% endif %}{% else %}<S>{{ m.role }}\n{{ m.content or '' }}<end>\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<S>assistant\n{% endif %}"
    )
    tokenizer = make_byte_tokenizer(template, ["<S>", "<end>"])
    row = ChatEncoder(tokenizer)({"messages": [*before, ANSWER, {"role": "user", "content": ""}]})
    assert show(tokenizer, row).endswith("<S>assistant\n«Yes»<S>user\n<end>\n")


RUNS_IN_ONE_TURN = (
    "{% for m in messages %}{% set c = (m.content or '') | trim %}{% if loop.first or loop.previtem.role != m.role %}"
    "<S>{{ m.role }}\n{% else %}{{ '\n\n' }}{% endif %}{{ c }}"
    "{% if loop.last or loop.nextitem.role != m.role %}{{ '<end>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<S>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "rows", "end"),
    [
        (
            "{{ 'Turns look like <S>assistant\nthis[end]\n.\n' }}{% for m in messages %}{% if m.content or not loop.last %}"
            "<S>{{ m.role }}\n{{ m.content }}[end]\n{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<S>assistant\n{% endif %}",
            ["Hi", "", "Hi"],
            "<S>assistant\n«[end]\n»<S>user\nHi[end]\n",
        ),
        (
            "{% for m in messages %}<S>{{ m.role }}\n{{ m.content }}{% if not loop.last or add_generation_prompt %}"
            "{{ '\n<end>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<S>assistant\n\n' }}{% endif %}",
            ["Hi", "", "Hi"],
            "<S>assistant\n\n«<end>»\n<S>user\nHi",
        ),
        (
            "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}"
            "{{ ' ' }}{{ m.content }}{% endif %}{% endfor %}",
            ["Hi", "Yes", "Hi", "", "Hi"],
            "« Yes»[INST] Hi [/INST]« »[INST] Hi [/INST]",
        ),
        (
            "{{ 'Turns look like <S>assistant\nthis[end]\n.\n' }}{% for m in messages %}{% if m.content or not loop.last %}"
            "<S>{{ m.role }}\n{{ m.content }}[end]\n{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<S>assistant\n{% endif %}",
            ["Hi", "", "Yes"],
            "<S>assistant\n«[end]\n»<S>assistant\n«Yes[end]\n»",
        ),
        (
            "{{ 'Turns look like <S>assistant\nthis[end]\n.\n' }}{% for m in messages %}{% if m.content or not loop.last %}"
            "<S>{{ m.role }}\n{{ m.content }}[end]\n{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<S>assistant\n{% endif %}",
            ["Hi", "", "Yes", ""],
            "<S>assistant\n«[end]\n»<S>assistant\n«Yes[end]\n»",
        ),
        (
            "{% for m in messages %}{% if loop.index0 %}{{ '<end>\n' }}{% endif %}{{ '<S>'+m.role+'\n'+m.content }}"
            "{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<end>\n\n\n<S>assistant\n\n' }}{% endif %}",
            ["Hi", "", "Yes"],
            "<S>assistant\n\n«\n<end>»\n<S>assistant\n«Yes»",
        ),
        (RUNS_IN_ONE_TURN.replace("<end>\n", ""), ["Hi", "Yes", ""], "<S>assistant\n«Yes\n\n»"),
        (RUNS_IN_ONE_TURN.replace("<end>\n", ""), ["Hi", "", " ", "Yes"], "<S>assistant\n«\n\n\n\nYes»"),
        (RUNS_IN_ONE_TURN, ["Hi", "Yes", " ", "Yes"], "<S>assistant\n«Yes\n\n\n\nYes<end>»\n"),
        (
            "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{{ '\n<think>hm</think>' if loop.last else "
            "'\n<think></think>' }}{% endif %}{{ '\n' + m.content if m.content }}{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}",
            ["Hi", "", "Hi", "Yes"],
            "<assistant>«\n<think></think>»<user>\nHi<assistant>«\n<think>hm</think>\nYes»",
        ),
        (
            "{% for m in messages if m.content %}<S>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}"
            "{% if add_generation_prompt %}<S>assistant\n{% endif %}",
            ["Hi", "", "Hi", "Yes"],
            "<S>user\nHi<end>\n<S>user\nHi<end>\n<S>assistant\n«Yes<end>»\n",
        ),
        (
            "{% for m in messages %}<S>{{ m.role }}\n{{ m.content + '\n' if m.content }}<end>\n{% endfor %}"
            "{% if add_generation_prompt %}<S>assistant\n{% endif %}",
            ["Hi", "", "", "Hi", "Yes"],
            "<S>assistant\n«<end>»\n<S>assistant\n«<end>»\n<S>user\nHi\n<end>\n<S>assistant\n«Yes\n<end>»\n",
        ),
    ],
    ids=[
        "closed by text",
        "the prompt supplies a line break",
        "nothing closes it",
        "in front of another answer",
        "in front of one that is left out",
        "a prompt behind a separator supplies a line break",
        "behind an answer in one turn that nothing closes",
        "two in front of an answer in one turn",
        "between two answers in one turn",
        "a text brings its line break",
        "left out everywhere",
        "a text brings the line break that stands in front of it",
    ],
)
def test_an_empty_answer_is_a_turn_as_one_of_a_letter_is(template: str, rows: Sequence[str], end: str) -> None:
    tokenizer = make_byte_tokenizer(template, ["<S>"])
    messages = [{"role": "user" if text == "Hi" else "assistant", "content": text} for text in rows]
    shown = show(tokenizer, ChatEncoder(tokenizer)({"messages": messages}))
    assert shown.endswith(end), shown
