"""TRN006: what GRPO with tools appends behind a call is what the template writes there, or is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

pytest.importorskip("trl", minversion="1.16")  # its templates, and how it appends a tool's result

from llama_padfix import diagnose
from llama_padfix.demo.reference import make_tiny_llama
from tests.support.byte_tokenizer import make_byte_tokenizer
from tests.support.families import _CONTROL, FOLDER
from tests.training.test_guard_runs import QUIET


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


def find_messages(folder: Path, name: str, eos: str, stops: tuple[str, ...] = (), **more: Any) -> list[str]:
    """What TRN006 says of a trainer whose tokenizer has one of TRL's templates."""
    from trl import GRPOConfig, GRPOTrainer

    source = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    controls = sorted({*_CONTROL.findall(source), eos, "<pad>"})
    tokenizer = make_byte_tokenizer(controls, eos, template=source, bos="<bos>")
    tokenizer.pad_token = "<pad>"
    model = make_tiny_llama(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, bos_token_id=None)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids([eos, *stops])
    trainer = GRPOTrainer(
        model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(str(folder), bf16=False, num_generations=2, max_completion_length=4, **QUIET),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "2 + 2?"}]}] * 8),
        **more,
    )
    before = tokenizer.backend_tokenizer.to_str()
    found = [finding.message for finding in diagnose(trainer).findings if finding.code == "TRN006"]
    assert tokenizer.backend_tokenizer.to_str() == before
    return found


@pytest.mark.parametrize(
    ("name", "eos", "stops", "appended", "expected"),
    [
        ("glm4moe", "<|endoftext|>", ("<|observation|>",), "<|observation|>\\n<tool_response>", "\\n<tool_response>"),
        ("gemma4", "<turn|>", (), "\\n<|turn>model\\n<|tool_call>call:add{}", "response:add{value"),
        ("qwen2_5", "<|endoftext|>", ("<|im_end|>",), "<|im_start|>user", "\\n<|im_start|>user"),
    ],
)
def test_what_differs_is_shown(
    name: str, eos: str, stops: tuple[str, ...], appended: str, expected: str, tmp_path: Path
) -> None:
    [message] = find_messages(tmp_path, name, eos, stops, tools=[add])
    start = "Behind a tool call GRPOTrainer appends '"
    assert message.startswith(start + appended) and f"the chat template writes '{expected}" in message


@pytest.mark.parametrize(
    ("name", "eos"),
    [("qwen2_5", "<|im_end|>"), ("qwen3", "<|im_end|>"), ("gemma4", "<eos>"), ("llama3_1", "<|eot_id|>")],
)
def test_what_is_appended_as_the_template_writes_it_is_right(name: str, eos: str, tmp_path: Path) -> None:
    assert find_messages(tmp_path, name, eos, tools=[add]) == []


def test_a_trainer_without_tools_appends_nothing(tmp_path: Path) -> None:
    assert find_messages(tmp_path, "gemma4", "<turn|>") == []
