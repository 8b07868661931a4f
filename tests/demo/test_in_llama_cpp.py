"""The demo's models as GGUF: the file read back, and llama.cpp's greedy ids beside transformers', where it is."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_padfix.demo import in_llama_cpp, reference
from llama_padfix.demo import run as demo
from llama_padfix.demo.gguf_model import write_model
from llama_padfix.demo.tiny import make_tiny_chat
from llama_padfix.serving.engines.engine import EngineMissingError

needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is missing: pip install gguf")
USUAL, PREPARED = (demo.Measures(4, 0, 4, 4, 4, 0, 0, prompts=24, stopped_in_llama_cpp=count) for count in (3, 20))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """A model whose answers depend on the positions, its tokenizer, and the folder with both and the file."""
    from tokenizers import Regex, pre_tokenizers

    folder = tmp_path_factory.mktemp("saved")
    model, tokenizer, _ = make_tiny_chat()
    words = pre_tokenizers.Split(Regex(reference._PATTERN), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(20 if weight.ndim > 1 else 1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    write_model(model, folder, folder / "model.gguf")
    return model, tokenizer, folder


@needs_gguf
def test_the_file_holds_every_weight_and_the_settings(written: tuple[Any, Any, Path]) -> None:
    from gguf import GGUFReader  # type: ignore[attr-defined, unused-ignore]  # its annotations vary with the version

    model, tokenizer, folder = written
    reader = GGUFReader(folder / "model.gguf")
    held = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    state = model.state_dict()
    assert len(held) == len(state) - 1 and "output.weight" not in held, "the embeddings are tied"
    assert torch.equal(held["token_embd.weight"], state["model.embed_tokens.weight"])
    assert torch.equal(held["blk.1.ffn_down.weight"], state["model.layers.1.mlp.down_proj.weight"])
    query, trained = held["blk.0.attn_q.weight"], state["model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(query[0:16:2], trained[:8]) and torch.equal(query[1:16:2], trained[8:16])
    key, trained = held["blk.0.attn_k.weight"], state["model.layers.0.self_attn.k_proj.weight"]
    assert torch.equal(key[16:32:2], trained[16:24]), "the second head of two"
    fields = {name: field.contents() for name, field in reader.fields.items() if "tokens" not in name}
    assert fields["llama.attention.head_count"] == 4 and fields["llama.attention.head_count_kv"] == 2
    assert fields["llama.rope.freq_base"] == 10_000 and fields["llama.block_count"] == 2
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id


@needs_gguf
@pytest.mark.slow
def test_llama_cpp_generates_the_ids_that_transformers_does(written: tuple[Any, Any, Path]) -> None:
    model, tokenizer, folder = written
    try:
        generate = in_llama_cpp.find_llama_cpp()
    except EngineMissingError as error:
        pytest.skip(str(error))
    [prompt] = in_llama_cpp.render_prompts(folder, [[{"role": "user", "content": "Hi, who are you?"}]])
    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    model.eval()
    expected = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, ids.shape[1] :].tolist()
    assert len(set(expected)) > 6, "a constant answer proves nothing"
    assert generate(folder / "model.gguf", [prompt], 12) == [(expected, False)]


def test_the_table_has_the_line_where_both_models_ran() -> None:
    lines = {line[0]: line[1:] for line in demo.format_table(USUAL, PREPARED)}
    assert lines["the same, exported as GGUF, in llama.cpp"] == ("3 of 24", "20 of 24")
    left_out = demo.format_table(replace(USUAL, stopped_in_llama_cpp="npm install it"), PREPARED)
    assert len(left_out) == len(lines) - 1 and not any("llama.cpp" in line[0] for line in left_out)


def test_without_llama_cpp_nothing_is_written_and_the_lines_that_install_it_are_returned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setenv("PATH", "")
    model: Any = None  # neither is looked at
    tokenizer: Any = None
    said = in_llama_cpp.count_stops_in_llama_cpp(model, tokenizer, [], 4)
    assert (
        isinstance(said, str) and "pip install llama-cpp-python, or " in said and "npm install node-llama-cpp@" in said
    )
