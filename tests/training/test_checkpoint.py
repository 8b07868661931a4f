"""Broken folders, cut weights and ids without a row are seen before a weight is read."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llama_padfix import PadfixError, load
from llama_padfix.training.loading.checkpoint import (
    build_shape,
    load_tokenizer,
    require_complete_folder,
    require_length,
    require_rows,
)
from tests.support.saved import save, small_model, small_tokenizer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which nothing is wrong. Read only."""
    tokenizer = small_tokenizer()
    return save(tmp_path_factory.mktemp("whole"), tokenizer, small_model(tokenizer))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def no_weight_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        pytest.fail("a weight would have been read")  # no Exception: those become errors of the folder

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)


def test_a_whole_folder_passes(whole: Path) -> None:
    require_complete_folder(whole)
    with pytest.raises(pytest.fail.Exception, match="a weight would have been read"):
        load(whole, verbose=False)


def test_weights_cut_at_any_place_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    for length, said in (
        (0, "has 0 bytes, and no header"),
        (7, "has 7 bytes, and no header"),
        (8 + header - 1, f"has {8 + header - 1} bytes, and a header that claims {header}: it is cut short"),
        (8 + header, rf"has {8 + header} bytes, and its header describes {len(content)}"),
        (len(content) - 1, rf"has {len(content) - 1} bytes, and its header describes {len(content)}"),
    ):
        path.write_bytes(content[:length])
        with pytest.raises(PadfixError, match=f"model.safetensors' {said}.*again"):
            load(folder)
    path.write_bytes(content + b"\0")
    with pytest.raises(PadfixError, match=f"has {len(content) + 1} bytes"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a pointer of Git LFS.*git lfs pull"),
        (struct.pack("<Q", 4) + b"nope", r"no list of tensors \(JSONDecodeError\)"),
        (struct.pack("<Q", 9) + b'{"a": {}}', r"no list of tensors \(KeyError\)"),
        (struct.pack("<Q", 2) + b"[]", r"no list of tensors \(AttributeError\)"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "a header that claims"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(folder: Path, content: bytes, said: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(PadfixError, match=said):
        load(folder)


def test_a_shard_that_is_missing_or_cut_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in names:
        save_file({name[:11]: torch.zeros(4)}, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name[:11]: name for name in names}}))
    require_complete_folder(folder)
    (folder / names[1]).write_bytes((folder / names[1]).read_bytes()[:-1])
    with pytest.raises(PadfixError, match=f"{names[1]}' has"):
        load(folder)
    (folder / names[1]).unlink()
    with pytest.raises(PadfixError, match=f"{names[1]}' is missing, one of 2 files that model.safetensors.index.json"):
        load(folder)
    index.write_text("{}")
    with pytest.raises(PadfixError, match="is no index of weights"):
        load(folder)


def test_an_id_without_a_row_is_refused_and_the_mending_line_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = small_tokenizer()
    model = small_model(tokenizer)
    tokenizer.add_tokens(["<one>", "<two>"])
    folder = save(tmp_path / "grown", tokenizer, model)
    highest = len(tokenizer) - 1
    with pytest.raises(
        PadfixError, match=rf"ids up to {highest} \('<two>'\), and the embedding has {highest - 1} rows"
    ):
        load(folder)
    monkeypatch.undo()
    with pytest.raises(PadfixError) as stopped:
        load(folder, verbose=False)
    from transformers import AutoModelForCausalLM

    exec(str(stopped.value).split("once: ")[1], {"AutoModelForCausalLM": AutoModelForCausalLM})
    model, _ = load(folder, verbose=False)
    assert model.get_input_embeddings().weight.shape[0] == highest + 1


def test_more_rows_than_ids_are_fine() -> None:
    tokenizer = small_tokenizer()
    for rows in (len(tokenizer), len(tokenizer) + 64):
        require_rows(tokenizer, LlamaConfig(vocab_size=rows), "padded")
    with pytest.raises(PadfixError, match=f"the embedding has {len(tokenizer) - 1} rows"):
        require_rows(tokenizer, LlamaConfig(vocab_size=len(tokenizer) - 1), "short")


def test_a_length_is_a_number_within_the_positions() -> None:
    config = LlamaConfig(max_position_embeddings=2048)
    for fine in (None, 2, 2048):
        require_length(fine, config)
    for wrong in (0, -1, 1, 2.5, True, "2048"):
        with pytest.raises(PadfixError, match="a row needs at least 2 tokens"):
            require_length(wrong, config)  # type: ignore[arg-type]
    with pytest.raises(PadfixError, match=r"max_length=4096 is beyond the 2048 positions.*max_length=2048"):
        require_length(4096, config)
    stretched = LlamaConfig(max_position_embeddings=2048, rope_scaling={"rope_type": "linear", "factor": 4.0})
    require_length(4096, stretched)


def test_the_shape_of_a_model_has_its_modules_and_no_numbers_and_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    shape = build_shape(LlamaConfig(vocab_size=1000, hidden_size=64, num_hidden_layers=2, num_attention_heads=4))
    assert isinstance(shape, LlamaForCausalLM)
    assert {parameter.device.type for parameter in shape.parameters()} == {"meta"}
    assert torch.equal(before, torch.get_rng_state())
    assert build_shape(object(), trust_remote_code=True) is None  # its own code may need its weights to be built
    with pytest.raises(PadfixError, match="cannot be built"):
        build_shape(object())


def test_a_class_that_misreads_the_file_is_replaced_and_said(tmp_path: Path) -> None:
    # GPT2TokenizerFast splits Llama 3's file by its own rules in every transformers 5, as LlamaTokenizerFast did.
    folder = save(tmp_path / "misread", small_tokenizer(), tokenizer_class="GPT2TokenizerFast")
    text = "Hello world, it's 12345 o'clock"
    right = small_tokenizer()(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] != right
    tokenizer, choice = load_tokenizer(str(folder), model_max_length=77)
    assert tokenizer(text)["input_ids"] == right
    assert tokenizer.model_max_length == 77 and tokenizer.chat_template
    assert choice is not None and choice.level == "warning" and "GPT2Tokenizer" in choice.reason
    with pytest.raises(PadfixError, match=r"GPT2Tokenizer.*pip install 'transformers>=5.22'"):
        load_tokenizer(str(folder), strict=True)


def test_a_class_that_reads_the_file_is_kept(whole: Path) -> None:
    assert load_tokenizer(str(whole))[1] is None


def test_padding_that_the_file_holds_is_switched_off_and_said(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    tokenizer.pad_token = "<|end_of_text|>"
    right = tokenizer("hello")["input_ids"]
    tokenizer("hello", padding="max_length", truncation=True, max_length=64)
    loaded, choice = load_tokenizer(str(save(tmp_path / "padded", tokenizer)), strict=True)
    assert choice is not None and "padding to 64 ids and truncation at 64 ids" in choice.reason
    assert (loaded.backend_tokenizer.padding, loaded.backend_tokenizer.truncation) == (None, None)
    assert loaded("hello")["input_ids"] == loaded.backend_tokenizer.encode("hello").ids == right
