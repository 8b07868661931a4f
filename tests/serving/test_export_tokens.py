"""Tokens of a copy: flags that engines lose, ids beyond the embedding, EOS and BOS as the training has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llama_padfix import check_serving, export_for_serving
from llama_padfix.serving.folder import ServedFolder, read_served_folder
from tests.serving.test_check_serving import ROWS, causes
from tests.support.served import read_template, save_folder

CHATML = read_template("qwen2_5")


def edit(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def set_flags(folder: Path, **flags: bool) -> None:
    """Give the control tokens of a saved tokenizer flags."""
    file = folder / "tokenizer.json"
    document = json.loads(file.read_text())
    for token in document["added_tokens"]:
        token.update(flags)
    file.write_text(json.dumps(document))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for held in config.get("added_tokens_decoder", {}).values():
        held.update(flags)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def flags_of(folder: ServedFolder) -> set[tuple[bool, bool, bool]]:
    return {(one.lstrip, one.rstrip, one.single_word) for one in folder.tokenizer.added_tokens_decoder.values()}


def test_flags_that_engines_lose_are_taken_away_where_no_id_changes(tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ '<|im_start|>' + m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}"
    source += "{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}"
    folder = save_folder(tmp_path / "a", source, eos="<|im_end|>")
    set_flags(folder, lstrip=True, rstrip=True)
    rows = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}]
    report = export_for_serving(folder, tmp_path / "b", rows, engines=["vllm"])
    assert flags_of(read_served_folder(tmp_path / "b")) == {(False, False, False)}
    assert any("without the flags that engines lose" in change for change in report.changes)
    spaced = [{"messages": [rows[0]["messages"][0], {"role": "assistant", "content": "Hello. "}]}]
    report = export_for_serving(folder, tmp_path / "c", spaced, engines=["vllm", "llama.cpp"])
    assert (True, True, False) in flags_of(read_served_folder(tmp_path / "c"))
    assert any("change the ids of 1 of 1 trained texts" in line for line in report.beyond_files)


def test_tokens_beyond_the_embedding_are_taken_away(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "a", CHATML, eos="<|im_end|>", more=("<|endoftext|>",))
    tokenizer: Any = read_served_folder(folder).tokenizer
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps({"vocab_size": size}))
    report = export_for_serving(folder, tmp_path / "b", ROWS, engines=["vllm"])
    copied = read_served_folder(tmp_path / "b").tokenizer
    assert "[PAD]" not in copied.get_vocab() and len(copied) == size
    assert copied.pad_token == "<|endoftext|>"
    assert any(f"beyond the embedding of {size} rows: [PAD]; pad_token" in change for change in report.changes)
    assert causes(report) == {}
    (folder / "config.json").write_text(json.dumps({"vocab_size": size - 2}))
    report = export_for_serving(folder, tmp_path / "c", ROWS, engines=["vllm"])
    assert "[PAD]" in read_served_folder(tmp_path / "c").tokenizer.get_vocab(), "others of these are trained"
    assert any("rows of the embedding, which engines refuse" in line for line in report.beyond_files)


def test_a_template_that_prints_the_eos_keeps_it_when_another_ends_turns(tmp_path: Path) -> None:
    source = "{{ eos_token }}" + CHATML
    folder = save_folder(tmp_path / "a", source, eos="<|end|>")
    report = export_for_serving(folder, tmp_path / "b", ROWS, engines=["vllm", "llama.cpp"])
    copy = read_served_folder(tmp_path / "b")
    assert copy.tokenizer.eos_token == "<|im_end|>" and copy.template is not None
    assert causes(report) == {} and '{% set eos_token = "<|end|>" %}' in copy.template


def test_no_bos_is_added_where_the_training_has_none(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "a", CHATML, eos="<|im_end|>", more=("<s>",))
    edit(folder / "tokenizer_config.json", add_bos_token=True)
    assert causes(check_serving(folder, ROWS, engines=["llama.cpp"]))["llama.cpp"]["BOS"] == 3
    report = export_for_serving(folder, tmp_path / "b", ROWS, engines=["llama.cpp", "vllm"])
    assert causes(report) == {}
    assert any("add_bos_token = false" in change for change in report.changes)
