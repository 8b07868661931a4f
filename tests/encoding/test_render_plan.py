"""Recipes hold for every text, are learned only where that is proven, and are learned where it can be."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llama_padfix.chat.dates import pin_date
from llama_padfix.chat.turns import read_template
from llama_padfix.core.compat import gives_clock
from llama_padfix.encoding.batch.render_plan import RenderPlan, learn_render_plan
from llama_padfix.encoding.batch.separable import _KEEPS_ALL, parts_at_controls
from llama_padfix.encoding.encoder import ChatEncoder
from tests.conformance.test_popular_templates import FAMILIES, tokenizer_of
from tests.conftest import INSTRUCT, fresh_tokenizer
from tests.support.both import assert_same, make_hard_rows, say_hard, talk
from tests.support.conversations import shared
from tests.support.families import family_tokenizer, originals

ORDERS = (
    ("user", "assistant"),
    ("system", "user", "assistant"),
    ("user", "assistant", "user", "assistant"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)
# TRL's templates that write a plain conversation alike whatever it says.
STEMS = "cohere gemma gemma3 gptoss lfm2 lfm2_v2 llama3 llama3_1 llama3_2 muse_glimmer phi3 phi3_5 qwen2_5 qwen2_5_vl"
STEMS += " qwen3 qwen3_instruct_2507 qwen3_vl lfm2_2_5 lfm2_2_5_v2 deepseek_r1_distill deepseekv3"
STEMS += " diffusion_gemma gemma4 gemma4_v2 gemma4_v3 gemma4_v4 gemma4_v5 lfm2_2_5_vl"
STEMS += " qwen3_5_nothink qwen3_5_think qwen3_6 qwen3_8"
POPULAR = (
    "Zephyr, StableLM, TinyLlama, Tülu 1",
    "Granite 3",
    "Hermes, Yi, Qwen 1.5, SmolLM",
    "Starling, OpenChat",
    "InternLM 2",
    "DBRX",
    "Command R, Aya",
    "Llama 4",
    "Kimi K2, Moonlight",
    "Phi 3",
    "Phi 4",
    "Gemma 1, 2",
    "Jamba",
    "Seed-OSS",
    "Mistral v7, tekken",
    "Hunyuan",
    "EXAONE 3",
    "DeepSeek 2.5, 3, R1",
    "SmolLM 3, QwQ",
)
# Templates that ask a text for a tag, whose role marks are no special tokens, or that join two texts.
EVERY_ORDER = ("qwen3", "deepseekv3", "gptoss", "llama3")
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content "
    "+ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def learn(tokenizer: Any, roles: tuple[str, ...]) -> RenderPlan | None:
    return learn_render_plan(read_template(tokenizer, pin_date(tokenizer)), roles)


def fill(recipe: RenderPlan, texts: list[str]) -> str:
    written = ""
    for segment in recipe.segments:
        text = "" if segment.message is None else texts[segment.message]
        for method, chars in segment.operations:
            text = getattr(text, method)(chars)
        written += segment.before + text + segment.after
    return written


def check(tokenizer: Any) -> int:
    """Compare every recipe with the template itself on hard texts; return how many there are."""
    kwargs = pin_date(tokenizer)
    learned = 0
    for roles in ORDERS:
        recipe = learn(tokenizer, roles)
        if recipe is None:
            continue
        learned += 1
        for seed in range(15):
            rng = random.Random(seed)
            texts = [say_hard(rng) for _ in roles]
            if all(text.strip() and not any(word in text for word in recipe.forbidden_substrings) for text in texts):
                messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
                assert fill(recipe, texts) == tokenizer.apply_chat_template(messages, tokenize=False, **kwargs)
    return learned


@pytest.mark.parametrize("path", originals(), ids=lambda path: str(path.stem))
@pytest.mark.slow
def test_recipes_of_trls_templates_write_what_the_templates_write(path: Path) -> None:
    assert (check(family_tokenizer(path)) > 0) == (path.stem in STEMS.split())


@pytest.mark.parametrize("name", FAMILIES)
def test_recipes_of_widely_used_templates_write_what_the_templates_write(name: str) -> None:
    assert (check(tokenizer_of(FAMILIES[name])) > 0) == (name in POPULAR)


@pytest.mark.parametrize("release", INSTRUCT)
def test_the_releases_have_a_recipe_for_every_order_of_roles(release: str) -> None:
    assert check(shared(release)) == len(ORDERS)
    recipe = learn(shared(release), ORDERS[0])
    assert recipe is not None and recipe.segments[1].header == len("<|start_header_id|>assistant<|end_header_id|>\n\n")


@pytest.mark.parametrize("stem", EVERY_ORDER)
def test_families_have_a_recipe_for_every_order_of_roles(stem: str) -> None:
    [path] = [path for path in originals() if path.stem == stem]
    assert check(family_tokenizer(path)) == len(ORDERS)


def test_a_system_text_that_is_joined_to_the_question_is_a_segment_without_an_end() -> None:
    [path] = [path for path in originals() if path.stem == "gemma3"]
    recipe = learn(family_tokenizer(path), ORDERS[1])
    assert recipe is not None and [segment.closed for segment in recipe.segments] == [False, True, True, True]
    rows = [[{"role": "system", "content": "Be kind."}, *talk("Hi", "Good")], talk("a\n\n\nb", "c\n\nd\n\n\n\ne")]
    _, plain = assert_same(family_tokenizer(path), rows)
    assert plain == 2


def llama(source: str = LLAMA, *added: Any) -> Any:
    tokenizer = fresh_tokenizer("3.1-instruct")
    for token in added:  # transformers 4.x takes the flag `special` of a token away, unless it is told again
        tokenizer.add_tokens([token], special_tokens=token.special)
    tokenizer.chat_template = source
    return tokenizer


def prompt(said: str) -> str:
    """The template with another generation prompt."""
    return LLAMA.replace("'<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif", f"{said!r} }}}}{{% endif")


SUPPLIED = "<|start_header_id|>assistant<|end_header_id|>\n\n<think>\n"
REFUSED: dict[str, Any] = {
    "no control token behind a text": lambda: llama(LLAMA.replace("<|eot_id|>", "\n\n")),
    "a text that is written twice": lambda: llama(
        LLAMA.replace("m.content ", "m.content + (m.content if m.role == 'system' else '') ")
    ),
    "a text that is left out": lambda: llama(
        LLAMA.replace("m.content ", "(m.content if m.role != 'system' else '') ")
    ),
    "a prompt that supplies a space": lambda: llama(prompt("<|start_header_id|>assistant<|end_header_id|>\n\n ")),
    "a prompt that depends on a text": lambda: llama(
        LLAMA.replace(
            "{% if add_generation_prompt %}",
            "{% if add_generation_prompt %}{{ 'x' if messages[-1].content | length > 40 else '' }}",
        )
    ),
    "a token that is two control tokens": lambda: llama(
        LLAMA, AddedToken("<|eot_id|><|start_header_id|>", normalized=False)
    ),
    "a token that ends in a part of the stop token": lambda: llama(LLAMA, AddedToken("x<", normalized=False)),
    "a stop token that overlaps itself": lambda: llama(
        LLAMA.replace("<|eot_id|>", "[e~["), AddedToken("[e~[", special=True, normalized=False)
    ),
    "a stop token that takes white space": lambda: llama(
        LLAMA.replace("<|eot_id|>", "<turn>"), AddedToken("<turn>", special=True, lstrip=True)
    ),
    "words that are none": lambda: llama(LLAMA.replace("m.content ", "(m.content.split('\\ud83d') | first) ")),
    "a clock": lambda: llama(LLAMA.replace("bos_token", "bos_token + strftime_now('%H')")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_proven_has_no_recipe(name: str) -> None:
    tokenizer = REFUSED[name]()
    if name == "a clock" and not gives_clock(tokenizer):
        pytest.skip("transformers up to 4.44 gives templates no clock: strftime_now is undefined")
    assert learn_render_plan(read_template(tokenizer), ORDERS[-1]) is None
    if name != "a clock":
        assert_same(tokenizer, make_hard_rows(12, name))


@pytest.mark.parametrize("start", ["<think>\n", " ", "\n", "<", "<th"])
def test_an_answer_that_begins_as_the_prompt_ends_is_encoded_the_careful_way(start: str) -> None:
    # The prompt supplies it, so that it is not trained: where the turn begins depends on the text.
    rows = [talk("Hi", "Good"), talk("Hi", f"{start}Good"), talk("Hi", start + start, "More", f"{start}x")]
    _, plain = assert_same(llama(prompt("<|start_header_id|>assistant<|end_header_id|>\n\n ")), rows)
    assert plain == 0
    # A tag is supplied whole or not at all: an answer without it begins behind the header.
    _, plain = assert_same(llama(prompt(SUPPLIED)), rows)
    texts = [[message["content"] for message in row] for row in rows]
    melts = [any(text.startswith("\n") for text in row[1::2]) for row in texts]
    whole = [all(text.strip() and "<think>" not in text for text in row) for row in texts]
    assert plain == sum(one and not other for one, other in zip(whole, melts, strict=True))


# Tokenizers


def changed(**parts: Any) -> Any:
    tokenizer = llama()
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


def digits(*last: Any) -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), *last])


def keep(pattern: str) -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "removed", invert=True), BYTES])


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
UNDERLINE = normalizers.Replace(" ", "\u2581")
TRIMMING = processors.ByteLevel(trim_offsets=True)
BACKENDS: dict[str, tuple[Any, bool]] = {
    "trimmed offsets": (lambda: changed(post_processor=TRIMMING), True),
    "a normalizer, trimmed offsets": (lambda: changed(normalizer=normalizers.NFC(), post_processor=TRIMMING), False),
    "as it is": (lambda: changed(), True),
    "NFC": (lambda: changed(normalizer=normalizers.NFC()), True),
    "a mark for spaces": (lambda: changed(normalizer=normalizers.Sequence([normalizers.NFC(), UNDERLINE])), True),
    "digits": (lambda: changed(pre_tokenizer=digits(BYTES)), True),
    "NFKC": (lambda: changed(normalizer=normalizers.NFKC()), False),
    "lower case": (lambda: changed(normalizer=normalizers.Lowercase()), False),
    "stripping": (lambda: changed(normalizer=normalizers.Strip()), False),
    "a space in front": (lambda: changed(normalizer=normalizers.Prepend("\u2581")), False),
    "Metaspace": (lambda: changed(pre_tokenizer=pre_tokenizers.Metaspace()), False),
    "a space in front of bytes": (lambda: changed(pre_tokenizer=pre_tokenizers.ByteLevel()), False),
    "white space removed": (
        lambda: changed(pre_tokenizer=digits(pre_tokenizers.Split(" ", "removed"), BYTES)),
        False,
    ),
    "no bytes": (lambda: changed(pre_tokenizer=digits()), False),
    "what cl100k matches is kept": (lambda: changed(pre_tokenizer=keep(_KEEPS_ALL)), True),
    "words are kept": (lambda: changed(pre_tokenizer=keep(r"\p{L}+|\s+|\n")), False),
}


def covers_characters(tokenizer: Any) -> bool:
    """Whether tokens say which characters they cover; in tokenizers 0.19 those of Llama 3 are without width."""
    return bool(tokenizer("a", add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"] == [(0, 1)])


@pytest.mark.parametrize("name", BACKENDS)
def test_tokenizers_whose_ids_do_not_spell_the_text_have_no_plain_way(name: str) -> None:
    make, parts = BACKENDS[name]
    tokenizer = make()
    parts = parts and (tokenizer.backend_tokenizer.normalizer is None or covers_characters(tokenizer))
    assert parts_at_controls(tokenizer) == parts
    rows = make_hard_rows(20, name)
    _, plain = assert_same(tokenizer, rows)
    assert (plain > 2) == parts


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("normalizer", [normalizers.NFC(), UNDERLINE], ids=["NFC", "a mark for spaces"])
def test_a_row_that_a_normalizer_changes_is_the_same_whatever_rows_are_beside_it(place: int, normalizer: Any) -> None:
    # Where the careful way cannot place the answers of such a row, no other way may encode it.
    tokenizer = changed(normalizer=normalizer)
    rows = [talk("One", "Two"), talk("Three", "Four")]
    rows.insert(place, talk("e\u0301 and", "Te\u0301l e\u0301"))
    made, plain = assert_same(tokenizer, rows)
    assert plain == (3 if covers_characters(tokenizer) else 0)
    assert bool(made.error) != covers_characters(tokenizer)


def test_dropout_has_no_plain_way() -> None:
    tokenizer = llama()
    assert parts_at_controls(tokenizer)
    tokenizer.backend_tokenizer.model.dropout = 0.1
    try:
        assert not parts_at_controls(tokenizer)
    finally:
        tokenizer.backend_tokenizer.model.dropout = None  # the vocabulary is shared


class Shouting(PreTrainedTokenizerFast):  # type: ignore[misc]
    """A class of somebody's own, which rewrites some texts before they are rendered."""

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        loud = [{**m, "content": m["content"].replace("now", "NOW")} for m in conversation]
        return super().apply_chat_template(loud, *args, **kwargs)


def test_a_class_that_rewrites_texts_has_no_plain_way() -> None:
    plain = llama()
    loud = Shouting(tokenizer_object=plain.backend_tokenizer, bos_token=plain.bos_token, eos_token=plain.eos_token)
    loud.chat_template = LLAMA
    assert parts_at_controls(plain) and not parts_at_controls(loud)
    rows = [talk("Hi", "Good"), talk("Hi", "Good"), talk("Do it now", "right now")]
    assert ChatEncoder(loud).encode_rows(rows)[0] != ChatEncoder(plain).encode_rows(rows)[0]
    plain.apply_chat_template = loud.apply_chat_template
    assert not parts_at_controls(plain)


@pytest.mark.parametrize("flag", ["single_word", "lstrip", "rstrip", "normalized"])
@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()], ids=["raw", "NFC"])
def test_a_control_token_that_a_text_may_spell_unseen_is_looked_for(flag: str, normalizer: Any) -> None:
    tokenizer = llama(LLAMA, AddedToken("<turn>", special=True, **{flag: True}))
    if normalizer is not None:  # tokenizers 0.19 cannot take one away
        tokenizer.backend_tokenizer.normalizer = normalizer
    assert (tokenizer.backend_tokenizer.normalizer is None) == (normalizer is None)
    recipe = learn(tokenizer, ("user", "assistant"))
    unseen = flag == "single_word" or (flag == "normalized" and normalizer is not None)
    assert recipe is not None and ("<turn>" in recipe.forbidden_substrings) == unseen
    rows = [
        talk("a", "b"),
        talk("x<turn>x", "b"),
        talk("a", "<turn>\u0338 b"),
        talk("<turn", "> turn>"),
        talk("c", "d"),
    ]
    _, plain = assert_same(tokenizer, rows, special_tokens="error")
    assert plain == (3 if normalizer is None or covers_characters(tokenizer) else 0)
    assert_same(tokenizer, rows)
