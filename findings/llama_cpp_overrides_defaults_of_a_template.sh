#!/usr/bin/env bash
# llama.cpp's server as in xllamacpp 2026.10.11549, against transformers 5.23.0 and templates of trl 1.16.0: the server
# gives a template values of its own, where the template has a default.
#
# Valid input: the same chat for the same chat template, written into a GGUF file and rendered by transformers, with no
# option of either set: Gemma 4 and the small Qwen 3.5, which do not think unless they are told to, and Llama 3.1.
# One expects: one text, as for a template without such defaults. Training renders with transformers.
# What happens: the server sets enable_thinking to true for each template that knows it, so that Gemma 4 gets a system
# turn with <|think|>, and Qwen 3.5 an open thought in place of an empty one; and it sets date_string to the day of the
# call, where Llama 3.1's template has a fixed date, the one of each trained example. /apply-template shows what the
# server makes; a request has to ask for the template's own defaults in chat_template_kwargs.
# Seen:
#   Gemma 4
#     transformers <|turn>user\nHi<turn|>\n<|turn>model\n
#     llama.cpp    <|turn>system\n<|think|>\n<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n
#     asked        <|turn>user\nHi<turn|>\n<|turn>model\n
#   Qwen 3.5, small
#     transformers <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n
#     llama.cpp    <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n
#     asked        <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n
#   Llama 3.1
#     transformers ...Today Date: 26 Jul 2024...
#     llama.cpp    ...Today Date: (today)...
#     asked        ...Today Date: 26 Jul 2024...
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
from transformers.utils.chat_template_utils import render_jinja_template

folder = Path(distribution("trl").locate_file("trl/chat_templates"))


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


def render_all(file, chat, **asked):
    """The prompt of transformers, of the server, and of the server where the request sets the options."""
    source = (folder / file).read_text(encoding="utf-8")
    [hub], *_ = render_jinja_template([chat], chat_template=source, add_generation_prompt=True, bos_token="")
    write_model("model.gguf", source)
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = "model.gguf", 512, 1, 1
    params.hostnames, params.port, params.warmup, params.fit_params, params.verbosity = ["127.0.0.1"], 0, False, False, -1
    server = xllamacpp.Server(params)

    def ask(**options):
        body = {"messages": chat, **options}
        request = urllib.request.Request(
            server.listening_address + "/apply-template", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return json.load(urllib.request.urlopen(request))["prompt"].removeprefix("<s>")

    return hub, ask(), ask(chat_template_kwargs=asked)


def show(name, texts):
    print(name)
    for label, text in zip(("transformers", "llama.cpp   ", "asked       "), texts):
        print(" ", label, text.replace("\n", "\\n"))


hi = [{"role": "user", "content": "Hi"}]
texts = render_all("gemma4.jinja", hi, enable_thinking=False)
show("Gemma 4", texts)
assert texts[0] == texts[2] and "<|think|>" not in texts[0], "changed"
assert texts[1] == "<|turn>system\n<|think|>\n<turn|>\n" + texts[0], "changed"

texts = render_all("qwen3_5_nothink.jinja", hi, enable_thinking=False)
show("Qwen 3.5, small", texts)
assert texts[0] == texts[2] and texts[0] == texts[1] + "\n</think>\n\n", "changed"

texts = render_all("llama3_1.jinja", hi, date_string="26 Jul 2024")
dates = [text.split("Today Date: ")[1].split("\n")[0] for text in texts]
show("Llama 3.1", [f"...Today Date: {date}..." for date in dates])
assert texts[0] == texts[2] and texts[1].replace(dates[1], dates[0]) == texts[0], "changed"
assert dates[0] == "26 Jul 2024" != dates[1], "changed"
PY
