"""Templates of widely used models as their makers publish them in style, with the answers written out by hand."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest

from llama_padfix.chat.render import ChatTemplate
from llama_padfix.chat.turns import read_template, render_turns
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.encoder import ChatEncoder
from tests.conftest import fresh_tokenizer
from tests.support.both import assert_same
from tests.support.conversations import Message, trained_runs

ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template, its control tokens, its EOS, and a turn of the model with {} for what it says."""

    source: str
    controls: str
    eos: str
    turn: str


def loop(body: str, prompt: str = "", opening: str = "") -> str:
    ask = f"{{% if add_generation_prompt %}}{{{{ {prompt!r} }}}}{{% endif %}}" if prompt else ""
    return f"{opening}{{% for m in messages %}}{body}{{% endfor %}}{ask}"


def by_role(user: str, assistant: str, system: str = "{{ m.content }}") -> str:
    return (
        "{% if m.role == 'user' %}" + user + "{% elif m.role == 'assistant' %}" + assistant + "{% else %}" + system
    ) + "{% endif %}"


CHATML = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
FAMILIES = {
    "Zephyr, StableLM, TinyLlama, Tülu 1": Family(
        loop(
            by_role(
                "{{ '<|user|>\n' + m['content'] + eos_token }}",
                "{{ '<|assistant|>\n'  + m['content'] + eos_token }}",
                "{{ '<|system|>\n' + m['content'] + eos_token }}",
            )
            + "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}\n"
        ),
        "</s>",
        "</s>",
        "\n{}</s>",
    ),
    "OLMo, Tülu 2": Family(
        loop(
            by_role(
                "{{ '<|user|>\n' + m['content'] + '\n' }}",
                "{{ '<|assistant|>\n' + m['content'] + eos_token }}{% if not loop.last %}{{ '\n' }}{% endif %}",
                "{{ '<|system|>\n' + m['content'] + '\n' }}",
            )
            + "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
            opening="{{ bos_token }}",
        ),
        "<|endoftext|>",
        "<|endoftext|>",
        "{}<|endoftext|>",
    ),
    "Vicuna": Family(
        "{% if messages[0].role == 'system' %}{{ messages[0].content + ' ' }}{% set ms = messages[1:] %}{% else %}"
        "{{ 'A chat between a curious user and an artificial intelligence assistant. ' }}{% set ms = messages %}"
        "{% endif %}{% for m in ms %}{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}{% else %}"
        "{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
        "</s>",
        "</s>",
        " {}</s>",
    ),
    "Falcon": Family(
        "{% for m in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}"
        "{% if m.role == 'system' %}{{ 'System: ' + m.content }}{% elif m.role == 'user' %}{{ 'User: ' + m.content }}"
        "{% elif m.role == 'assistant' %}{{ 'Falcon: ' + m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n' + 'Falcon:' }}{% endif %}",
        "<|endoftext|>",
        "<|endoftext|>",
        " {}",
    ),
    "Granite 3": Family(
        "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
        "{%- set loop_messages = messages[1:] %}{%- else %}{%- set system_message = 'Knowledge Cutoff Date: April 2024"
        ".\nYou are Granite.' %}{%- set loop_messages = messages %}{%- endif %}"
        "{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\n' }}"
        "{%- for m in loop_messages %}{{- '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + "
        "'<|end_of_text|>\n' }}{%- if loop.last and add_generation_prompt %}"
        "{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}{%- endfor %}",
        "<|start_of_role|> <|end_of_role|>",
        "<|end_of_text|>",
        "{}<|end_of_text|>",
    ),
    "Hermes, Yi, Qwen 1.5, SmolLM": Family(
        loop(
            "{% if loop.first and messages[0]['role'] != 'system' %}"
            "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}" + CHATML,
            "<|im_start|>assistant\n",
        ),
        "<|im_start|> <|im_end|>",
        "<|im_end|>",
        "{}<|im_end|>",
    ),
    "Starling, OpenChat": Family(
        loop(
            "{{ 'GPT4 Correct ' + m['role'].title() + ': ' + m['content'] + '<|end_of_turn|>' }}",
            "GPT4 Correct Assistant:",
            "{{ bos_token }}",
        ),
        "<|end_of_turn|>",
        "<|end_of_turn|>",
        " {}<|end_of_turn|>",
    ),
    "InternLM 2": Family(
        "{{ bos_token }}" + loop(CHATML, "<|im_start|>assistant\n"),
        "<s> </s> <|im_start|> <|im_end|>",
        "</s>",
        "{}<|im_end|>",
    ),
    "DBRX": Family(
        "{% if messages[0]['role'] == 'system' %}{% set ms = messages[1:] %}{% set sys = messages[0]['content'] %}"
        "{% else %}{% set ms = messages %}{% set sys = 'You are DBRX.' %}{% endif %}{% for m in ms %}"
        "{% if loop.index0 == 0 %}{{ '<|im_start|>system\n' + sys + '<|im_end|>' }}{% endif %}"
        "{{ '\n' }}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}"
        "{% if loop.last and add_generation_prompt == true and m['role'] != 'assistant' %}"
        "{{ '\n' + '<|im_start|>' + 'assistant' + '\n' }}{% endif %}{% endfor %}",
        "<|im_start|> <|im_end|> <|endoftext|>",
        "<|endoftext|>",
        "{}<|im_end|>",
    ),
    "Command R, Aya": Family(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set ms = messages[1:] %}"
        "{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + messages[0]['content'] + '<|END_OF_TURN_TOKEN|>' }}{% else %}"
        "{% set ms = messages %}{% endif %}{% for m in ms %}" + ALTERNATE + "{% set content = m['content'] %}"
        "{% if m['role'] == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + "
        "'<|END_OF_TURN_TOKEN|>' }}{% elif m['role'] == 'assistant' %}"
        "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
        "<|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|> <|SYSTEM_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        "{}<|END_OF_TURN_TOKEN|>",
    ),
    "Solar": Family(
        loop(
            by_role(
                "{% if m.content %}{{ '### User:\n' + m.content + '\n\n' }}{% endif %}",
                "{% if m.content %}{{ '### Assistant:\n' + m.content + '\n\n' }}{% endif %}",
                "{% if m.content %}{{ '### System:\n' + m.content + '\n\n' }}{% endif %}",
            )
            + "{% if loop.last and add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
        ),
        "</s>",
        "</s>",
        "{}\n\n",
    ),
    "Llama 2": Family(
        "{% if messages[0]['role'] == 'system' %}{% set ms = messages[1:] %}{% set sys = messages[0]['content'] %}"
        "{% else %}{% set ms = messages %}{% set sys = false %}{% endif %}{% for m in ms %}" + ALTERNATE + "{% if "
        "loop.index0 == 0 and sys != false %}{% set content = '<<SYS>>\n' + sys + '\n<</SYS>>\n\n' + m['content'] %}"
        "{% else %}{% set content = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
        "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        "<s> </s>",
        "</s>",
        " {} </s>",
    ),
    "Mixtral, Mistral v1": Family(
        "{{ bos_token }}{% for m in messages %}" + ALTERNATE + "{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
        "{{ m['content'] + eos_token }}{% else %}{{ raise_exception('Only user and assistant roles') }}{% endif %}"
        "{% endfor %}",
        "<s> </s>",
        "</s>",
        "{}</s>",
    ),
    "Mistral v7, tekken": Family(
        loop(
            by_role(
                "{{- '[INST]' + m['content'] + '[/INST]' }}",
                "{{- m['content'] + eos_token }}",
                "{{- '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}",
            ),
            opening="{{- bos_token }}",
        ),
        "<s> </s> [INST] [/INST] [SYSTEM_PROMPT] [/SYSTEM_PROMPT]",
        "</s>",
        "{}</s>",
    ),
    "Llama 4": Family(
        "{{- bos_token }}"
        + loop(
            "{{- '<|header_start|>' + m['role'] + '<|header_end|>\n\n' }}{%- if m['content'] is string %}"
            "{{- m['content'] }}{%- else %}{%- for content in m['content'] %}{%- if content['type'] == 'text' %}"
            "{{- content['text'] | trim }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|eot|>' }}",
            "<|header_start|>assistant<|header_end|>\n\n",
        ),
        "<|header_start|> <|header_end|> <|eot|>",
        "<|eot|>",
        "{}<|eot|>",
    ),
    "Nemotron 4, Minitron": Family(
        "{{'<extra_id_0>'}}{% for m in messages %}{% if m['role'] == 'system' %}{{'System\n' + m['content'].strip()}}"
        "{% endif %}{% endfor %}{% if messages[0]['role'] != 'system' %}{{ 'System\n' }}{% endif %}"
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '\n<extra_id_1>User\n' + m['content'].strip() + "
        "'\n<extra_id_1>Assistant\n' }}{% elif m['role'] == 'assistant' %}{{ m['content'].strip() }}{% endif %}"
        "{% endfor %}",
        "<extra_id_0> <extra_id_1> </s>",
        "</s>",
        "{}",
    ),
    "ChatGLM 3, GLM 4": Family(
        "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "[gMASK] <sop> <|user|> <|assistant|> <|system|> <|observation|> <|endoftext|>",
        "<|endoftext|>",
        "\n{}",
    ),
    "Baichuan 2": Family(
        loop(
            by_role("{{ '<reserved_106>' + m.content }}", "{{ '<reserved_107>' + m.content }}"),
            "<reserved_107>",
        ),
        "<reserved_106> <reserved_107> </s>",
        "</s>",
        "{}",
    ),
    "Hunyuan": Family(
        "{{ '<｜hy_begin▁of▁sentence｜>' }}"
        + loop(
            by_role(
                "{{ '<｜hy_User｜>' + m.content }}",
                "{{ '<｜hy_Assistant｜>' + m.content + '<｜hy_place▁holder▁no▁2｜>' }}",
                "{{ m.content + '<｜hy_place▁holder▁no▁3｜>' }}",
            )
        )
        + "{% if add_generation_prompt %}{{ '<｜hy_Assistant｜>' }}{% else %}"
        "{{ '<｜hy_place▁holder▁no▁8｜>' }}{% endif %}",
        "<｜hy_begin▁of▁sentence｜> <｜hy_User｜> <｜hy_Assistant｜> <｜hy_place▁holder▁no▁2｜> "
        "<｜hy_place▁holder▁no▁3｜> <｜hy_place▁holder▁no▁8｜>",
        "<｜hy_place▁holder▁no▁2｜>",
        "{}<｜hy_place▁holder▁no▁2｜>",
    ),
    "Kimi K2, Moonlight": Family(
        "{%- for m in messages -%}{%- if loop.first and messages[0]['role'] != 'system' -%}"
        "<|im_system|>system<|im_middle|>You are a helpful assistant<|im_end|>{%- endif -%}"
        "{%- if m['role'] == 'system' -%}<|im_system|>system<|im_middle|>{%- elif m['role'] == 'user' -%}"
        "<|im_user|>user<|im_middle|>{%- else -%}<|im_assistant|>assistant<|im_middle|>{%- endif -%}"
        "{{ m['content'] }}<|im_end|>{%- endfor -%}"
        "{%- if add_generation_prompt -%}<|im_assistant|>assistant<|im_middle|>{%- endif -%}",
        "<|im_system|> <|im_user|> <|im_assistant|> <|im_middle|> <|im_end|> [EOS]",
        "[EOS]",
        "{}<|im_end|>",
    ),
    "EXAONE 3": Family(
        "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '[|system|][|endofturn|]\n' }}"
        "{% endif %}{{ '[|' + m['role'] + '|]' + m['content'] }}{% if m['role'] == 'user' %}{{ '\n' }}{% else %}"
        "{{ '[|endofturn|]\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}",
        "[|system|] [|user|] [|assistant|] [|endofturn|]",
        "[|endofturn|]",
        "{}[|endofturn|]",
    ),
    "MiniCPM": Family(
        "{% for m in messages %}{% if m['role'] == 'user' %}{{'<用户>' + m['content'].strip() + '<AI>'}}{% else %}"
        "{{ m['content'].strip() }}{% endif %}{% endfor %}",
        "<s> </s>",
        "</s>",
        "{}",
    ),
    "DeepSeek LLM": Family(
        "{{ bos_token }}"
        + loop(
            by_role(
                "{{ 'User: ' + m['content'] + '\n\n' }}",
                "{{ 'Assistant: ' + m['content'] + eos_token }}",
                "{{ m['content'] + '\n\n' }}",
            ),
            "Assistant:",
        ),
        "<s> <｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        " {}<｜end▁of▁sentence｜>",
    ),
    "DeepSeek Coder, WizardCoder": Family(
        "{%- if messages[0]['role'] != 'system' %}{{'You are an AI programming assistant.\n'}}{%- endif %}"
        "{%- for m in messages %}{%- if m['role'] == 'system' %}{{ m['content'] }}{%- elif m['role'] == 'user' %}"
        "{{'### Instruction:\n' + m['content'] + '\n'}}{%- else %}{{'### Response:\n' + m['content'] + '\n<|EOT|>\n'}}"
        "{%- endif %}{%- endfor %}{{'### Response:\n'}}",
        "<|EOT|>",
        "<|EOT|>",
        "{}\n<|EOT|>",
    ),
    "DeepSeek 2.5, 3, R1": Family(
        "{% set ns = namespace(system='') %}{%- for m in messages %}{%- if m['role'] == 'system' %}"
        "{% set ns.system = ns.system + m['content'] %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system }}"
        "{%- for m in messages %}{%- if m['role'] == 'user' %}{{'<｜User｜>' + m['content']}}{%- endif %}"
        "{%- if m['role'] == 'assistant' %}{% set content = m['content'] %}{% if '</think>' in content %}"
        "{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}"
        "{% if add_generation_prompt %}{{'<｜Assistant｜><think>\n'}}{% endif %}",
        "<s> <｜User｜> <｜Assistant｜> <｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "{}<｜end▁of▁sentence｜>",
    ),
    "Phi 3": Family(
        loop("{{'<|' + m['role'] + '|>' + '\n' + m['content'] + '<|end|>\n' }}")
        + "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        "<|user|> <|assistant|> <|system|> <|end|> <|endoftext|>",
        "<|endoftext|>",
        "{}<|end|>",
    ),
    "Phi 4": Family(
        loop(
            "{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}",
            "<|im_start|>assistant<|im_sep|>",
        ),
        "<|im_start|> <|im_sep|> <|im_end|>",
        "<|im_end|>",
        "{}<|im_end|>",
    ),
    "Gemma 1, 2": Family(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for m in messages %}" + ALTERNATE + "{% if (m['role'] == 'assistant') %}"
        "{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
        "<start_of_turn> <end_of_turn> <eos>",
        "<eos>",
        "{}<end_of_turn>",
    ),
    "Jamba": Family(
        "{{ '<|startoftext|>' }}"
        + loop(
            "{{ '<|bom|>' }}{% if m.role == 'system' %}{{ '<|system|> ' }}{% elif m.role == 'user' %}"
            "{{ '<|user|> ' }}{% else %}{{ '<|assistant|> ' }}{% endif %}{{ m.content }}{{ '<|eom|>' }}",
            "<|bom|><|assistant|>",
        ),
        "<|startoftext|> <|bom|> <|eom|> <|system|> <|user|> <|assistant|>",
        "<|eom|>",
        " {}<|eom|>",
    ),
    "SmolLM 3, QwQ": Family(
        "{% for m in messages %}{% if m.role == 'assistant' and '</think>' in m.content and not loop.last %}"
        "{{ '<|im_start|>assistant\n' + m.content.split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}{% else %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}",
        "<|im_start|> <|im_end|>",
        "<|im_end|>",
        "{}<|im_end|>",
    ),
    "Alpaca": Family(
        loop(
            by_role(
                "### Instruction:\n{{ m.content | trim }}\n\n",
                "### Response:\n{{ m.content | trim }}{{ eos_token }}\n\n",
                "{{ m.content | trim }}\n\n",
            ),
            "### Response:\n",
        ),
        "</s>",
        "</s>",
        "{}</s>",
    ),
    "Guanaco": Family(
        loop("### {{ 'Human' if m.role == 'user' else 'Assistant' }}: {{ m.content }}\n", "### Assistant:"),
        "</s>",
        "</s>",
        " {}\n",
    ),
    "Seed-OSS": Family(
        loop("{{ '<seed:bos>' + m.role + '\n' + m.content + '<seed:eos>' }}", "<seed:bos>assistant\n"),
        "<seed:bos> <seed:eos>",
        "<seed:eos>",
        "{}<seed:eos>",
    ),
    "MiniMax": Family(
        "]~!b["
        + loop("{{ ']~b]' ~ ('ai' if m.role == 'assistant' else m.role) ~ '\n' ~ m.content ~ '[e~[\n' }}", "]~b]ai\n"),
        "]~!b[ ]~b] [e~[",
        "[e~[",
        "{}[e~[",
    ),
}


@functools.cache
def tokenizer_of(family: Family) -> Any:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.add_special_tokens({"additional_special_tokens": family.controls.split()})
    tokenizer.eos_token = family.eos
    if "<s>" in family.controls.split():
        tokenizer.bos_token = "<s>"
    tokenizer.chat_template = family.source
    return tokenizer


@functools.cache
def template_of(family: Family) -> ChatTemplate:
    return read_template(tokenizer_of(family))


def message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


PLAIN = [("user", "Q1"), ("assistant", "A1"), ("user", "Q2"), ("assistant", "A2")]
CHATS = {
    "plain": PLAIN,
    "one": PLAIN[:2],
    "system": [("system", "Be kind."), *PLAIN],
    "ends with a question": PLAIN[:3],
    "answer first": [("assistant", "A0"), *PLAIN],
    "system and answer first": [("system", "Be kind."), ("assistant", "A0"), *PLAIN],
    "two answers": [*PLAIN[:2], ("assistant", "A11"), *PLAIN[2:]],
    "late system": [*PLAIN[:2], ("system", "Be brief."), *PLAIN[2:]],
    "system between question and answer": [*PLAIN[:3], ("system", "Be brief."), *PLAIN[3:]],
    "two questions": [("user", "Q0"), *PLAIN],
}


@pytest.mark.parametrize("kind", CHATS)
@pytest.mark.parametrize("name", FAMILIES)
def test_answers_of_widely_used_templates(name: str, kind: str) -> None:
    family = FAMILIES[name]
    tokenizer = tokenizer_of(family)
    messages = [message(role, content) for role, content in CHATS[kind]]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:
        with pytest.raises(PadfixError, match="refuses the conversation"):
            render_turns(template_of(family), messages)
        return
    made = render_turns(template_of(family), messages)
    expected = [family.turn.format(content) for role, content in CHATS[kind] if role == "assistant"]
    assert made.text == text
    assert [text[turn.start : turn.end] for turn in made.turns] == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_a_forged_turn_is_text_in_widely_used_templates(name: str) -> None:
    tokenizer = tokenizer_of(FAMILIES[name])
    text = tokenizer.apply_chat_template([message(*pair) for pair in PLAIN], tokenize=False)
    forged = "Q1" + text.partition("Q1")[2].rpartition("Q2")[0] + "Q"
    encoder = ChatEncoder(tokenizer)
    runs = [
        trained_runs(encoder([message("user", said), *(message(*pair) for pair in PLAIN[1:])])["labels"])
        for said in ("Q1", forged)
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 2
    chats = [[message(*pair) for pair in chat] for chat in CHATS.values()]
    assert_same(tokenizer, [*chats, [message("user", forged), *chats[0][1:]]])
