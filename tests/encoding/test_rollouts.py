"""Rollouts: sampled ids stay as they were sampled, and the text between them is what the template writes there."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llama_padfix import IGNORE_INDEX, ChatEncoder, PadfixError, Rollout, find_retokenized, join_rollout
from llama_padfix.tokens.calls import apply_template, encode_raw
from tests.conftest import fresh_tokenizer
from tests.support.families import FOLDER, PARTS_ONLY, family_encoder, family_tokenizer, originals

ASK = [{"role": "user", "content": "What is 2 + 2? "}]
GO_ON = [{"role": "user", "content": "And <|eot_id|> 3 + 3?"}]
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "id": "abcdefghi", "function": {"name": "add", "arguments": {"a": 2}}}],
}
RESULT = {"role": "tool", "name": "add", "tool_call_id": "abcdefghi", "content": "4<|im_end|>"}
EOT, EOM, TEXT_END = 128009, 128008, 128001


def say(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def family(name: str) -> Any:
    return family_tokenizer(FOLDER / f"{name}.jinja")


def shown(tokenizer: Any, rollout: Rollout) -> str:
    """The completion, what the model sampled in double brackets."""
    text, edges = "", [0, *(n + 1 for n, (a, b) in enumerate(pairwise(rollout.mask)) if a != b), len(rollout.mask)]
    for start, end in pairwise(edges):
        part = tokenizer.decode(rollout.completion_ids[start:end])
        text += f"[[{part}]]" if rollout.mask[start] else part
    return text


def sampled_turns(encoder: ChatEncoder, messages: list[dict[str, Any]]) -> tuple[list[int], list[list[int]]]:
    """The ids of a conversation, and those that the model must produce, turn by turn."""
    row = encoder(messages)
    trained = [label != IGNORE_INDEX for label in row["labels"]]
    edges = [n for n in range(len(trained) + 1) if (n and trained[n - 1]) != (n < len(trained) and trained[n])]
    return row["input_ids"], [row["input_ids"][a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]


# What the prompt opens for the model, the history leaves out: there the ids are those of no conversation.
OPENS_A_THOUGHT = ("deepseek", "nemotron", "qwen3_5", "qwen3_6", "qwen3_8", "cohere2")


@pytest.mark.parametrize("path", [p for p in originals() if p.stem not in PARTS_ONLY], ids=lambda path: path.stem)
def test_a_rollout_of_what_the_template_writes_has_the_ids_and_the_mask_of_the_conversation(path: Path) -> None:
    tokenizer = family_tokenizer(path)
    ids, [first, second] = sampled_turns(family_encoder(path), [*ASK, say("Four."), *GO_ON, say("Six.")])
    rollout = join_rollout(tokenizer, ASK, [(first, GO_ON), (second, None)])
    sampled = [token_id for token_id, one in zip(rollout.completion_ids, rollout.mask, strict=True) if one]
    assert sampled == first + second
    if not path.stem.startswith(OPENS_A_THOUGHT):
        assert rollout.ids == ids[: len(rollout.ids)]
        assert ids[len(rollout.ids) :] == [] or not any(one in second for one in ids[len(rollout.ids) :])


WITHOUT_TOOLS = ("cohere", "cohere2", "gemma", "gemma3", "phi3", "phi3_5")
# It writes no generation prompt behind a tool's result, and a header before the answer in the history.
OPENS_OTHERWISE = (*OPENS_A_THOUGHT, "diffusion_gemma")


@pytest.mark.parametrize(
    "path",
    [p for p in originals() if p.stem not in (*PARTS_ONLY, *WITHOUT_TOOLS) and not p.stem.startswith(OPENS_OTHERWISE)],
    ids=lambda path: path.stem,
)
def test_a_rollout_with_a_tool_has_the_ids_and_the_mask_of_the_conversation(path: Path) -> None:
    messages: list[dict[str, Any]] = [*ASK, CALL, RESULT, say("Four."), *GO_ON, say("Six.")]
    ids, [call, first, second] = sampled_turns(family_encoder(path), messages)
    turns: list[Any] = [(call, [RESULT]), (first, GO_ON), (second, None)]
    rollout = join_rollout(family_tokenizer(path), ASK, turns)
    assert [rollout.ids[start:end] for start, end in rollout.turns] == [call, first, second]
    assert rollout.ids == ids[: len(rollout.ids)]


@pytest.mark.parametrize(
    ("name", "end", "between"),
    [
        ("llama3_1", "<|eot_id|>", '<|start_header_id|>ipython<|end_header_id|>\n\n"4<|im_end|>"<|eot_id|>'),
        ("llama3_1", "<|eom_id|>", '<|start_header_id|>ipython<|end_header_id|>\n\n"4<|im_end|>"<|eot_id|>'),
        ("qwen3", "<|im_end|>", "\n<|im_start|>user\n<tool_response>\n4<|im_end|>\n</tool_response><|im_end|>\n"),
        ("gemma4", "<|tool_response>", 'response:add{value:<|"|>4<|im_end|><|"|>}<tool_response|>'),
        ("glm4moe", "<|observation|>", "\n<tool_response>\n4<|im_end|>\n</tool_response>"),
        (
            "gptoss",
            "<|call|>",
            '<|start|>functions.add to=assistant<|channel|>commentary<|message|>"4<|im_end|>"<|end|>',
        ),
        ("deepseekv3", "<｜end▁of▁sentence｜>", "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>4<|im_end|>"),
    ],
    ids=lambda value: value if len(value) < 12 else "",
)
def test_a_tool_s_result_is_written_once_behind_the_end_sampled_or_not(name: str, end: str, between: str) -> None:
    tokenizer = family(name)
    call, end_id = tokenizer.encode("call", add_special_tokens=False), tokenizer.convert_tokens_to_ids(end)
    stopped = join_rollout(tokenizer, ASK, [([*call, end_id], [RESULT])])
    assert shown(tokenizer, stopped).startswith(f"[[call{end}]]{between}")
    if end != "<|eom_id|>":  # a cut turn gets the end that the template writes
        cut = join_rollout(tokenizer, ASK, [(call, [RESULT])])
        assert cut.completion_ids == stopped.completion_ids
        assert sum(cut.mask) == sum(stopped.mask) - 1
    spelled = tokenizer.convert_tokens_to_ids("<|im_end|>")
    if name in ("qwen3",):
        assert stopped.completion_ids.count(spelled) == 2, "the tool's own is text"
    own = join_rollout(tokenizer, ASK, [([*call, end_id], [CALL, RESULT])])
    assert own == stopped


def test_sampled_ids_are_never_encoded_again(tokenizer: Any) -> None:
    odd = [tokenizer.convert_tokens_to_ids(piece) for piece in ("H", "ello", "Ġ", "Ġthere")] + [EOT]
    whole = tokenizer.encode("Hello  there", add_special_tokens=False)
    assert odd[:-1] != whole
    rollout = join_rollout(tokenizer, ASK, [(odd, GO_ON), (torch.tensor(odd), None)])
    assert [rollout.ids[start:end] for start, end in rollout.turns] == [odd, odd]
    messages = [*ASK, say("Hello  there"), *GO_ON, say("Hello  there")]
    found = find_retokenized(tokenizer, rollout, messages)
    assert found is not None and found.where == "sampled in turn 1" and found.same_text
    assert found.position == rollout.turns[0][0] and found.ids[:5] == tuple(odd)
    assert str(found) == (
        f"Encoding the messages again gives other ids from id {found.position} on (sampled in turn 1): the same text "
        "in other tokens\n"
        "  rollout  ... '<|start_header_id|>' 'assistant' '<|end_header_id|>' '\\n\\n' | 'H' 'ello' ' ' ' there' "
        "'<|eot_id|>' '<|start_header_id|>' 'user' '<|end_header_id|>' ...\n"
        "  again    ... '<|start_header_id|>' 'assistant' '<|end_header_id|>' '\\n\\n' | 'Hello' ' ' ' there' "
        "'<|eot_id|>' '<|start_header_id|>' 'user' '<|end_header_id|>' '\\n\\n' ..."
    )
    exact = join_rollout(tokenizer, ASK, [([*whole, EOT], [{"role": "user", "content": "3?"}]), (whole, None)])
    asked = [*ASK, say("Hello  there"), {"role": "user", "content": "3?"}, say("Hello  there")]
    assert find_retokenized(tokenizer, exact, asked) is None, "the last turn was cut, and the template ends it"


@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1_distill"])
def test_thoughts_that_the_template_drops_stay_in_the_ids_and_are_found(name: str) -> None:
    tokenizer = family(name)
    opening = "" if name != "qwen3" else "<think>\n"
    turn = f"{opening}Two and two.\n</think>\n\nFour."
    ids = [*encode_raw(tokenizer, turn), tokenizer.eos_token_id]
    asked = [{"role": "user", "content": "And 3 + 3?"}]
    rollout = join_rollout(tokenizer, ASK, [(ids, asked), (ids, None)])
    assert [rollout.ids[start:end] for start, end in rollout.turns] == [ids, ids]
    thought = "<think>\nTwo and two.\n</think>\n\nFour."
    found = find_retokenized(tokenizer, rollout, [*ASK, say(thought), *asked, say(thought)])
    assert found is not None and not found.same_text and "another text" in str(found)
    assert rollout.turns[0][0] - 2 <= found.position <= rollout.turns[0][0]


def test_the_end_that_was_sampled_stays_and_no_other_is_added(tokenizer: Any) -> None:
    for end in (EOT, EOM, TEXT_END):
        rollout = join_rollout(tokenizer, ASK, [([19, end], GO_ON)])
        assert rollout.completion_ids[:3] == [19, end, 128006] and rollout.mask[:3] == [1, 1, 0]
    own = tokenizer.convert_tokens_to_ids("<|reserved_special_token_5|>")
    assert join_rollout(tokenizer, ASK, [([19, own], GO_ON)]).completion_ids[2] == EOT
    assert join_rollout(tokenizer, ASK, [([19, own], GO_ON)], stop_ids=[own]).completion_ids[2] == 128006
    nothing = join_rollout(tokenizer, ASK, [([], GO_ON), ([19], None), ([20, EOT], None)])
    assert nothing.completion_ids[0] == EOT and nothing.mask[0] == 0
    assert nothing.completion_ids[-3:] == [19, 20, EOT], "a turn that was paused goes on"


def test_parts_that_are_ids_are_taken_as_they_are(tokenizer: Any) -> None:
    prompt = np.array(join_rollout(tokenizer, ASK, []).ids)
    by_ids = join_rollout(tokenizer, prompt, [([19, EOT], (128006, 882)), (torch.tensor([20]), [])])
    assert by_ids.prompt_ids == prompt.tolist()
    assert (by_ids.completion_ids, by_ids.mask) == ([19, EOT, 128006, 882, 20], [1, 1, 0, 0, 1])
    assert by_ids.turns == ((len(prompt), len(prompt) + 2), (len(prompt) + 4, len(prompt) + 5))
    assert join_rollout(tokenizer, prompt, [([19, EOT], GO_ON)]) == join_rollout(tokenizer, ASK, [([19, EOT], GO_ON)])
    assert by_ids.spread([[-1.0, -2.0], [-3.0]]) == [-1.0, -2.0, 0.0, 0.0, -3.0]
    with pytest.raises(PadfixError, match=r"The turns have \[2, 1\] sampled ids, and \[2\] values"):
        by_ids.spread([[-1.0, -2.0]])
    tokenizer.chat_template = None
    assert join_rollout(tokenizer, prompt, [([19, EOT], [882])]).mask == [1, 1, 0], "no template is needed"
    with pytest.raises(PadfixError, match="no chat template"):
        join_rollout(tokenizer, prompt, [([19, EOT], GO_ON)])


def test_the_prompt_is_that_of_the_template_with_spelled_tokens_as_text(tokenizer: Any) -> None:
    text = apply_template(tokenizer, ASK, add_generation_prompt=True)
    assert join_rollout(tokenizer, ASK, []).ids == encode_raw(tokenizer, text)
    spelled = join_rollout(tokenizer, GO_ON, []).ids
    assert spelled.count(EOT) == 2 and tokenizer.decode(spelled) == apply_template(
        tokenizer, GO_ON, add_generation_prompt=True
    )


@pytest.mark.parametrize(("pad", "ids", "keep"), [(TEXT_END, [19, EOT, TEXT_END], 2), (EOT, [19, EOT, EOT, EOT], 2),
                                                 (128004, [19, 128004, 128004], 1), (EOT, [EOT, EOT], 1)])  # fmt: skip
def test_padding_behind_a_turn_is_refused(tokenizer: Any, pad: int, ids: list[int], keep: int) -> None:
    tokenizer.pad_token_id = pad
    with pytest.raises(PadfixError, match=rf"Turn 2 ends with {len(ids) - keep} pad tokens.*sampled\[:{keep}\]"):
        join_rollout(tokenizer, ASK, [([19, EOT], GO_ON), (ids, None)])
    assert join_rollout(tokenizer, ASK, [(ids[:keep], None)]).mask == [1] * keep


@pytest.mark.parametrize(
    ("name", "turns", "message"),
    [
        ("gptoss", [([19], [{"role": "tool", "content": "4"}])], "Pass its message in front of the others"),
        ("cohere2", [([19], [RESULT])], "leaves out message 2"),
        ("gemma3", [([19], [RESULT])], "refuses the conversation"),
        ("llama3_1", [([19], "4")], "neither messages nor the ids of one row"),
        ("llama3_1", [([[19, 20]], None)], "neither messages nor the ids of one row"),
    ],
)
def test_what_cannot_be_told_is_refused(name: str, turns: Any, message: str) -> None:
    with pytest.raises(PadfixError, match=message):
        join_rollout(family(name), ASK, turns)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no turns": ({"turns": None}, "turns of a rollout are pairs"),
    "ids in the place of turns": ({"turns": [13347, 11]}, "turns of a rollout are pairs"),
    "a turn alone": ({"turns": [[13347]]}, "turns of a rollout are pairs"),
    "a turn of three": ({"turns": [([13347], None, 1)]}, "turns of a rollout are pairs"),
    "no prompt": ({"prompt": None}, "neither messages nor the ids"),
    "labels": ({"turns": [([13347, -100], None)]}, "neither messages nor the ids"),
    "messages and more": (
        {"turns": [([13347], [{"role": "user", "content": "Hi"}, 5])]},
        "neither messages nor the ids",
    ),
    "stops as text": ({"stop_ids": "<|eom_id|>"}, "stop_ids is '<|eom_id|>', no ids"),
    "a stop that is none": ({"stop_ids": [None]}, "no ids"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_part_of_a_rollout_gets_the_line_that_helps(name: str, tokenizer: Any) -> None:
    given, message = WRONG[name]
    with pytest.raises(PadfixError, match=re.escape(message)):
        join_rollout(tokenizer, **{"prompt": [1], "turns": [([13347], None)], **given})


def test_ids_in_the_place_of_a_rollout_get_the_line_that_makes_one(tokenizer: Any) -> None:
    with pytest.raises(PadfixError, match=r"Make one: join_rollout\("):
        find_retokenized(tokenizer, [1, 2], ASK)  # type: ignore[arg-type]


def test_stops_may_be_any_array_of_ids(tokenizer: Any) -> None:
    result = [{"role": "user", "content": "Go on."}]
    expected = join_rollout(tokenizer, [1], [([13347, 25], result)], stop_ids=25)
    arrays: list[Any] = [[25], (np.int64(25),), torch.tensor([25]), torch.tensor(25)]
    for stops in arrays:
        assert join_rollout(tokenizer, [1], [([13347, 25], result)], stop_ids=stops) == expected
    assert expected.completion_ids[2] != 128009, "the template's stop stands behind no other"


def test_values_that_are_not_by_turn_are_refused(tokenizer: Any) -> None:
    rollout = join_rollout(tokenizer, [1], [([13347], None)])
    for wrong in (None, [0.5], [None]):
        with pytest.raises(PadfixError, match="a list for each turn"):
            rollout.spread(wrong)  # type: ignore[arg-type]


def test_white_space_that_an_end_takes_along_is_not_written_twice() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.add_tokens([AddedToken("<|end|>", rstrip=True, special=True)], special_tokens=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    tokenizer.add_tokens([AddedToken("<|end|>", rstrip=True, special=True)], special_tokens=True)
    tokenizer.chat_template = (FOLDER / "phi3.jinja").read_text(encoding="utf-8")
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    rollout = join_rollout(tokenizer, ASK, [([19, end], GO_ON), ([20, end], None)])
    text = apply_template(tokenizer, [*ASK, say("4"), {"role": "user", "content": "?"}], add_generation_prompt=True)
    plain = join_rollout(tokenizer, ASK, [([19, end], [{"role": "user", "content": "?"}])])
    assert plain.ids == encode_raw(tokenizer, text)
    assert rollout.mask[:3] == [1, 1, 0]


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


@pytest.mark.parametrize("name", ["llama3_1", "qwen3"])
def test_functions_are_tools_and_a_turn_may_have_several_results(name: str) -> None:
    tokenizer = family(name)
    prompt = tokenizer.apply_chat_template(ASK, tools=[add], add_generation_prompt=True)
    ids = encode_raw(
        tokenizer, tokenizer.apply_chat_template(ASK, tools=[add], add_generation_prompt=True, tokenize=False)
    )
    end = tokenizer.eos_token_id if name == "qwen3" else EOT
    two = join_rollout(tokenizer, ASK, [([20, end], [RESULT, RESULT])], tools=[add])
    assert two.prompt_ids == ids and join_rollout(tokenizer, prompt, []).ids == ids
    assert shown(tokenizer, two).count("4<|im_end|>") == 2
    again = [*ASK, {"role": "assistant", "content": "4"}, RESULT, RESULT]
    assert (
        find_retokenized(tokenizer, join_rollout(tokenizer, ASK, [([19, end], None)], tools=[add]), again, tools=[add])
        is None
    )
    one = join_rollout(tokenizer, ASK, [([19, end], GO_ON), ([20, end], GO_ON)], tools=[add])
    begun = join_rollout(tokenizer, ASK, [([19, end], GO_ON)], tools=[add])
    assert join_rollout(tokenizer, begun.ids, [([20, end], GO_ON)], tools=[add]).ids == one.ids


def test_the_tokenizer_and_the_messages_are_left_as_they_are(tokenizer: Any) -> None:
    tokenizer.pad_token = "<|end_of_text|>"
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=2)
    before = tokenizer.backend_tokenizer.to_str()
    appended: list[dict[str, Any]] = [dict(CALL), dict(RESULT)]
    rollout = join_rollout(tokenizer, ASK, [([19, EOT], appended)])
    find_retokenized(tokenizer, rollout, [*ASK, *appended])
    assert tokenizer.backend_tokenizer.to_str() == before and appended == [CALL, RESULT]


def test_a_conversation_that_the_template_refuses_cannot_be_compared() -> None:
    tokenizer = family("gemma3")
    rollout = join_rollout(tokenizer, ASK, [([19], None)])
    with pytest.raises(PadfixError, match=r"refuses the conversation.*Pass all messages in their order"):
        find_retokenized(tokenizer, rollout, [*ASK, *ASK])


LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token + bos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_the_space_that_sentencepiece_puts_in_front_of_a_text_is_that_of_the_conversation(scheme: str) -> None:
    vocabulary = {token: n for n, token in enumerate(["<unk>", "<s>", "</s>", "▁", "[INST]", "[/INST]", *"abcd"])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=backend, additional_special_tokens=["[INST]", "[/INST]"], **marks
    )
    tokenizer.chat_template = LLAMA_2
    messages = [{"role": "user", "content": "ab"}, say("ca"), {"role": "user", "content": "b"}, say("d")]
    ids = encode_raw(tokenizer, apply_template(tokenizer, messages))
    prompt, end = join_rollout(tokenizer, messages[:1], []).ids, ids.index(2) + 1
    for sampled in (ids[len(prompt) : end], ids[len(prompt) : end - 1]):
        rollout = join_rollout(tokenizer, prompt, [(sampled, messages[2:3])])
        assert rollout.ids == ids[: len(rollout.ids)] and sum(rollout.mask) == len(sampled)
