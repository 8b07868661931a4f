"""Thoughts that a template drops from its history, kept where a rendering shows it."""

from __future__ import annotations

from typing import Any

import pytest

from llama_padfix.chat.losses.keep import keep_reasoning
from llama_padfix.chat.traced_render import aliases_reasoning
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.training.prepare import prepare
from tests.conftest import fresh_tokenizer
from tests.support.conversations import QUESTION, encoder_for, trained_runs
from tests.support.families import family_tokenizer, originals

BY_STEM = {path.stem: path for path in originals()}
USER = QUESTION[0]
CONTENT = [
    USER,
    {"role": "assistant", "content": "<think>\nWHY\n</think>\n\nA"},
    USER,
    {"role": "assistant", "content": "<think>\nBECAUSE\n</think>\n\nC"},
]
KEYED = [
    USER,
    {"role": "assistant", "content": "A", "reasoning_content": "WHY"},
    USER,
    {"role": "assistant", "content": "C", "reasoning_content": "BECAUSE"},
]
KEPT = {
    "deepseek_r1_distill": "chat_template",
    "qwen3": "chat_template",
    "qwen3_5_think": "chat_template",
    "qwen3_6": "preserve_thinking",
    "nemotron_3_nano": "truncate_history_thinking",
    "lfm2_2_5": "preserve_thinking",
}


@pytest.mark.parametrize("stem", KEPT)
def test_the_thoughts_of_every_turn_are_trained_and_the_ids_are_those_of_the_arguments(stem: str) -> None:
    tokenizer = family_tokenizer(BY_STEM[stem])
    before = tokenizer.chat_template
    encoder = ChatEncoder(tokenizer, keep_reasoning=True, on_loss="error", max_length=500)
    assert KEPT[stem] in encoder.template_kwargs and tokenizer.chat_template == before
    by_content = stem == "deepseek_r1_distill" or (stem == "lfm2_2_5" and not aliases_reasoning())
    for chat in (CONTENT,) if by_content else (CONTENT, KEYED):
        row = encoder(chat)
        kwargs: Any = encoder.template_kwargs
        expected = tokenizer.apply_chat_template(chat, tokenize=False, **kwargs)
        assert row["input_ids"] == tokenizer(expected, add_special_tokens=False)["input_ids"]
        first, second = (tokenizer.decode(run) for run in trained_runs(row["labels"]))
        assert "WHY" in first and "BECAUSE" in second and first.index("WHY") < first.index("A", 3 + first.index("WHY"))
        assert encoder([chat] * 3)["input_ids"] == [row["input_ids"]] * 3
    assert (encoder.counts.lossy, encoder.counts.empty_reasoning) == (0, 0)
    assert ChatEncoder(tokenizer, **encoder.encoding.arguments())(CONTENT) == encoder(CONTENT)


def test_a_template_that_keeps_thoughts_is_left_as_it_is() -> None:
    for stem in ("qwen2_5", "qwen3_8", "llama3_1"):
        tokenizer = family_tokenizer(BY_STEM[stem])
        plain, kept = ChatEncoder(tokenizer), ChatEncoder(tokenizer, keep_reasoning=True)
        assert kept.template_kwargs == plain.template_kwargs
        assert kept(CONTENT) == plain(CONTENT)


def test_a_row_that_loses_thoughts_all_the_same_is_refused() -> None:
    tokenizer = family_tokenizer(BY_STEM["deepseek_r1_distill"])
    encoder = ChatEncoder(tokenizer, keep_reasoning=True)
    with pytest.raises(PadfixError, match="leaves out the thoughts of message 1, in spite of keep_reasoning=True"):
        encoder(KEYED)
    dropping = ChatEncoder(tokenizer, keep_reasoning=True, on_error="drop")
    dropping.encode_rows([CONTENT, KEYED, CONTENT])
    assert (dropping.counts.kept, dropping.counts.dropped_invalid) == (2, 1)


def test_what_cannot_be_proven_is_refused_with_the_cure() -> None:
    drops = "{{ m.content.split('</think>')[-1] }}<|eot_id|>"
    with pytest.raises(PadfixError, match=r"keep_reasoning=True: .* template_kwargs=\{'chat_template'"):
        encoder_for(drops, keep_reasoning=True)
    switch = "{{ m.content if preserve_thinking else m.content.split('</think>')[-1] }}<|eot_id|>"
    assert encoder_for(switch, keep_reasoning=True).template_kwargs == {"preserve_thinking": True}
    lies = "{{ m.content.split('</think>')[-1] }}{# preserve_thinking #}<|eot_id|>"
    with pytest.raises(PadfixError, match="keep_reasoning=True"):
        encoder_for(lies, keep_reasoning=True)


def test_a_tokenizer_without_a_template_has_nothing_to_keep() -> None:
    tokenizer = fresh_tokenizer("3-base")
    assert keep_reasoning(tokenizer, {"a": 1}) == {"a": 1}
    assert ChatEncoder(tokenizer, keep_reasoning=True)({"text": "Hi"})["input_ids"]


def test_without_trl_its_variants_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trl", None)
    with pytest.raises(PadfixError, match="pip install -U trl"):
        ChatEncoder(family_tokenizer(BY_STEM["qwen3"]), keep_reasoning=True)


def test_prepare_takes_it_too() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    assert prepare(tokenizer, keep_reasoning=True).encoder.settings.keep_reasoning
