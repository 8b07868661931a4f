"""Folders as runs really save them: each fault is found, healed in a copy, and gone there with its consequence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llama_padfix import PadfixError, diagnose, patch_tokenizer
from llama_padfix.doctor.facts import EnvironmentFacts, Facts, FolderFacts
from llama_padfix.doctor.findings import Finding, Report
from llama_padfix.doctor.observe.folder import fetch_folder, observe_folder
from llama_padfix.doctor.repair_folder import heal_folder
from llama_padfix.doctor.runner import run_checks, select_checks
from llama_padfix.encoding.encoder import ChatEncoder
from tests.conftest import fresh_tokenizer
from tests.support.saved import read, save, small_model, small_tokenizer

PROBE = "Hello world, it's 12345 o'clock."


def load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def found(report: Report, code: str) -> list[Finding]:
    broken = {code: reason for code, reason in report.skipped.items() if "raised" in reason}
    assert not broken
    return [finding for finding in report.findings if finding.code == code]


def one(folder: Path, code: str) -> Finding:
    [finding] = found(diagnose(folder), code)
    return finding


def healthy(folder: Path) -> Path:
    tokenizer = small_tokenizer()
    model = small_model(tokenizer)
    patch_tokenizer(tokenizer, model)
    return save(folder, tokenizer, model)


def test_a_healthy_folder_has_nothing_above_a_note(tmp_path: Path) -> None:
    report = diagnose(healthy(tmp_path / "run"))
    assert {finding.code for finding in report.findings} == {"SAV003"}
    folder = {"SAV001", "SAV002", "SAV004", "SAV005", "SAV006", "SAV007", "LOD005", "LOD006", "BOS005", "PKG001"}
    assert folder | {"PKG002"} | {"PAD004", "GEN002", "EMB001"} <= set(report.passed)


@pytest.mark.parametrize("chat", [True, False])
def test_a_healed_copy_is_healthy_and_the_folder_is_untouched(tmp_path: Path, chat: bool) -> None:
    tokenizer = small_tokenizer(chat=chat)
    run = save(tmp_path / "run", tokenizer, small_model(tokenizer))
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert {"PAD001", "PAD004"} <= {finding.code for finding in diagnose(run).findings}
    healed = heal_folder(run, tmp_path / "new" / "healed")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert [finding.code for finding in healed.left.findings] == ["SAV003"]
    assert [f.code for f in diagnose(healed.path).findings] == ["SAV003"]
    assert "model.safetensors" not in healed.files
    assert "weights are as they were and are not copied" in str(healed)
    pad = load(tmp_path / "new" / "healed").pad_token_id
    assert pad is not None
    assert {read(Path(healed.path) / name)["pad_token_id"] for name in ("config.json", "generation_config.json")} == {
        pad
    }
    with pytest.raises(PadfixError, match="exists already"):
        heal_folder(run, healed.path)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["healed"], "no scratch folder is left"


def test_a_folder_is_not_fixed_in_place(tmp_path: Path) -> None:
    run = save(tmp_path / "run", small_tokenizer())
    with pytest.raises(PadfixError, match="never changed in place"):
        diagnose(run).fix()


def test_nothing_is_left_where_healing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = save(tmp_path / "run", small_tokenizer())
    monkeypatch.setattr(
        "llama_padfix.doctor.repair_folder._apply", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt())
    )
    with pytest.raises(KeyboardInterrupt):
        heal_folder(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# ---- the model's side without its weights


def test_embedding_rows_come_from_the_header_of_the_weights(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    model = small_model(tokenizer)
    patch_tokenizer(tokenizer, model)
    rows = len(tokenizer)
    tokenizer.add_tokens(["<new>"])
    run = save(tmp_path / "run", tokenizer, model)
    config = read(run / "config.json")
    (run / "config.json").write_text(json.dumps(config | {"vocab_size": 7}))
    assert (observe_folder(run).embedding_rows, observe_folder(run).weights_seen) == (rows, True)
    finding = one(run, "EMB001")
    assert f"has {rows} rows" in finding.message and f"'<new>' ({rows})" in finding.message
    (run / "model.safetensors").unlink()
    assert (observe_folder(run).embedding_rows, observe_folder(run).weights_seen) == (7, False)
    model.resize_token_embeddings(rows + 1)
    assert found(diagnose(save(run, None, model)), "EMB001") == []


def test_without_a_config_the_model_is_said_to_be_missing(tmp_path: Path) -> None:
    report = diagnose(save(tmp_path / "run", small_tokenizer()))
    assert report.skipped["EMB001"] == report.skipped["PAD004"] == "no model to look at"
    assert report.skipped["SAV001"] == "no saved config to look at"


def test_strange_ids_in_a_config_are_an_error_that_names_them(tmp_path: Path) -> None:
    run = healthy(tmp_path / "run")
    (run / "config.json").write_text('{"eos_token_id": "two"}')
    with pytest.raises(PadfixError, match="eos_token_id is 'two'"):
        diagnose(run)


# ---- SAV


def test_sav001_the_files_disagree(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    model = small_model(tokenizer)
    patch_tokenizer(tokenizer, model)
    text_end, eot = tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"])
    model.generation_config.eos_token_id = text_end  # what a base model was saved with
    model.config.pad_token_id = eot
    run = save(tmp_path / "run", tokenizer, model)
    finding = one(run, "SAV001")
    assert f"generation_config.json stops at {text_end}" in finding.message
    assert f"EOS is <|eot_id|> ({eot})" in finding.message
    assert f"config.json says {eot}" in finding.message
    healed = Path(heal_folder(run, tmp_path / "out").path)
    assert found(diagnose(healed), "SAV001") == []
    stops = [read(healed / name)["eos_token_id"] for name in ("config.json", "generation_config.json")]
    assert set(stops[0]) == set(stops[1]) and eot in stops[0]


def test_sav002_an_adapter_without_its_tokenizer(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    tokenizer = small_tokenizer()
    model = get_peft_model(small_model(tokenizer), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    run = save(tmp_path / "run", None, model)
    finding = one(run, "SAV002")
    assert finding.changes[0].safety == "manual"
    assert found(diagnose(run), "LOD006") == []
    tokenizer.save_pretrained(str(run))
    assert found(diagnose(run), "SAV002") == []


def test_sav003_a_class_that_4x_does_not_know(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|eom_id|>"]})
    run = save(tmp_path / "run", tokenizer)
    config = read(run / "tokenizer_config.json")
    if config["tokenizer_class"] != "TokenizersBackend":
        pytest.skip("transformers 4.x saves what it can open")
    finding = one(run, "SAV003")
    assert "TokenizersBackend and extra_special_tokens as a list" in finding.message
    safe, unsafe = heal_folder(run, tmp_path / "safe"), heal_folder(run, tmp_path / "unsafe", unsafe=True)
    assert found(safe.left, "SAV003") and not found(unsafe.left, "SAV003")
    written = read(tmp_path / "unsafe" / "tokenizer_config.json")
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert written["additional_special_tokens"] == ["<|eom_id|>"] and "extra_special_tokens" not in written
    reloaded = load(tmp_path / "unsafe")
    assert reloaded(PROBE, add_special_tokens=False) == tokenizer(PROBE, add_special_tokens=False)
    assert "<|eom_id|>" in reloaded.all_special_tokens


def test_sav004_the_template_was_left_behind(tmp_path: Path) -> None:
    run = save(tmp_path / "run", small_tokenizer())
    assert found(diagnose(run), "SAV004") == []
    (run / "chat_template.jinja").unlink()
    assert "EOS is <|eot_id|>" in one(run, "SAV004").message
    base = small_tokenizer(chat=False)
    patch_tokenizer(base)
    assert found(diagnose(save(tmp_path / "base", base)), "SAV004") == []


def test_sav005_a_template_of_an_earlier_save(tmp_path: Path) -> None:
    run = save(tmp_path / "run", small_tokenizer())
    for path in run.iterdir():
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 90))
    assert found(diagnose(run), "SAV005") == []
    base = small_tokenizer(chat=False)
    save(run, base)
    assert load(run).chat_template and not base.chat_template, "the trap"
    finding = one(run, "SAV005")
    assert finding.severity == "warning"
    assert "90 s older" in finding.message or "91 s older" in finding.message
    assert "<|eot_id|> where the tokenizer's EOS is <|end_of_text|>" in finding.message
    fresh = save(tmp_path / "fresh", base)
    assert found(diagnose(fresh), "SAV005") == [] and not load(fresh).chat_template


def test_sav005_two_templates(tmp_path: Path) -> None:
    run = save(tmp_path / "run", small_tokenizer(), chat_template="{{ messages }}")
    assert "differ" in one(run, "SAV005").message
    same = (run / "chat_template.jinja").read_text()
    save(run, None, None, chat_template=same)
    assert found(diagnose(run), "SAV005") == []


def test_sav006_trl_saves_pad_as_eos(tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = small_tokenizer()
    trainer = SFTTrainer(
        model=small_model(tokenizer),
        args=SFTConfig(output_dir=str(tmp_path / "out"), report_to=[], use_cpu=True, bf16=False),
        train_dataset=Dataset.from_list([{"text": "Hello"}] * 2),
        processing_class=tokenizer,
    )
    run = tmp_path / "run"
    trainer.save_model(str(run))
    assert load(run).pad_token == load(run).eos_token == "<|eot_id|>", "the trap"
    finding = one(run, "SAV006")
    assert finding.message.startswith("tokenizer_config.json says that <|eot_id|> is both")
    healed = heal_folder(run, tmp_path / "healed")
    assert not found(healed.left, "SAV006")
    assert load(Path(healed.path)).pad_token == "<|end_of_text|>"


def test_sav007_weights_that_are_cut_short(tmp_path: Path) -> None:
    run = healthy(tmp_path / "run")
    weights = run / "model.safetensors"
    whole = weights.read_bytes()
    for content, seen in (
        (whole[:-1], f"has {len(whole) - 1} bytes, and its header describes {len(whole)}: it is cut short or damaged"),
        (whole[:7], "has 7 bytes, and no header"),
        (b"", "has 0 bytes, and no header"),
        ((2**62).to_bytes(8, "little") + whole[8:], "a header that claims 4611686018427387904: it is cut short"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "has a header that is no list of tensors"),
    ):
        weights.write_bytes(content)
        finding = one(run, "SAV007")
        assert seen in finding.message and str(weights) in finding.message
        assert finding.severity == "error"


def test_sav007_of_shards_torch_files_and_adapters(tmp_path: Path) -> None:
    import torch

    run = healthy(tmp_path / "run")
    whole = (run / "model.safetensors").read_bytes()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = run / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip("ab", names, strict=True))}))
    (run / "model.safetensors").unlink()
    assert not found(diagnose(run), "SAV007"), "settings alone, as they are fetched from the hub"
    (run / names[0]).write_bytes(whole)
    assert f"{names[1]}' is missing, one of 2 files" in one(run, "SAV007").message
    (run / names[1]).write_bytes(whole)
    assert not found(diagnose(run), "SAV007")
    for broken in (
        '{"weight_map": {"b": 5}}',
        '{"weight_map": [1]}',
        "[]",
        '{"weight_map": {"b": "../x"}}',
        "[" * 99999,
    ):
        index.write_text(broken)
        assert "is no index of weights" in one(run, "SAV007").message
    index.unlink()
    torch.save({"w": torch.zeros(9)}, run / "pytorch_model.bin")
    assert not found(diagnose(run), "SAV007")
    (run / "pytorch_model.bin").write_bytes((run / "pytorch_model.bin").read_bytes()[:-30])
    assert "no end: it is cut short" in one(run, "SAV007").message
    (run / "pytorch_model.bin").unlink()
    (run / "adapter_model.safetensors").write_bytes(whole[:-1])
    assert "adapter_model.safetensors" in one(run, "SAV007").message


# ---- LOD, PKG, BOS


def test_lod005_a_class_that_splits_its_own_way(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    run = save(tmp_path / "run", tokenizer, tokenizer_class="GPT2TokenizerFast")
    right = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    assert load(run)(PROBE, add_special_tokens=False)["input_ids"] != right, "the trap"
    finding = one(run, "LOD005")
    assert "loads as GPT2TokenizerFast" in finding.message
    facts = observe_folder(run)
    assert f"instead of {len(facts.raw_ids)}" in finding.message
    with pytest.raises(PadfixError, match="with other ids"):
        heal_folder(run, tmp_path / "safe")
    assert not (tmp_path / "safe").exists()
    healed = heal_folder(run, tmp_path / "unsafe", unsafe=True)
    assert not found(healed.left, "LOD005")
    assert load(Path(healed.path))(PROBE, add_special_tokens=False)["input_ids"] == right


@pytest.mark.slow
def test_lod005_on_the_real_vocabulary(tmp_path: Path) -> None:
    run = save(tmp_path / "run", fresh_tokenizer("3.1-instruct"))
    [good] = [report for report in [diagnose(run)] if "LOD005" in report.passed]
    assert not found(good, "PKG002")
    save(run, tokenizer_class="GPT2TokenizerFast")
    assert "o'clock" not in one(run, "LOD005").message
    assert observe_folder(run).byte_level


def test_lod006_a_file_that_was_cut_short(tmp_path: Path) -> None:
    run = healthy(tmp_path / "run")
    whole = (run / "tokenizer.json").read_bytes()
    (run / "tokenizer.json").write_bytes(whole[:1000])
    report = diagnose(run)
    assert found(report, "LOD006")[0].severity == "error"
    assert report.skipped["PAD001"] == "no tokenizer to look at"
    assert report.skipped["LOD005"] == "no saved ids to look at"
    with pytest.raises(PadfixError, match="does not load"):
        heal_folder(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (run / "tokenizer.json").write_bytes(whole)
    assert not found(diagnose(run), "LOD006")


def test_lod006_a_folder_with_nothing_in_it(tmp_path: Path) -> None:
    [finding] = diagnose(tmp_path).findings
    assert (finding.code, finding.severity) == ("LOD006", "warning")
    assert "holds no file" in finding.message


@pytest.mark.parametrize(
    ("versions", "severities"),
    [
        ({"tokenizers": "0.19.1", "transformers": "4.43.4"}, ["note", "note"]),
        ({"tokenizers": "0.20.0", "transformers": "4.45.2"}, ["note"]),
        ({"transformers": "4.46.3", "torch": "2.13.0+cpu"}, ["note", "note"]),
        ({"transformers": "4.47.0", "torch": "2.13.0+cpu"}, ["note"]),
        ({"transformers": "4.46.3", "torch": "2.5.1"}, ["note"]),
        ({"transformers": "4.46.0"}, ["note"]),
        ({"transformers": "4.57.6"}, ["note"]),
        ({"transformers": "5.0.0"}, ["note", "note"]),
        ({"transformers": "5.2.0"}, ["note", "note", "note"]),
        ({"transformers": "5.5.4"}, ["note", "note", "note"]),
        ({"transformers": "5.6.0"}, ["note", "note"]),
        ({"transformers": "5.7.9"}, ["note", "note"]),
        ({"transformers": "5.8.0"}, ["note"]),
        ({"transformers": "5.22.0"}, []),
        ({"trl": "0.14.0"}, ["note"]),
        ({"trl": "0.15.2"}, ["note", "note"]),
        ({"trl": "0.16.1"}, ["note"]),
        ({"trl": "0.17.0"}, []),
        ({"trl": "0.11.4", "transformers": "5.23.0"}, ["warning", "note"]),
        ({"trl": "1.16.0", "transformers": "5.23.0", "tokenizers": "0.23.3", "torch": "2.13.0+cpu"}, []),
        ({"trl": "strange"}, []),
    ],
)
def test_pkg001_by_version_table(versions: dict[str, str], severities: list[str]) -> None:
    report = run_checks(Facts(environment=EnvironmentFacts(versions)), select_checks(["PKG001"]))
    assert [finding.severity for finding in report.findings] == severities
    assert all(any(version in f.message for version in versions.values()) for f in report.findings)


@pytest.mark.parametrize(
    ("version", "named", "byte_level", "severity"),
    [
        ("5.0.0", "LlamaTokenizerFast", True, "error"),
        ("5.21.3", "LlamaTokenizer", True, "error"),
        ("5.22.0", "LlamaTokenizerFast", True, "note"),
        ("4.57.1", "LlamaTokenizerFast", True, "note"),
        ("5.12.0", "LlamaTokenizerFast", False, None),
        ("5.12.0", "PreTrainedTokenizerFast", True, None),
    ],
)
def test_pkg002_by_version_table(version: str, named: str, byte_level: bool, severity: str | None) -> None:
    folder = FolderFacts("run", (), tokenizer_config={"tokenizer_class": named}, byte_level=byte_level)
    facts = Facts(folder=folder, environment=EnvironmentFacts({"transformers": version}))
    findings = run_checks(facts, select_checks(["PKG002"])).findings
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


def test_pkg002_healed_through_a_real_folder(tmp_path: Path) -> None:
    run = save(tmp_path / "run", small_tokenizer(), tokenizer_class="LlamaTokenizerFast")
    assert one(run, "PKG002")
    healed = heal_folder(run, tmp_path / "out", unsafe=True)
    assert not found(healed.left, "PKG002")
    assert read(tmp_path / "out" / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_bos005_attributes_that_nobody_reads(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(chat=False)
    run = save(tmp_path / "run", tokenizer, add_bos_token=False, add_eos_token=True)
    assert load(run)("Hi")["input_ids"] == tokenizer("Hi")["input_ids"], "the trap: neither does anything"
    finding = one(run, "BOS005")
    assert "add_bos_token is False, yet encoding a text adds <|begin_of_text|>" in finding.message
    assert "add_eos_token is True, yet encoding a text does not add <|end_of_text|>" in finding.message
    healed = heal_folder(run, tmp_path / "out")
    assert not found(healed.left, "BOS005")
    assert load(tmp_path / "out")("Hi")["input_ids"] == tokenizer("Hi")["input_ids"]


def test_bos005_and_a_double_bos_are_healed_together(tmp_path: Path) -> None:
    run = save(tmp_path / "run", small_tokenizer(), add_bos_token=False)
    assert one(run, "BOS005").changes == ()
    healed = heal_folder(run, tmp_path / "out")
    assert not found(healed.left, "BOS005") and not found(healed.left, "BOS001")
    tokenizer = load(tmp_path / "out")
    assert tokenizer("Hi")["input_ids"][0] != tokenizer.bos_token_id


def test_tpl006_a_template_that_prints_the_date() -> None:
    [finding] = found(diagnose(small_tokenizer(template="llama3_2.jinja")), "TPL006")
    assert finding.severity == "note"
    assert found(diagnose(small_tokenizer()), "TPL006") == []
    pinned = small_tokenizer(template="llama3_2.jinja")
    pinned.chat_template = "{% set date_string = '26 Jul 2024' %}" + pinned.chat_template
    assert found(diagnose(pinned), "TPL006") == []


def test_fetch_folder_refuses_what_is_neither(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert fetch_folder(tmp_path) == tmp_path
    for name in (file, tmp_path / "nothing", "../no/such", "a/b/c"):
        with pytest.raises(PadfixError, match="is not a folder"):
            fetch_folder(name)
    with pytest.raises(PadfixError, match="hub gives none of that name"):
        fetch_folder("nobody/nothing")


# ---- DAT

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
ROWS: list[dict[str, Any]] = [
    CHAT,
    {"conversations": [{"from": "narrator", "value": "Once"}]},
    {"messages": [{"role": "user", "content": "Hi<|eot_id|>"}, {"role": "assistant", "content": "Ho."}]},
    {"messages": [{"role": "user", "content": "Anybody?"}]},
    {"text": "<|begin_of_text|>A text."},
    {"prompt": "Hi", "completion": "Ho"},
]


def test_each_fault_of_raw_rows_is_named_by_row() -> None:
    tokenizer = small_tokenizer()
    report = diagnose(tokenizer, dataset=ROWS)
    numbers = {f.code: (f.rows, f.seen, [place.row for place in f.evidence]) for f in report.findings}
    assert numbers["DAT001"] == (1, 6, [1])
    assert numbers["DAT002"] == (1, 6, [2])
    assert numbers["DAT003"] == (1, 6, [3])
    assert numbers["DAT005"] == (1, 6, [])
    assert "'narrator'" in found(report, "DAT001")[0].message
    assert "(<|eot_id|>)" in found(report, "DAT002")[0].message
    # the consequences, in the usual way of encoding and in ours
    bos, eot = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert tokenizer(ROWS[4]["text"])["input_ids"][:2] == [bos, bos]
    assert ChatEncoder(tokenizer)(ROWS[4])["input_ids"][:2].count(bos) == 1
    usual = tokenizer.apply_chat_template(ROWS[2]["messages"], tokenize=False)
    assert tokenizer(usual)["input_ids"].count(eot) == ChatEncoder(tokenizer)(ROWS[2])["input_ids"].count(eot) + 1
    good = diagnose(tokenizer, dataset=[CHAT, ROWS[5]])
    assert {"DAT001", "DAT002", "DAT003", "DAT004", "DAT005"} <= set(good.passed)


def test_rows_of_which_the_template_leaves_something_out() -> None:
    tokenizer = small_tokenizer()
    thought = {"messages": [CHAT["messages"][0], CHAT["messages"][1] | {"reasoning_content": "Hm."}]}
    [finding] = found(diagnose(tokenizer, dataset=[CHAT, thought, CHAT, thought]), "DAT006")
    assert (finding.count, finding.seen, [one.row for one in finding.evidence]) == (2, 4, [1, 3])
    assert "the first is row 1: The chat template leaves out the thoughts of message 1." in finding.message
    assert "DAT006" in diagnose(tokenizer, dataset=[CHAT]).passed


def test_dat008_arguments_that_are_no_json() -> None:
    def calling(arguments: Any) -> Any:
        calls = [{"type": "function", "function": {"name": "look", "arguments": arguments}}]
        return {"messages": [CHAT["messages"][0], {"role": "assistant", "content": None, "tool_calls": calls}]}

    tokenizer = small_tokenizer()
    rows = [CHAT, calling("{'at': 'sky'}"), calling('{"at": "sky"}'), calling({"at": "sky"})]
    [finding] = found(diagnose(tokenizer, dataset=rows), "DAT008")
    assert (finding.severity, finding.count, [one.row for one in finding.evidence]) == ("warning", 1, [1])
    assert "the first is row 1, message 1: \"{'at': 'sky'}\"" in finding.message


def test_rows_longer_than_the_model() -> None:
    tokenizer = small_tokenizer()
    long = {"messages": [*CHAT["messages"], {"role": "user", "content": "x" * 600}, CHAT["messages"][1]]}
    assert found(diagnose(tokenizer, dataset=[CHAT, long]), "DAT004") == []
    tokenizer.model_max_length = 400
    report = diagnose(tokenizer, dataset=[CHAT, long])
    assert "Of 2 rows (dataset) 1 are longer than the 400 tokens" in found(report, "DAT004")[0].message
    tokenizer.model_max_length = 50
    assert (
        "0 lose turns at the end, 2 have no turn"
        in found(diagnose(tokenizer, dataset=[CHAT, long]), "DAT004")[0].message
    )


def test_a_sample_of_many_raw_rows_is_counted() -> None:
    report = diagnose(small_tokenizer(), dataset=[{"messages": []}] * 500, max_rows=40)
    [finding] = found(report, "DAT001")
    assert (finding.rows, finding.seen, len(finding.evidence)) == (40, 40, 5)
    assert len({place.row for place in finding.evidence}) == 5 and max(p.row for p in finding.evidence) > 10


# ---- tokenizer.json


def test_lod009_padding_in_tokenizer_json(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = small_tokenizer()
    model = small_model(tokenizer)
    patch_tokenizer(tokenizer, model)
    tokenizer("hello", padding="max_length", truncation=True, max_length=64)  # as most tutorials encode
    run = save(tmp_path / "run", tokenizer, model)
    assert len(Tokenizer.from_file(str(run / "tokenizer.json")).encode("hello").ids) == 64
    assert not found(diagnose(run), "LOD005"), "the ids are those of the file"
    assert "holds padding to 64 ids and truncation at 64 ids" in one(run, "LOD009").message
    before = load(run)("Hello world")["input_ids"]
    healed = heal_folder(run, tmp_path / "healed")
    assert [finding.code for finding in healed.left.findings] == ["SAV003"]
    assert Tokenizer.from_file(f"{healed.path}/tokenizer.json").encode("Hello world").ids == before
    assert load(Path(healed.path))("Hello world")["input_ids"] == before
