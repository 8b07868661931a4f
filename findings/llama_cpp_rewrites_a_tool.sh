#!/usr/bin/env bash
# llama.cpp's server as in xllamacpp 2026.10.11549, against transformers 5.23.0 and trl 1.16.0's template of Qwen 3: the
# server writes a tool and its calls anew before the template sees them.
#
# Valid input: a chat with a tool as transformers makes it of a Python function (with what it returns), and as
# people write it without a description; a call of it with the argument 1.0. The template is in the GGUF file.
# One expects: the tool in the prompt as it was given, key by key, as transformers trains with it.
# What happens: the server keeps name, description and parameters of a function, in that order. `return` and `strict` are
# gone, a description or parameters that were not there are added empty, and 1.0 in a call's arguments becomes 1. So the
# tools of every prompt differ from those of the training, while the rest of the text is the same.
# Seen:
#   given by a function
#     transformers {"name": "train", "description": "Train.", "parameters": {...}, "return": {"type": "string", ...}}
#     llama.cpp    {"name": "train", "description": "Train.", "parameters": {...}}
#   written by hand
#     transformers {"strict": true, "name": "stop"}
#     llama.cpp    {"name": "stop", "description": "", "parameters": {}}
#   a call
#     transformers {"rate": 1.0}
#     llama.cpp    {"rate": 1}
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check xllamacpp==2026.10.11549 gguf==0.19.0 numpy==2.3.5 \
    transformers==5.23.0 jinja2==3.1.6
env/bin/pip install --quiet --disable-pip-version-check --no-deps trl==1.16.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" TRANSFORMERS_VERBOSITY=error env/bin/python -W ignore - <<'PY'
import json
import urllib.request
from importlib.metadata import distribution
from pathlib import Path

import gguf
import numpy
import xllamacpp
from transformers.utils.chat_template_utils import get_json_schema, render_jinja_template

source = Path(distribution("trl").locate_file("trl/chat_templates/qwen3.jinja")).read_text(encoding="utf-8")


def write_model(path, template):
    """A model of one layer of zeros that knows bytes alone: enough for a server that only renders."""
    size, tokens = 32, ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(size)
    writer.add_feed_forward_length(size)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3, *[6] * 256])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", numpy.zeros((len(tokens), size), numpy.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", numpy.ones(size, numpy.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", numpy.zeros((size, size), numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def train(rate: float) -> str:
    """
    Train.

    Args:
        rate: The rate.

    Returns:
        The loss.
    """
    return f"loss at {rate}"


tools = [get_json_schema(train), {"type": "function", "function": {"strict": True, "name": "stop"}}]
user, result = {"role": "user", "content": "Hi"}, {"role": "tool", "tool_call_id": "1", "content": "done"}


def chat(arguments):
    call = {"id": "1", "type": "function", "function": {"name": "train", "arguments": arguments}}
    return [user, {"role": "assistant", "content": "", "tool_calls": [call]}, result]


[hub], *_ = render_jinja_template([chat({"rate": 1.0})], tools=tools, chat_template=source, add_generation_prompt=True)
write_model("model.gguf", source)
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = "model.gguf", 512, 1, 1
params.hostnames, params.port, params.warmup, params.fit_params, params.verbosity = ["127.0.0.1"], 0, False, False, -1
server = xllamacpp.Server(params)
request = urllib.request.Request(
    server.listening_address + "/apply-template",
    json.dumps({"messages": chat('{"rate": 1.0}'), "tools": tools}).encode(),
    {"Content-Type": "application/json"},
)
own = json.load(urllib.request.urlopen(request))["prompt"]


def parts(text):
    """The two functions and the arguments of the call, as they stand in the prompt, and the rest."""
    lines = text.split("<tools>\n")[1].split("\n</tools>")[0].split("\n")
    functions = [line.removeprefix('{"type": "function", "function": ').removesuffix("}") for line in lines]
    arguments = text.split('"name": "train", "arguments": ')[1].split("}")[0] + "}"
    for part in (*functions, arguments):
        text = text.replace(part, "", 1)
    return [*functions, arguments], text


(hub_parts, hub_rest), (own_parts, own_rest) = parts(hub), parts(own)
for name, *both in zip(("given by a function", "written by hand", "a call"), hub_parts, own_parts):
    print(name, *[f"  {label} {part}" for label, part in zip(("transformers", "llama.cpp   "), both)], sep="\n")
assert hub_rest == own_rest, "changed"
assert hub_parts[0] == own_parts[0][:-1] + ', "return": {"type": "string", "description": "The loss."}}', "changed"
assert hub_parts[1:] == ['{"strict": true, "name": "stop"}', '{"rate": 1.0}'], "changed"
assert own_parts[1:] == ['{"name": "stop", "description": "", "parameters": {}}', '{"rate": 1}'], "changed"
PY
