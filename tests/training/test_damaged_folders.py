"""Damaged and contradictory folders: an error that says what, before a weight is read, and no false alarm."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from llama_padfix import PadfixError, load, plan_load
from llama_padfix.core.compat import converts_weights
from tests.support.saved import save, small_model, small_tokenizer

pytestmark = pytest.mark.skipif(not converts_weights(), reason="transformers 5 tells what becomes of each weight")
QUERY = "model.layers.0.self_attn.q_proj.weight"
KEY = "model.layers.0.self_attn.k_proj.weight"
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which nothing is wrong. Read only."""
    tokenizer = small_tokenizer()
    return save(tmp_path_factory.mktemp("whole"), tokenizer, small_model(tokenizer))


def configure(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def rewrite(change: Callable[[dict[str, Any]], None]) -> Damage:
    """Change the header of the weights, and none of their bytes."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return damage


def without(*names: str) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file({name: value for name, value in load_file(path).items() if name not in names}, path)

    return damage


def write(name: str, text: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_text(text)

    return damage


def empty_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')


def in_bin(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Write the weights as torch does, after a change."""

    def damage(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        change(held)
        torch.save(held, folder / "pytorch_model.bin")

    return damage


def garbage(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04 no file of torch" * 9)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "whole numbers": (rewrite(lambda header: header[QUERY].update(dtype="I32")), "is of type I32: whole numbers"),
    "unknown type": (rewrite(lambda header: header[QUERY].update(dtype="X9")), "is X9 of shape .* other bytes"),
    "other type": (rewrite(lambda header: header[QUERY].update(dtype="F16")), "is F16 of shape .* other bytes"),
    "other shape": (rewrite(lambda header: header[QUERY].update(shape=[3, 3])), r"of shape \[3, 3\].* other bytes"),
    "transposed": (
        rewrite(lambda header: header[KEY]["shape"].reverse()),
        r"1 weights have other shapes, such as .*k_p",
    ),
    "renamed": (
        rewrite(lambda header: header.update({"other.weight": header.pop(QUERY)})),
        "1 weights .* are in no file, such as .*q_proj.*1 that it does not know, such as other.weight",
    ),
    "lacks one": (without(QUERY), "1 weights of the model .* are in no file, such as .*q_proj.* drawn at random"),
    "a layer more": (
        configure(num_hidden_layers=2, layer_types=None),
        "9 weights .* in no file, such as model.layers.1",
    ),
    "other width": (
        configure(hidden_size=64),
        r"have other shapes.*\(268, 16\) in the files, \(268, 64\) by the config",
    ),
    "other vocabulary": (configure(vocab_size=10), "have other shapes"),
    "other family": (configure(model_type="bert"), "are in no file"),
    "no heads": (configure(num_attention_heads=0), "ZeroDivisionError.*Fix that in config.json"),
    "heads below 0": (configure(num_attention_heads=-1), "cannot be built.*Fix the field"),
    "no heads of keys": (configure(num_key_value_heads=0), "cannot be built.*Fix the field"),
    "unknown activation": (configure(hidden_act="nope"), "cannot be built .KeyError: 'nope'"),
    "no number": (configure(hidden_size="64"), "hidden_size.*Fix that in config.json"),
    "pad id beyond": (
        configure(pad_token_id=999999),
        r"pad_token_id=999999, and the embedding has 268 rows.*pad_token_id=None",
    ),
    "pad id below": (configure(pad_token_id=-200000), "pad_token_id=-200000"),
    "empty index": (empty_index, "its weight_map names no file"),
    "garbage": (garbage, "is no file of torch"),
    "tokenizer of nothing": (
        write("tokenizer.json", "{}"),
        r"tokenizer.json' lacks 'model'.*tokenizer\.save_pretrained",
    ),
    "tokenizer cut": (write("tokenizer.json", '{"model": {"vocab"'), "tokenizer.json' cannot be read"),
    "tokenizer settings": (write("tokenizer_config.json", "[]"), "tokenizer_config.json' holds a list"),
    "generation cut": (write("generation_config.json", "{"), "generation_config.json' cannot be read"),
    "no layers": (configure(num_hidden_layers=0, layer_types=None), "num_hidden_layers=0: no model has such a size"),
    "layers below 0": (configure(num_hidden_layers=-1), "num_hidden_layers=-1: .* Write the true one"),
    "unknown class": (
        configure(architectures=["NoSuchForCausalLM"]),
        r"architectures=\['NoSuchForCausalLM'\], and transformers .* model_type 'llama'.* take the field out",
    ),
    "unknown family": (configure(model_type="llama9"), "model type `llama9` .*Fix that in config.json"),
    "unknown quantization": (
        configure(quantization_config={"quant_method": "foo", "bits": 4}),
        "quant_method='foo', which transformers does not know .* take quantization_config out",
    ),
    "quantization without a method": (configure(quantization_config={"bits": 4}), "quant_method=None"),
    "quantization of nothing": (configure(quantization_config={}), "quant_method=None"),
    "quantization by a number": (configure(quantization_config={"quant_method": 4}), "quant_method=4"),
    "bin of other shapes": (in_bin(lambda held: held.update({QUERY: torch.zeros(3, 3)})), r"other shapes.*\(3, 3\)"),
    "bin of whole numbers": (
        in_bin(lambda held: held.update({QUERY: held[QUERY].to(torch.int32)})),
        "is of type INT32: whole numbers",
    ),
    "bin that lacks one": (in_bin(lambda held: held.pop(QUERY)), "1 weights of the model .* are in no file"),
    "bin with code": (in_bin(lambda held: held.update(x=Path("code"))), "cannot be read without running code in it"),
    "config cut": (write("config.json", '{"a"'), "not a valid JSON file"),
    "config of nothing": (write("config.json", "{}"), "Unrecognized model"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_folder_is_an_error_that_says_what(
    kind: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a weight would have been read")

    damage, said = DAMAGES[kind]
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    damage(folder)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
    for call in (plan_load, load):
        with pytest.raises(PadfixError, match=f"(?s){said}"):
            call(folder)


def test_what_only_loading_shows_is_an_error_of_the_library_too(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    (folder / "generation_config.json").write_text('{"eos_token_id": "x"}')
    with pytest.raises(PadfixError, match=r"invalid literal.*Fix that in generation_config\.json"):
        load(folder, verbose=False)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({name: value for name, value in weights.items() if name != QUERY}, folder / "pytorch_model.bin")
    with pytest.raises(PadfixError, match=r"1 weights of the model .* are in no file"):  # it has no header
        load(folder, verbose=False)


def test_the_line_against_a_pad_id_without_a_row_helps(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    configure(pad_token_id=999999)(folder)
    model, tokenizer = load(folder, pad_token_id=None, verbose=False)
    assert model.config.pad_token_id == tokenizer.pad_token_id


def mixture(**settings: Any) -> Any:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    return MixtralForCausalLM(MixtralConfig(num_hidden_layers=2, num_local_experts=4, **sizes, **settings))


def test_tied_joined_prefixed_and_sharded_weights_are_no_false_alarm(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    rows = len(tokenizer)
    tied = small_model(tokenizer, tie_word_embeddings=True)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=rows, n_embd=32, n_layer=1, n_head=2))
    models = {"tied": tied, "base": tied.model, "experts": mixture(vocab_size=rows), "gpt2": gpt2}
    for name, model in models.items():
        plan_load(save(tmp_path / name, tokenizer, model))
    sharded = tmp_path / "sharded"
    models["experts"].save_pretrained(sharded, max_shard_size="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    plan_load(save(sharded, tokenizer))
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    lost = next(name for name in index["weight_map"] if ".experts.1.w1." in name)
    path = sharded / index["weight_map"][lost]
    save_file({name: value for name, value in load_file(path).items() if name != lost}, path)
    with pytest.raises(PadfixError, match=r"cannot be made of those in the files.*model\.save_pretrained\(folder\)"):
        plan_load(sharded)


def test_experts_that_nf4_leaves_alone_keep_their_type_and_are_named(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    tokenizer = small_tokenizer()
    folder = save(tmp_path, tokenizer, mixture(vocab_size=len(tokenizer)).to(torch.bfloat16))
    settings: dict[str, Any] = {"quantization": "nf4", "lora": True, "dtype": "bfloat16"}
    said = r"experts: bfloat16 \(.*the 4 fused weights of the experts \(mlp\.experts\.gate_up_proj, mlp\.experts\.down"
    assert re.search(said, str(plan_load(folder, **settings)))
    assert "experts:" not in str(plan_load(folder, lora=True))
    model, _ = load(folder, verbose=False, **settings)
    types = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {dtype for name, dtype in types.items() if ".experts." in name and "lora" not in name} == {torch.bfloat16}
    assert {dtype for name, dtype in types.items() if "norm" in name or "embed" in name} == {torch.float32}
    ids = torch.arange(2, 14).reshape(2, 6)
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("names", [None, ["LLaMAForCausalLM"], "LlamaForCausalLM", ["FSDPLlamaForCausalLM"], []])
def test_a_class_by_another_spelling_is_no_fault(names: Any, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    configure(architectures=names)(folder)
    plan_load(folder)


def test_files_of_torch_are_looked_at_by_their_heads(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    in_bin(lambda held: None)(folder)
    assert "not looked at" not in str(plan_load(folder))
    held = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(held, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    [line] = [line for line in str(plan_load(folder)).splitlines() if "not looked at" in line]
    assert "pytorch_model.bin is of torch before 1.6" in line and "model.save_pretrained(folder)" in line
    model, _ = load(folder, verbose=False)
    assert torch.equal(model.get_input_embeddings().weight, held["model.embed_tokens.weight"])
