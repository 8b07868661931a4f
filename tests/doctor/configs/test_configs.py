"""Configs and scripts of other tools, by their keywords alone: each fault at its place, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llama_padfix import PadfixError, cli
from llama_padfix.doctor.configs.check_file import check_file

AXOLOTL = """\
base_model: meta-llama/Llama-3.1-8B-Instruct
chat_template: llama3
datasets:
  - path: train.jsonl
    type: chat_template
sequence_len: 4096
bf16: true
"""
FACTORY = """\
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
stage: sft
template: llama3
cutoff_len: 4096
bf16: true
"""
SWIFT = """\
model: Qwen/Qwen2.5-7B-Instruct
tuner_type: lora
dataset:
  - train.jsonl
"""
SCRIPT = """\
from transformers import AutoTokenizer, DataCollatorForLanguageModeling
from trl import SFTConfig, SFTTrainer

tokenizer = AutoTokenizer.from_pretrained("meta-llama/Llama-3.1-8B-Instruct")
args = SFTConfig(output_dir="out", max_length=4096, bf16=True)
collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
trainer = SFTTrainer(model, args=args, data_collator=collator)
"""


def faults(tmp_path: Path, text: str, name: str = "config.yaml") -> list[tuple[str, int, str]]:
    """The code, the line and the marked text of each fault."""
    path = tmp_path / name
    path.write_text(text)
    checked = check_file(path)
    found = []
    for fault in checked.faults:
        line = checked.lines[fault.place.line - 1]
        start = fault.place.column - 1
        found.append((fault.code, fault.place.line, line[start : start + fault.place.length]))
    return found


@pytest.mark.parametrize(
    ("text", "name", "tool"),
    [
        (AXOLOTL, "a.yaml", "axolotl"),
        (FACTORY, "f.yml", "llama-factory"),
        (SWIFT, "s.yaml", "ms-swift"),
        (SCRIPT, "train.py", "script"),
        ("services: {web: {image: nginx}}\n", "compose.yaml", ""),
        ("- 1\n- 2\n", "list.yaml", ""),
        ("", "empty.yaml", ""),
        ("model: gpt\nprompt: hi\n", "other.yaml", ""),
    ],
)
def test_a_right_file_has_no_fault_and_its_tool_is_known(tmp_path: Path, text: str, name: str, tool: str) -> None:
    assert faults(tmp_path, text, name) == []
    assert check_file(tmp_path / name).tool == tool


PAD = "special_tokens:\n  pad_token: <|eot_id|>\n"
BASE = AXOLOTL.replace("-Instruct", "")
CHATML = BASE.replace("llama3", "chatml")
CASES: dict[str, tuple[str, list[tuple[str, int, str]]]] = {
    "pad is the end of a turn": (AXOLOTL + PAD, [("PAD002", 9, "<|eot_id|>")]),
    "quoted": (AXOLOTL + PAD.replace("<|eot_id|>", '"<|eot_id|>"'), [("PAD002", 9, '"<|eot_id|>"')]),
    "pad ends a text": (AXOLOTL + PAD.replace("eot_id", "end_of_text"), []),
    "ends not trained": (BASE, [("LBL002", 2, "llama3")]),
    "ends named": (BASE + 'eot_tokens: ["<|eot_id|>"]\n', []),
    "the EOS ends turns": (BASE + "special_tokens:\n  eos_token: <|eot_id|>\n", []),
    "another template": (CHATML, [("LBL002", 2, "chatml"), ("TPL009", 2, "chatml")]),
    "another template with its tokens": (
        CHATML + 'tokens: ["<|im_start|>"]\nspecial_tokens:\n  eos_token: <|im_end|>\n',
        [],
    ),
    "a template of one's own": (BASE.replace("chat_template: llama3", "chat_template: jinja"), []),
    "a derivative": (CHATML.replace("meta-llama/Llama-3.1-8B", "someone/Llama-3-tuned"), []),
    "packed without isolation": (AXOLOTL + "sample_packing: true\n", [("PCK002", 8, "true")]),
    "packed apart": (AXOLOTL + "sample_packing: true\nflash_attention: true\n", []),
    "packed apart, by its present keyword": (AXOLOTL + "sample_packing: true\nattn_implementation: sdpa\n", []),
    "packed apart, by a kernel": (AXOLOTL + "sample_packing: true\nattn_implementation: kernels-community/x\n", []),
    "packed with the one that does not": (
        AXOLOTL + "sample_packing: true\nattn_implementation: fp8\n",
        [("PCK002", 8, "true")],
    ),
    "ends of rows that no template writes": (BASE.replace("type: chat_template", "type: alpaca"), []),
    "ends of preferences": (BASE + "rl: dpo\n", []),
    "another dataset by the template": (
        BASE.replace("  - path: train", "  - path: a.jsonl\n    type: alpaca\n  - path: train"),
        [("LBL002", 2, "llama3")],
    ),
    "an unknown model whose text ends with its pad": (
        "base_model: someone/base\nadapter: lora\nsequence_len: 99\n"
        'special_tokens:\n  pad_token: "<|endoftext|>"\n  eos_token: "<|endoftext|>"\n',
        [],
    ),
    "an unknown model whose turns do": (
        "base_model: someone/chat\nadapter: lora\nsequence_len: 99\n"
        'special_tokens:\n  pad_token: "<|im_end|>"\n  eos_token: "<|im_end|>"\n',
        [("PAD002", 5, '"<|im_end|>"')],
    ),
    "half precision": (AXOLOTL.replace("bf16", "fp16"), [("PRC003", 7, "true")]),
    "default length": (
        AXOLOTL.replace("sequence_len: 4096\n", ""),
        [("TRN001", 1, "meta-llama/Llama-3.1-8B-Instruct")],
    ),
    "factory, another template": (FACTORY.replace("llama3", "qwen"), [("TPL009", 3, "qwen")]),
    "factory, packed": (FACTORY + "packing: true\n", [("PCK002", 6, "true")]),
    "factory, packed apart": (FACTORY + "packing: true\nneat_packing: true\n", []),
    "factory, pre-training": (FACTORY.replace("sft", "pt") + "packing: true\n", []),
    "factory, length": (
        FACTORY.replace("cutoff_len: 4096\n", ""),
        [("TRN001", 1, "meta-llama/Meta-Llama-3-8B-Instruct")],
    ),
    "swift, packed": (SWIFT + "packing: true\n", [("PCK002", 5, "true")]),
    "swift, packed apart": (SWIFT + "packing: true\nattn_impl: flash_attn\n", []),
    "swift, packed by Megatron": (SWIFT + "packing: true\nmicro_batch_size: 1\nattention_backend: flash\n", []),
    "swift, another template": (SWIFT + "template: llama3\n", [("TPL009", 5, "llama3")]),
    "swift, half precision": (SWIFT + "torch_dtype: float16\n", [("PRC003", 5, "float16")]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fault_of_a_config_is_found_at_its_place(tmp_path: Path, name: str) -> None:
    text, expected = CASES[name]
    assert faults(tmp_path, text) == expected


# Configs in the form of the tools' own examples (`examples/` of each, at the versions that `yaml_rules` names).
EXAMPLES: dict[str, tuple[str, list[str]]] = {
    "axolotl, examples/llama-3/lora-1b.yml": (
        """\
base_model: NousResearch/Llama-3.2-1B
# Automatically upload checkpoint and final model to HF
# hub_model_id: username/custom_model_name
datasets:
  - path: teknium/GPT4-LLM-Cleaned
    type: alpaca
val_set_size: 0.1
output_dir: ./outputs/lora-out
adapter: lora
lora_model_dir:
sequence_len: 2048
sample_packing: true
eval_sample_packing: true
lora_target_modules:
  - gate_proj
  - down_proj
wandb_project:
gradient_accumulation_steps: 2
micro_batch_size: 2
optimizer: adamw_8bit
bf16: auto
tf32: false
attn_implementation: flash_attention_2
special_tokens:
  pad_token: "<|end_of_text|>"
""",
        [],
    ),
    "axolotl, examples/phi/lora-3.5.yaml": (
        """\
base_model: microsoft/Phi-3.5-mini-instruct
load_in_8bit: true
chat_template: phi_3
datasets:
  - path: fozziethebeat/alpaca_messages_2k_test
    type: chat_template
sequence_len: 4096
sample_packing: false
adapter: lora
micro_batch_size: 4
bfloat16: true
attn_implementation: eager
""",
        ["LBL002"],
    ),
    "llama-factory, examples/train_lora/qwen3_lora_sft.yaml": (
        """\
### model
model_name_or_path: Qwen/Qwen3-4B-Instruct-2507
trust_remote_code: true
### method
stage: sft
do_train: true
finetuning_type: lora
lora_target: all
### dataset
dataset: identity,alpaca_en_demo
template: qwen3_nothink
cutoff_len: 2048
packing: true
### train
per_device_train_batch_size: 1
bf16: true
""",
        ["PCK002"],
    ),
    "ms-swift, examples/yaml/megatron/sft.yaml": (
        """\
ENV:
  PYTORCH_CUDA_ALLOC_CONF: 'expandable_segments:True'
model: "Qwen/Qwen3.5-35B-A3B"
tuner_type: lora
dataset:
  - 'swift/self-cognition#500'
padding_free: true
packing: true
micro_batch_size: 1
attention_backend: flash
""",
        [],
    ),
    "ms-swift, examples/yaml/deepspeed/sft.yaml": (
        """\
# model args
model: Qwen/Qwen2.5-7B-Instruct
torch_dtype: bfloat16
tuner_type: lora
dataset:
  - 'AI-ModelScope/alpaca-gpt4-data-zh#500'
max_length: 2048
deepspeed: zero2
""",
        [],
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_tools_own_examples(tmp_path: Path, name: str) -> None:
    text, expected = EXAMPLES[name]
    assert [code for code, _, _ in faults(tmp_path, text)] == expected
    assert check_file(tmp_path / "config.yaml").tool == name.partition(",")[0]


PAD_LINE = "tokenizer.pad_token = tokenizer.eos_token"
SCRIPTS: dict[str, tuple[str, list[tuple[str, int, str]]]] = {
    "pad = eos": (SCRIPT + PAD_LINE + "\n", [("PAD002", 8, PAD_LINE)]),
    "in an if": (f"if True:\n    {PAD_LINE}\n", [("PAD002", 2, PAD_LINE)]),
    "ids": ("t.pad_token_id = t.eos_token_id\n", [("PAD002", 1, "t.pad_token_id = t.eos_token_id")]),
    "only the config": ("model.config.pad_token_id = tokenizer.eos_token_id\n", []),
    "fixed afterwards": (f"from llama_padfix import prepare\n{PAD_LINE}\n", []),
    "half precision": (SCRIPT.replace("bf16", "fp16"), [("PRC003", 5, "True")]),
    "packed and padded": (SCRIPT.replace("bf16=True", "packing=True"), [("PCK002", 5, "True")]),
    "default length": ("import trl\nargs = trl.SFTConfig(output_dir='o')\n", [("TRN001", 2, "trl.SFTConfig")]),
    "keywords from elsewhere": ("args = SFTConfig(**prepared.training_args)\n", []),
    "a text that spells it": (f"print('{PAD_LINE}')  # {PAD_LINE}\n", []),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_fault_of_a_script_is_found_at_its_place(tmp_path: Path, name: str) -> None:
    text, expected = SCRIPTS[name]
    assert faults(tmp_path, text, "train.py") == expected


def test_a_script_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("raise SystemExit(7)\nimport no_such_module\n")
    assert check_file(tmp_path / "train.py").faults == ()


@pytest.mark.parametrize(
    ("content", "name", "line"),
    [
        (b"a: [1\n", "x.yaml", "no YAML"),
        (b"a: *b\n", "x.yaml", "no YAML"),
        (b"def f(:\n", "x.py", "no Python"),
        (b"\xff\xfe\x00", "x.yaml", "UTF-8"),
        (b"#" * (1 << 20) + b"##", "x.yaml", "1 MiB"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_name(tmp_path: Path, content: bytes, name: str, line: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PadfixError, match=f"{name}.*{line}"):
        check_file(tmp_path / name)


def test_the_command_draws_a_caret_and_annotates(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(AXOLOTL + PAD)
    Path("train.py").write_text(SCRIPT)
    assert cli.main(["doctor", "config.yaml", "train.py"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(
        "config.yaml:9:14: warning PAD002 pad-token-must-be-learned: The pad token <|eot_id|>"
    )
    assert printed[1:3] == ["  9 |   pad_token: <|eot_id|>", "    |              ^^^^^^^^^^"]
    assert printed[-1] == "1 findings in 2 files, from keywords alone; nothing was run"
    assert cli.main(["doctor", "config.yaml", "--format", "github"]) == 1
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("::warning file=config.yaml,line=9,col=14,endColumn=24,title=PAD002 pad-token-must")
    assert cli.main(["doctor", "config.yaml", "--ignore", "PAD"]) == 0
    assert cli.main(["doctor", "train.py", "--json"]) == 0


def test_what_has_no_meaning_beside_a_config_is_refused(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(AXOLOTL)
    for more in (["--fix", "out"], ["--data", "x.jsonl"], [str(tmp_path)]):
        assert cli.main(["doctor", str(path), *more]) == 2
        assert "has no meaning beside it" in capsys.readouterr().err
    assert cli.main(["doctor", str(tmp_path), str(tmp_path)]) == 2
    assert "Name one" in capsys.readouterr().err
    assert cli.main(["doctor", str(tmp_path / "missing.yaml")]) == 2
