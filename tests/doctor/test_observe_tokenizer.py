"""Facts are found by trying: on the real tokenizers, and on templates that nobody would wish for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tokenizers import Tokenizer

from llama_padfix import PadfixError
from llama_padfix.chat.profile.template_profile import TemplateProfile, observe_template
from llama_padfix.doctor.observe.tokenizer import observe_tokenizer
from llama_padfix.tokens.control import find_control_text, special_ids
from tests.conftest import ALL, INSTRUCT, fresh_tokenizer

HEADER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
OPEN = "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"  # Jinja drops a line break at a template's end
TURN = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}"
EACH = "{{ bos_token }}{% for m in messages %}" + TURN + "<|eot_id|>{% endfor %}"
PROMPT = "{% if add_generation_prompt %}" + HEADER + "{% endif %}"


@pytest.fixture(scope="module")
def plain() -> Any:
    """Llama 3.1 Instruct, whose template each test replaces."""
    return fresh_tokenizer("3.1-instruct")


def learn(tokenizer: Any, template: Any, **kwargs: Any) -> TemplateProfile:
    tokenizer.chat_template = template
    facts = observe_template(tokenizer, kwargs)
    assert facts is not None
    return facts


@pytest.mark.parametrize("release", ALL)
def test_releases(release: str) -> None:
    tokenizer = fresh_tokenizer(release)
    facts = observe_tokenizer(tokenizer)
    assert facts.bos_added == (release != "3-instruct-early")
    assert facts.eos_added == 0
    assert len(facts.special_ids) == 256
    assert (facts.pad_token, facts.pad_token_id, facts.model) == (None, None, None)
    if release not in INSTRUCT:
        assert facts.template is None
        return
    early = release == "3-instruct-early"
    assert facts.template is not None
    assert facts.template == replace(
        facts.template,
        header=HEADER,
        header_in_history=True,
        header_has_control=True,
        stop_token="<|eot_id|>",
        stop_token_id=128009,
        always_adds_prompt=early,
        leading_bos=1,
        error=None,
    )


def test_named_templates(plain: Any) -> None:
    facts = learn(plain, {"default": EACH + PROMPT, "tool_use": "{{ raise_exception('no') }}"})
    assert (facts.stop_token, facts.header, facts.error) == ("<|eot_id|>", HEADER, None)
    facts = learn(plain, {"rag": EACH, "tool_use": EACH})
    assert facts.error is not None and facts.error.startswith("rendering it raised ValueError")


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ raise_exception('only system messages') }}", "rendering it raised TemplateError: only system messages"),
        ("{{ messages[7].content.x }}", "rendering it raised UndefinedError"),
        ("{% for", "rendering it raised TemplateSyntaxError"),
        (
            "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
            "writes the content of a message 2 times",
        ),
        ("{{ messages[0].content }}", "writes the content of a message 0 times"),
        ("constant", "writes the content of a message 0 times"),
    ],
)
def test_templates_that_cannot_be_read(plain: Any, template: str, error: str) -> None:
    facts = learn(plain, template)
    assert facts.error is not None and error in facts.error
    assert facts == TemplateProfile(error=facts.error)


def test_template_without_a_stop_token(plain: Any) -> None:
    facts = learn(plain, "{% for m in messages %}{{ '\n' + m.role }}: {{ m.content }}{% endfor %}")
    assert (facts.stop_token, facts.stop_token_id, facts.leading_bos, facts.error) == (None, None, 0, None)
    assert facts.header == "\nassistant: "
    assert not facts.header_has_control


def test_an_opened_turn_is_no_stop(plain: Any) -> None:
    """Without a stop token, what follows the answer is the next header: generation must not stop there."""
    facts = learn(plain, "{{ bos_token }}{% for m in messages %}" + TURN + "{% endfor %}" + OPEN)
    assert (facts.stop_token, facts.stop_token_id, facts.always_adds_prompt) == (None, None, True)
    assert facts.header == HEADER


def test_header_that_lost_its_last_line_break_at_the_end(plain: Any) -> None:
    facts = learn(plain, EACH + HEADER)
    assert facts.always_adds_prompt
    assert (facts.header, facts.stop_token) == (HEADER, "<|eot_id|>")


def test_a_separator_and_no_headers(plain: Any) -> None:
    facts = learn(plain, "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}")
    assert (facts.stop_token, facts.header, facts.header_in_history, facts.always_adds_prompt) == (
        "<|eot_id|>",
        "",
        False,
        False,
    )


def test_template_that_always_opens_a_turn(plain: Any) -> None:
    facts = learn(plain, EACH + OPEN)
    assert facts.always_adds_prompt
    assert (facts.header, facts.stop_token, facts.header_in_history) == (HEADER, "<|eot_id|>", True)


def test_template_that_ignores_the_generation_prompt(plain: Any) -> None:
    facts = learn(plain, EACH)
    assert not facts.always_adds_prompt
    assert (facts.header, facts.stop_token, facts.header_in_history) == (HEADER, "<|eot_id|>", True)


def test_think_tag_opened_by_the_generation_prompt(plain: Any) -> None:
    facts = learn(plain, EACH + "{% if add_generation_prompt %}" + HEADER + "<think>\n{% endif %}")
    assert (facts.header, facts.header_in_history) == (HEADER + "<think>\n", False)
    assert facts.stop_token == "<|eot_id|>"


def test_text_headers_and_a_system_prompt_that_ends_in_the_stop(plain: Any) -> None:
    ask = "{% if add_generation_prompt %}### assistant: {% endif %}"
    each = "{% for m in messages %}### {{ m.role }}: {{ m.content }}<|end_of_text|>{% endfor %}"
    facts = learn(plain, "You help.<|end_of_text|>" + each + ask)
    assert (facts.stop_token, facts.header) == ("<|end_of_text|>", "### assistant: ")
    assert not facts.header_has_control


def test_leading_bos_is_counted_in_the_ids(plain: Any) -> None:
    assert [learn(plain, "<|begin_of_text|>" * n + "{{ bos_token }}" + EACH).leading_bos for n in (0, 1)] == [2, 3]
    assert learn(plain, EACH.removeprefix("{{ bos_token }}")).leading_bos == 0


def test_template_kwargs_go_to_the_template(plain: Any) -> None:
    template = "{% for m in messages %}{{ m.content }}{{ end }}{% endfor %}"
    assert learn(plain, template, end="<|eom_id|>").stop_token == "<|eom_id|>"
    assert learn(plain, template).stop_token is None


def test_no_template(plain: Any) -> None:
    for nothing in (None, ""):
        plain.chat_template = nothing
        assert observe_template(plain) is None


def test_control_tokens_are_those_that_encoding_cuts_out(tokenizer: Any) -> None:
    tokenizer.pad_token = "!"
    assert "!" not in special_ids(tokenizer), "ordinary text stays text, whatever it was named"
    tokenizer.pad_token = "<|not_there|>"
    assert observe_tokenizer(tokenizer).pad_token_id is None
    tokenizer.add_tokens(["<tool>"])
    assert "<tool>" not in special_ids(tokenizer)
    tokenizer.eos_token = "<tool>"
    assert special_ids(tokenizer)["<tool>"] == 128256


def test_automatic_bos_and_eos_are_counted(plain: Any) -> None:
    from tokenizers import processors

    tokenizer = copy.copy(plain)
    before = tokenizer.backend_tokenizer.post_processor
    bos, eos = "<|begin_of_text|>", "<|eot_id|>"
    try:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} {bos} $A {eos}", pair=None, special_tokens=[(bos, 128000), (eos, 128009)]
        )
        facts = observe_tokenizer(tokenizer)
    finally:
        tokenizer.backend_tokenizer.post_processor = before
    assert (facts.bos_added, facts.eos_added) == (2, 1)
    assert not getattr(tokenizer, "add_bos_token", False), "the attribute is wrong, which is why nobody asks it"


def test_control_text_takes_the_longest() -> None:
    assert find_control_text("a<x><xy>", ("<x", "<x>", "<xy>")) == [(1, 4, "<x>"), (4, 8, "<xy>")]
    assert find_control_text("a<x>", ()) == []


def test_model_facts(make_model: Any) -> None:
    model = make_model("3.1-base")
    model.generation_config.eos_token_id = [128009, 128001]
    tokenizer = fresh_tokenizer("3.1-base")
    facts = observe_tokenizer(tokenizer, model).model
    assert facts is not None
    assert (facts.embedding_rows, facts.config_eos_token_id, facts.generation_eos_token_id) == (
        128256,
        128001,
        (128009, 128001),
    )
    model.get_input_embeddings().weight.ds_shape = (128300, 16)  # as DeepSpeed's ZeRO-3 notes it
    model.generation_config = None
    tokenizer = fresh_tokenizer("3.1-base")
    facts = observe_tokenizer(tokenizer, model).model
    assert facts is not None
    assert (facts.embedding_rows, facts.has_generation_config) == (128300, False)


def test_earlier_facts_lend_their_vocabulary_and_nothing_else(tokenizer: Any) -> None:
    earlier = observe_tokenizer(tokenizer)
    tokenizer.pad_token, tokenizer.eos_token, tokenizer.padding_side = "<|end_of_text|>", "<|eom_id|>", "left"
    facts = observe_tokenizer(tokenizer, pad_token="<|end_of_text|>", earlier=earlier)
    assert facts.vocabulary is earlier.vocabulary
    assert facts == observe_tokenizer(tokenizer, pad_token="<|end_of_text|>") != earlier
    assert (facts.pad_token_id, facts.eos_token_id, facts.padding_side) == (128001, 128008, "left")


def _add_token(tokenizer: Any) -> None:
    tokenizer.add_tokens(["<mine>"])


def _rename_token(tokenizer: Any) -> None:
    renamed = tokenizer.backend_tokenizer.to_str().replace('"<|reserved_special_token_7|>"', '"<mine>"')
    tokenizer._tokenizer = Tokenizer.from_str(renamed)


@pytest.mark.parametrize(("change", "token_id"), [(_add_token, 128256), (_rename_token, 128015)])
@pytest.mark.slow
def test_earlier_facts_of_another_vocabulary_lend_nothing(
    tokenizer: Any, change: Callable[[Any], None], token_id: int
) -> None:
    earlier = observe_tokenizer(tokenizer)
    change(tokenizer)
    facts = observe_tokenizer(tokenizer, earlier=earlier)
    assert (facts.vocabulary["<mine>"], "<mine>" in earlier.vocabulary) == (token_id, False)
    assert facts == observe_tokenizer(tokenizer)


def test_what_is_no_tokenizer() -> None:
    class Processor:
        tokenizer = None

    with pytest.raises(PadfixError, match=r"Got a Processor, which is a processor.*processor\.tokenizer"):
        observe_tokenizer(Processor())  # type: ignore[arg-type]
    with pytest.raises(PadfixError, match=r"Got a str where a Hugging Face tokenizer.*from_pretrained"):
        observe_tokenizer("meta-llama/Llama-3.1-8B")  # type: ignore[arg-type]
