"""The house rules on plain facts: no tokenizer is needed to read them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llama_padfix.chat.profile.template_profile import TemplateProfile
from llama_padfix.doctor.facts import Facts, ModelFacts
from llama_padfix.doctor.token_policy import (
    change_pad_token,
    choose_pad_token,
    explain_candidates,
    find_pad_fault,
    learned_stop_ids,
    stop_ids,
)
from llama_padfix.tokens.control import text_end_id

SPECIAL = {
    "<|begin_of_text|>": 10,
    "<|end_of_text|>": 11,
    "<|reserved_special_token_0|>": 12,
    "<|reserved_special_token_1|>": 13,
    "<|eom_id|>": 14,
    "<|eot_id|>": 15,
}
CHAT = TemplateProfile(header="H", stop_token="<|eot_id|>", stop_token_id=15, leading_bos=1)
BASE = Facts(
    vocab_size=16,
    vocabulary={"!": 0, '"': 1, "#": 2, **SPECIAL},
    special_ids=SPECIAL,
    bos_token="<|begin_of_text|>",
    bos_token_id=10,
    eos_token="<|end_of_text|>",
    eos_token_id=11,
    pad_token=None,
    pad_token_id=None,
    unk_token_id=None,
    padding_side="right",
    bos_added=1,
    eos_added=0,
)
INSTRUCT = replace(BASE, eos_token="<|eot_id|>", eos_token_id=15, template=CHAT)


def with_token(facts: Facts, token: str, token_id: int) -> Facts:
    return replace(
        facts,
        vocabulary={**facts.vocabulary, token: token_id},
        special_ids={**facts.special_ids, token: token_id},
    )


def padded(facts: Facts, token: str) -> Facts:
    return replace(facts, pad_token=token, pad_token_id=facts.vocabulary.get(token))


def chosen(facts: Facts) -> str | None:
    choice = choose_pad_token(facts)
    return None if choice is None else choice.token


def test_the_first_that_fits() -> None:
    assert chosen(INSTRUCT) == "<|end_of_text|>"
    assert chosen(replace(BASE, template=CHAT)) == "<|end_of_text|>", "what the template ends turns with is learned"
    assert chosen(BASE) == "<|reserved_special_token_0|>", "a base model learns its end of text"
    assert chosen(with_token(BASE, "<|finetune_right_pad_id|>", 16)) == "<|finetune_right_pad_id|>"
    other = replace(BASE, vocabulary={"</s>": 2, "<unk>": 0}, special_ids={"</s>": 2, "<unk>": 0}, eos_token="</s>")
    assert chosen(replace(other, eos_token_id=2)) == "<unk>"
    assert chosen(replace(other, eos_token_id=2, vocabulary={"</s>": 2}, special_ids={"</s>": 2})) is None


@pytest.mark.parametrize("token", ["<｜▁pad▁｜>", "<PAD>", "<|padding|>", "[pad_token]", "<|PAD_TOKEN_0|>", "‹pad›"])
def test_a_token_that_is_named_padding_is_found_in_any_script(token: str) -> None:
    bare = replace(BASE, vocabulary={"a": 0, "<|end_of_text|>": 11}, special_ids={"<|end_of_text|>": 11})
    assert chosen(bare) is None
    assert chosen(with_token(bare, token, 2)) == token
    assert chosen(replace(bare, vocabulary={**bare.vocabulary, token: 2})) is None, "an ordinary piece is text"


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|launchpad|>", "<｜end▁of▁sentence｜>", "<notepad>"])
def test_a_token_of_another_meaning_is_no_padding(token: str) -> None:
    bare = replace(BASE, vocabulary={"a": 0, "<|end_of_text|>": 11}, special_ids={"<|end_of_text|>": 11})
    assert chosen(with_token(bare, token, 2)) is None


def test_the_candidates_that_are_none_are_explained() -> None:
    bare = replace(BASE, vocabulary={"a": 0, "<|end_of_text|>": 11, "<pad>": 99}, special_ids={"<|end_of_text|>": 11})
    bare = replace(bare, model=ModelFacts(embedding_rows=16))
    assert chosen(bare) is None
    assert explain_candidates(bare) == (
        "'<|end_of_text|>' (11) is what the model must learn to produce, to stop",
        "'<pad>' has id 99, and the embedding has 16 rows",
    )


def test_the_reason_names_the_token_that_stays_learned() -> None:
    choice = choose_pad_token(INSTRUCT)
    assert choice is not None
    assert choice.why == "ends a text and never a turn (that is <|eot_id|>), so nothing to learn is hidden"
    no_stop = choose_pad_token(replace(INSTRUCT, template=TemplateProfile(error="raises")))
    assert no_stop is not None
    assert "(that is <|eot_id|>)" in no_stop.why


@pytest.mark.parametrize(
    ("token", "kind", "message"),
    [
        ("<|eot_id|>", "learned", "'<|eot_id|>' (15) is what the model must learn to produce, to stop"),
        ("<|eom_id|>", "learned", "'<|eom_id|>' (14) is what the model must learn to produce, to stop"),
        ("[PAD]", "no id", "'[PAD]' is not in the vocabulary, so it has no id"),
        ("!", "in text", "'!' (0) is ordinary text"),
        ("<|begin_of_text|>", "in text", "'<|begin_of_text|>' (10) is the BOS, with which every row begins"),
    ],
)
def test_a_fault_is_named_and_the_token_replaced(token: str, kind: str, message: str) -> None:
    facts = padded(INSTRUCT, token)
    fault = find_pad_fault(facts)
    assert fault is not None
    assert (fault.kind, fault.message) == (kind, message)
    [change] = change_pad_token(facts, "PAD999")
    assert (change.target, change.before, change.after) == ("tokenizer.pad_token", token, "<|end_of_text|>")
    assert (change.safety, change.code) == ("safe", "PAD999")


@pytest.mark.parametrize("token", ["<|end_of_text|>", "<|reserved_special_token_1|>"])
def test_a_sound_one_is_kept(token: str) -> None:
    assert find_pad_fault(padded(INSTRUCT, token)) is None
    assert chosen(padded(INSTRUCT, token)) == token
    assert change_pad_token(padded(INSTRUCT, token), "") == ()


def test_an_id_beyond_the_embedding() -> None:
    facts = with_token(replace(INSTRUCT, model=ModelFacts(embedding_rows=16)), "[PAD]", 16)
    fault = find_pad_fault(padded(facts, "[PAD]"))
    assert fault is not None
    assert (fault.kind, fault.message) == ("no id", "'[PAD]' has id 16, and the embedding has 16 rows")
    assert chosen(facts) == "<|end_of_text|>"
    assert chosen(replace(facts, requested_pad_token="[PAD]")) is None
    roomy = replace(facts, model=ModelFacts(embedding_rows=17))
    assert chosen(padded(roomy, "[PAD]")) == "[PAD]"
    assert chosen(replace(BASE, model=ModelFacts(embedding_rows=12))) is None


def test_the_one_asked_for_wins() -> None:
    for token in ("<|eot_id|>", "!", "<|reserved_special_token_1|>"):
        facts = replace(INSTRUCT, requested_pad_token=token)
        assert chosen(facts) == chosen(padded(facts, "<|end_of_text|>")) == token
        assert find_pad_fault(padded(facts, token)) is None
    assert chosen(replace(INSTRUCT, requested_pad_token="<nowhere>")) is None


def test_text_is_kept_where_nothing_better_is_there() -> None:
    bare = replace(BASE, vocabulary={"!": 0, "<|end_of_text|>": 11}, special_ids={"<|end_of_text|>": 11})
    choice = choose_pad_token(padded(bare, "!"))
    assert choice is not None
    assert (choice.token, choice.why) == ("!", "already set, and the vocabulary offers nothing better")
    assert find_pad_fault(padded(bare, "!")) is not None
    assert change_pad_token(padded(bare, "!"), "") == ()


def test_what_must_be_learned() -> None:
    assert learned_stop_ids(BASE) == {11, 14}
    assert learned_stop_ids(INSTRUCT) == {14, 15}
    assert learned_stop_ids(replace(INSTRUCT, eos_token_id=11)) == {14, 15}, "the template says, not the tokenizer"
    assert learned_stop_ids(replace(BASE, eos_token_id=None, special_ids={})) == frozenset()


def test_stops_are_complete_and_the_listed_ones_come_first() -> None:
    assert stop_ids(BASE) == stop_ids(INSTRUCT) == (11, 14, 15)

    def listing(generation: object, config: object) -> Facts:
        return replace(INSTRUCT, model=ModelFacts(generation_eos_token_id=generation, config_eos_token_id=config))  # type: ignore[arg-type]

    assert stop_ids(listing((15, 13), 11)) == (15, 13, 11, 14)
    assert stop_ids(listing(None, None)) == (11, 14, 15)
    assert stop_ids(listing(2, 2)) == (11, 14, 15), "LlamaConfig's own default is '#' here"
    other = replace(BASE, special_ids={"</s>": 2}, eos_token_id=2)
    assert stop_ids(other) == (2,)


@pytest.mark.parametrize(
    ("special_ids", "eos_token_id", "expected"),
    [
        ({"<|end_of_text|>": 128001, "<|eot_id|>": 128009}, 128009, 128001),
        ({"<|endoftext|>": 5, "<|im_end|>": 6}, 6, 5),  # a base model whose EOS a chat patch has moved
        ({"<s>": 1, "</s>": 2}, 2, 2),
        ({"<end>": 9}, 9, 9),
        ({}, None, None),
    ],
)
def test_a_plain_text_ends_with_the_familys_end_of_text_whatever_the_eos_is(
    special_ids: dict[str, int], eos_token_id: int | None, expected: int | None
) -> None:
    assert text_end_id(special_ids, eos_token_id) == expected
