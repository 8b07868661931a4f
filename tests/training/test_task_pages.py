"""Each page of docs/tasks trains from raw rows in ten lines: the report is clean, and the guard is silent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import LlamaForSequenceClassification

from llama_padfix import diagnose
from llama_padfix.core.compat import name_tokenizer_argument
from llama_padfix.demo.reference import make_tiny_llama
from tests.conftest import fresh_tokenizer
from tests.support.byte_tokenizer import make_byte_tokenizer
from tests.support.code_blocks import find_blocks, run_page

trl = pytest.importorskip("trl")
PAGES = Path(__file__).parents[2] / "docs" / "tasks"
SMALL = "use_cpu=True, report_to=[], save_strategy='no', disable_tqdm=True, max_steps=1"
PREFERENCES = ("dpo", "kto", "reward", "orpo")
BOS, END = 128000, 128009
CONTROLS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' + m.content + "
    "'<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>' }}"
    "{% endif %}"
)


def make_names(task: str, folder: Path) -> dict[str, Any]:
    """What a page takes as given; a small vocabulary where the page has many rows."""
    if task in PREFERENCES:
        model = make_tiny_llama(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
        if task == "reward":
            model.config.num_labels = 1
            model = LlamaForSequenceClassification(model.config)
        return {"model": model, "tokenizer": fresh_tokenizer("3.1-instruct")}
    if task == "vision":
        support = pytest.importorskip("tests.support.processors")
        support.make_image().save(folder / "cat.png")
        processor = support.make_processor("gemma3")
        return {"model": support.make_vision_model("gemma3", processor), "processor": processor}
    tokenizer = make_byte_tokenizer(CONTROLS, "<|eot_id|>", bos="<|begin_of_text|>", template=TEMPLATE)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = make_tiny_llama(hidden_size=16, num_hidden_layers=1, vocab_size=len(tokenizer), **ids)
    model.generation_config.update(**ids)
    return {"model": model, "tokenizer": tokenizer, "reward": lambda completions, **_: [*map(float, range(8))]}


@pytest.mark.parametrize("page", sorted(PAGES.glob("[!R]*.md")), ids=lambda path: path.stem)
def test_a_page_trains_from_raw_rows_clean_and_with_a_silent_guard(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, text = page.stem, page.read_text(encoding="utf-8")
    if task == "grpo" and not hasattr(trl, "GRPOTrainer"):
        pytest.skip("this version of TRL has no GRPOTrainer")
    if task == "vision" and tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 57):
        pytest.skip("the small processors of the tests need transformers 4.57")
    monkeypatch.chdir(tmp_path)
    small = SMALL + (", max_completion_length=4" if task == "grpo" else "")
    text = text.replace('output_dir="out"', f'output_dir="out", {small}')
    if hasattr(trl, "GRPOTrainer"):
        text = text.replace("processing_class=", name_tokenizer_argument(trl.GRPOTrainer) + "=")
    text = text.replace("trainer.train()", "result = trainer.train()")
    text = text.replace("diagnose(trainer)", "report = diagnose(trainer)\nreport")
    (tmp_path / page.name).write_text(text)
    names = make_names(task, tmp_path)
    assert run_page(tmp_path / page.name, names) == 2
    assert torch.isfinite(torch.tensor(names["result"].training_loss))
    assert not (tmp_path / "out" / "guard").exists()
    report = names["report"] if task != "grpo" else diagnose(names["trainer"])  # whose rows are sampled in the run
    report.raise_for_errors(require=("rows",) if task != "grpo" else ())
    assert [str(finding) for finding in report.findings if finding.code != "PKG001"] == []
    if task in PREFERENCES:
        require_whole_answers(next(iter(names["trainer"].get_train_dataloader())))


def require_whole_answers(batch: dict[str, Any]) -> None:
    """One BOS, and the ends of the system's, the user's and the model's turn."""
    parts = [name.removesuffix("input_ids") for name in batch if name.endswith("input_ids")]
    for part in parts if "prompt_" not in parts else []:  # else the answers stand apart
        for ids, shown in zip(batch[f"{part}input_ids"], batch[f"{part}attention_mask"], strict=True):
            kept = ids[shown == 1].tolist()
            assert (kept.count(BOS), kept.count(END), kept[-1]) == (1, 3, END)


def test_the_index_has_each_page_and_no_code_is_longer_than_ten_lines() -> None:
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    pages = sorted(path.name for path in PAGES.glob("[!R]*.md"))
    assert sorted(re.findall(r"\]\((\w+\.md)\)", index)) == pages
    for name in pages:
        _, code = find_blocks((PAGES / name).read_text(encoding="utf-8"))
        assert code.text.count("\n") <= 10, name
