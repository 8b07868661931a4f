"""Which of a message's texts a template wrote: whatever the texts say, whether they touch, and in what order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama_padfix.chat.losses.held import find_losses
from llama_padfix.chat.losses.written import WrittenTexts
from llama_padfix.chat.render import Rendered
from llama_padfix.chat.trace import read_trace
from llama_padfix.chat.traced_render import render_traced
from tests.support.both import assert_same
from tests.support.conversations import encoder_for, shared
from tests.support.families import FOLDER, family_tokenizer

WRITES = {
    "thought": "m.reasoning_content",
    "first": "m.content[0].text",
    "second": "m.content[1].text",
    "name": "m.name",
    "city": "m.tool_calls[0].function.arguments.city",
    "day": "m.tool_calls[0].function.arguments.day",
}
KINDS = {
    "thought": "lost_reasoning",
    "first": "lost_text",
    "second": "lost_text",
    "city": "lost_tools",
    "day": "lost_tools",
}
CALL_WORDS = "zcall zcity zday"  # the name and the keys, which are never left out here
FILTERS = ("", "| trim", "| upper", "| tojson", "| replace('\\n', ' ')", "| replace('\\n', '')")


def find_kinds(texts: dict[str, str], template: str) -> set[str]:
    """The kinds of what the template leaves out of an answer with these texts."""
    arguments = {f"z{key}": texts[key] for key in ("city", "day") if key in texts}
    message: dict[str, Any] = {
        "role": "assistant",
        "content": [{"type": "text", "text": texts[key]} for key in ("first", "second") if key in texts],
    }
    message |= {"reasoning_content": texts["thought"]} if "thought" in texts else {}
    message |= {"name": texts["name"]} if "name" in texts else {}
    message |= {"tool_calls": [{"function": {"name": "zcall", "arguments": arguments}}]} if arguments else {}
    source = "{% for m in messages %}" + template + "{% endfor %}"
    trace = read_trace(render_traced(shared("3.1-instruct"), [message], None, {"chat_template": source}))
    rendered = Rendered(trace.text, (), content_spans=trace.text_spans)
    return {loss.kind for loss in find_losses([message], None, rendered)}


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[str], set[str], str]:
    """The texts of an answer, those that the template writes, and the template."""
    keys = draw(st.lists(st.sampled_from([*WRITES]), min_size=1, unique=True))
    keys = ["first", *keys] if "second" in keys and "first" not in keys else keys
    written = draw(st.lists(st.sampled_from(keys), unique=True))
    between = st.sampled_from(("", "", "|", " ", "</think>\n"))
    template = draw(between)
    for key in written:
        name = WRITES[key].replace(".city", ".zcity").replace(".day", ".zday")
        template += "{{ " + name + " }}" + draw(between)
    called = {"city", "day"} & {*keys}
    if called:
        template += "{{ m.tool_calls[0].function.name }}|"
        template += "{% for key in m.tool_calls[0].function.arguments %}{{ key }}|{% endfor %}"
    return keys, {*written}, template


def says(alphabet: str) -> st.SearchStrategy[list[str]]:
    """One text for each key, none blank, and no two the same."""
    text = st.text(alphabet, min_size=1, max_size=4).filter(str.strip)
    return st.lists(text, min_size=len(WRITES), max_size=len(WRITES), unique_by=str.strip)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(layouts(), says("ab"), says("ab \n\\n\"'"))
@example(
    (["thought", "first"], {"thought", "first"}, "{{ m.reasoning_content }}{{ m.content[0].text }}"),
    ["ba", "aa"],
    ["aab", "b"],
)
def test_a_text_is_lost_if_and_only_if_the_template_does_not_write_it(
    layout: tuple[list[str], set[str], str], words: list[str], odd: list[str]
) -> None:
    keys, written, template = layout
    expected = {KINDS[key] for key in keys if key not in written and key in KINDS}
    distinct = [letter * 3 for letter in "cdefgh"]
    for said in (distinct, words, odd):
        texts = dict(zip(keys, said, strict=False))
        assert find_kinds(texts, template) == expected, (texts, template)


@pytest.mark.parametrize("rewrite", FILTERS)
def test_a_text_that_is_written_in_another_form_is_not_lost_beside_others(rewrite: str) -> None:
    texts = {
        "thought": "Yes\nof course",
        "first": 'Say "so" \\ and\n\ngo ',
        "second": "\nOf\nit",
        "city": "A\nb",
        "day": "b",
    }
    for left_out in (None, "thought", "second", "city"):
        names = {
            key: WRITES[key].replace(".city", ".zcity").replace(".day", ".zday") for key in texts if key != left_out
        }
        template = "{{ m.tool_calls[0].function.name }}|{{ m.tool_calls[0].function.arguments | list | join('|') }}"
        template += "".join(f"|{{{{ {name} {rewrite} }}}}" for name in names.values())
        assert find_kinds(texts, template) == ({KINDS[left_out]} if left_out else set()), (left_out, template)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    said=st.lists(
        st.text("xy\"\\\n{}:, '", min_size=1, max_size=5).filter(str.strip),
        min_size=5,
        max_size=5,
        unique_by=str.strip,
    )
)
@example(said=["'\"", "{:/\n", ":", '\n"\n{:', "x"])
def test_what_stands_in_json_is_found_whatever_it_says(said: list[str]) -> None:
    first, second, third, fourth, thought = said
    if first == third:
        return
    function = {"name": "zcall", "arguments": {first: second, third: [fourth]}}
    message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": function}],
        "reasoning_content": thought,
    }
    call = "{% set f = messages[0].tool_calls[0].function %}"
    for body in (
        "{{ f | tojson }}",
        "{{ f | tojson | tojson }}",
        "{{ f.name }} {{ f.arguments | tojson }}",
        '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson(indent=2) }}}',
    ):
        for ending, expected in (("{{ messages[0].reasoning_content }}", []), ("", ["lost_reasoning"])):
            trace = read_trace(
                render_traced(shared("3.1-instruct"), [message], None, {"chat_template": call + body + ending})
            )
            losses = find_losses([message], None, Rendered(trace.text, (), content_spans=trace.text_spans))
            assert [loss.kind for loss in losses] == expected, (body, ending)


@pytest.mark.parametrize(
    ("texts", "pieces", "missing"),
    [
        (["Yes", "It is"], ["Yes\nIt is", "Yes"], ["Yes"]),  # the first in two pieces
        (["xa", "bx"], ["xab", "xa", "bx"], ["xab"]),
        (["ab", "cd"], ["abcd", "ab", "cd"], ["abcd"]),
        (["ab", "cd"], ["abcd"], []),
        (["aa"], ["aa", "aa"], ["aa"]),
        (["aa", "aa"], ["aa", "aa"], []),
        (["xabx"], ["a \n\n b", "xabx"], ["a \n\n b"]),
        (["abab"], ["a    b", "a     b", "abab"], ["a    b", "a     b"]),
        (["", " \n", "aa "], ["aa", "a"], ["a"]),
        (['{"a": "x\\ny", "b": "ny"}'], ["x\ny", "ny", "a", "b"], []),
        (['{"a": "x\\ny"}'], ["x\ny", "ny"], ["ny"]),
        (['"a\\nb"'], ["a\nb", "a\nb"], ["a\nb"]),
        (["a\0b"], ["a\0b"], []),
        ([], ["a"], ["a"]),
    ],
)
def test_what_is_found_is_used_up_where_it_was_found(texts: list[str], pieces: list[str], missing: list[str]) -> None:
    ends = [len("|".join(texts[: place + 1])) for place in range(len(texts))]
    spans = tuple((end - len(text), end, 0) for text, end in zip(texts, ends, strict=True))
    written = WrittenTexts(Rendered("|".join(texts), (), content_spans=spans))
    for order in (pieces, pieces[::-1]):
        assert sorted(order[place] for place in written.find_missing(0, order)) == sorted(missing)


def test_the_name_of_a_message_does_not_stand_for_its_text() -> None:
    said = {"thought": "b", "first": "a", "name": "abc"}
    assert find_kinds(said, "{{ m.name }}{{ m.content[0].text }}") == {"lost_reasoning"}
    assert find_kinds(said, "{{ m.name }}{{ m.reasoning_content }}") == {"lost_text"}
    assert find_kinds(said | {"thought": "ab c"}, "{{ m.name }}{{ m.content[0].text }}") == {"lost_reasoning"}
    assert find_kinds(said | {"thought": "abca"}, "{{ m.name }}{{ m.content[0].text }}") == {"lost_reasoning"}


def ask(said: list[str], layout: str) -> dict[str, Any]:
    """A row of one turn for each thought and answer."""
    messages: list[dict[str, Any]] = []
    for thought, answer in zip(said[::2], said[1::2], strict=True):
        messages += [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}]
        if layout == "content":
            messages[-1]["content"] = f"<think>\n{thought}\n</think>\n\n{answer}"
        else:
            messages[-1]["reasoning_content"] = thought
    return {"messages": messages}


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of the same shape, which are encoded many at a time."""
    alphabet = draw(st.sampled_from(("ab", 'ab \n\\n"')))
    text = st.text(alphabet, min_size=1, max_size=4).filter(str.strip)
    layout, turns = draw(st.sampled_from(("content", "key"))), draw(st.sampled_from((1, 2)))
    said = st.lists(text, min_size=2 * turns, max_size=2 * turns)
    return [ask(one, layout) for one in draw(st.lists(said, min_size=4, max_size=6))]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(tables())
@example([ask(["ba", "aa"], "key")] * 4)
@example([ask(["b a", "aba", "a  b", "ab"], "content")] * 4)
def test_rows_in_bulk_lose_the_thoughts_that_they_lose_one_by_one(rows: list[dict[str, Any]]) -> None:
    """Qwen 3 writes the thoughts behind the last question, and leaves out those before it."""
    found, _ = assert_same(family_tokenizer(FOLDER / "qwen3.jinja"), rows, engine="tokenizers")
    assert found.counts.lost_reasoning == sum(len(row["messages"]) > 2 for row in rows)
    assert found.counts.lossy == found.counts.lost_reasoning


def test_touching_texts_are_encoded_in_bulk_as_one_by_one() -> None:
    keeps = encoder_for("{{ m.reasoning_content }}{{ m.content }}<|eot_id|>").tokenizer
    rows = [ask([thought, answer], "key") for thought, answer in [("ba", "aa"), ("aa", "ba"), ("a", "ba")] * 4]
    found, together = assert_same(keeps, rows, engine="tokenizers")
    assert (found.counts.lossy, together) == (0, len(rows))
