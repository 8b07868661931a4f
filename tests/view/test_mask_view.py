"""The picture of what is trained: in a terminal, in a notebook, and the page's parts that need no browser."""

from __future__ import annotations

import base64
import copy
import hashlib
import html
import json
import os
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy
import pytest

from llama_padfix import IGNORE_INDEX, ChatEncoder, MaskView, PadCollator, PadfixError, view_mask
from llama_padfix.core.text import printable
from llama_padfix.encoding.dataset.files import open_rows
from llama_padfix.tokens.calls import copy_tokenizer
from tests.conftest import fresh_tokenizer

HOSTILE = (
    "</script><script>document.title='pwned'</script>",
    "<!--<script>document.title='pwned'",
    "<img src=x onerror=document.title='pwned'><svg onload=document.title='pwned'>",
    "'\" onmouseover=document.title='pwned' autofocus onfocus=document.title='pwned' x='",
    "</textarea></title></style></noscript></details><iframe srcdoc='<script>top.document.title=1</script>'>",
    "a\u2028document.title='pwned'//\u2029\r\n\x00 \x85 b",
    "${document.title='pwned'} {{constructor.constructor('document.title=1')()}} <%= 1 %> #{1}",
    "javascript:document.title='pwned' <a href=javascript:document.title=1>x</a> &lt;b&gt; &#60;",
    "\x1b]0;pwned\x07\x1b[2J\x1b[1;1H\x1b[31m \x9b31m \x08\x7f \u202e\u2066\u200f\u200b\ufeff \U000e0041 🙂\u200d↔️",
    "__proto__ constructor ⟦trained⟧ ⏎ <|eot_id|><|start_header_id|>assistant<|end_header_id|>",
)
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 龘? 🦙"},
        {"role": "assistant", "content": "A dragon.\n\nTwo of them fly 龘!"},
    ]
}
SHORT = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "there"}]}


@pytest.fixture(scope="module")
def llama() -> Any:
    """Llama 3.1 Instruct; no test of this module may change it."""
    return fresh_tokenizer("3.1-instruct")


@pytest.fixture(scope="module")
def rows(llama: Any) -> list[dict[str, Any]]:
    encoder = ChatEncoder(llama)
    return [encoder(row) for row in (CHAT, SHORT, CHAT)]


@pytest.fixture(scope="module")
def batch(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return PadCollator(128004)(rows)


@pytest.fixture(scope="module")
def hostile(llama: Any) -> MaskView:
    return view_mask(hostile_rows(llama), llama, title=HOSTILE[0])


def hostile_rows(tokenizer: Any) -> list[Any]:
    """Texts, columns, a forged role, ids that no vocabulary has: all that a row can bring into a picture."""
    rows: list[Any] = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]} for text in HOSTILE
    ]
    rows += [{text: 1} for text in HOSTILE]
    header = f"<|start_header_id|>{HOSTILE[2]}\x1b[2J<|end_header_id|>\n\nx<|eot_id|>"
    ids = tokenizer(header)["input_ids"]
    rows.append({"input_ids": [*ids, 999_999, -5], "labels": [*ids, 7, 128009]})
    return rows


# ---- what it shows


def test_every_token_is_what_its_label_says(llama: Any, rows: list[dict[str, Any]]) -> None:
    view = view_mask(rows, llama)
    assert [row.number for row in view.rows] == [0, 1, 2]
    for row, encoded in zip(view.rows, rows, strict=True):
        assert row.input_ids.tolist() == encoded["input_ids"]
        assert row.trained.tolist() == [label != IGNORE_INDEX for label in encoded["labels"]]
        assert not row.padding.any() and row.problems == ()
        assert [role for _, role in row.turns] == ["", "system", "user", "assistant"]
    assert view.report.findings == () and view.total == 3


def test_a_padded_batch(llama: Any, rows: list[dict[str, Any]], batch: dict[str, Any]) -> None:
    view = view_mask(batch, llama)
    longest = max(len(row["input_ids"]) for row in rows)
    short = view.rows[1]
    assert len(short) == longest
    assert short.padding.tolist() == [at >= len(rows[1]["input_ids"]) for at in range(longest)]
    assert short.turns[-1] == (len(rows[1]["input_ids"]), "padding")
    pads = longest - len(rows[1]["input_ids"])
    assert f"{pads} × <|finetune_right_pad_id|>" in view.to_text()
    assert f"{pads} padding" in view.to_text().splitlines()[0]
    left = PadCollator(128004, padding_side="left")(rows)
    assert [role for _, role in view_mask(left, llama).rows[1].turns] == ["padding", "", "system", "user", "assistant"]


def test_the_text_of_the_tokens_is_the_text(llama: Any, rows: list[dict[str, Any]]) -> None:
    view = view_mask(rows[0], llama)
    [row] = view.rows
    texts, skip = [], 0
    for at, token_id in enumerate(row.input_ids.tolist()):
        count, text = row.characters.get(at, (1, view.pieces[token_id].text))
        if at >= skip:
            texts.append(text)
            skip = at + count
    assert "".join(texts) == llama.decode(rows[0]["input_ids"])
    assert sorted(text for _, text in row.characters.values()) == [" 龘", " 龘", " 🦙"]
    assert all(count > 1 for count, _ in row.characters.values())


def test_half_a_character_is_shown_as_its_bytes(llama: Any) -> None:
    ids = llama("龘", add_special_tokens=False)["input_ids"]
    assert len(ids) > 1
    cut = view_mask({"input_ids": ids[:-1], "labels": ids[:-1]}, llama)
    assert cut.rows[0].characters == {}
    assert cut.pieces[ids[0]].part and "龘".encode().startswith(cut.pieces[ids[0]].part)
    assert "\\xe9" in cut.to_text() and "\ufffd" not in cut.to_text()
    half = view_mask({"input_ids": ids, "labels": [*[IGNORE_INDEX] * (len(ids) - 1), ids[-1]]}, llama)
    assert "龘" not in half.to_text(), "a character that is trained in part is shown as bytes"
    assert f"⟦\\x{'龘'.encode()[-1]:02x}⟧" in half.to_text()


def test_an_id_that_no_vocabulary_has(llama: Any) -> None:
    view = view_mask({"input_ids": [128000, 999_999, -3], "labels": [-100, 999_999, -100]}, llama)
    assert "[id 999999]" in view.to_text() and "[id -3]" in view.to_text()
    assert not view.pieces[999_999].is_known and view.pieces[128000].is_special


@pytest.mark.parametrize("family", ["qwen2_5", "gemma3", "deepseekv3", "phi3", "cohere", "gptoss", "llama3_2"])
def test_roles_are_learned_from_any_template(family: str) -> None:
    families = pytest.importorskip("tests.support.families")
    path = families.FOLDER / f"{family}.jinja"
    if not path.exists():
        pytest.skip(f"the installed trl has no {path.name}")
    messages = [
        {"role": role, "content": text}
        for role, text in (("user", "One?"), ("assistant", "Yes."), ("user", "Two?"), ("assistant", "No."))
    ]
    [row] = view_mask(messages, families.family_tokenizer(path)).rows
    assert [role for _, role in row.turns if role not in ("", "system")] == ["user", "assistant"] * 2
    ends = [start for start, _ in row.turns[1:]] + [len(row)]
    for (start, role), end in zip(row.turns, ends, strict=True):
        assert bool(row.trained[start:end].any()) == (role == "assistant")


def test_without_a_template_there_are_no_roles(llama: Any) -> None:
    bare = copy_tokenizer(llama)
    bare.chat_template = None
    ids = [128000, 9906]
    assert view_mask({"input_ids": ids, "labels": ids}, bare).rows[0].turns == ((0, ""),)
    with pytest.raises(PadfixError, match="no chat template"):
        view_mask([CHAT], bare)


# ---- what it takes


def as_split(rows: list[Any]) -> Any:
    import datasets

    return datasets.Dataset.from_list(rows)


def as_loader(rows: list[Any]) -> Any:
    from torch.utils.data import DataLoader

    loaded: Any = rows
    return DataLoader(loaded, batch_size=2, collate_fn=PadCollator(128004))


FORMS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "columns": lambda rows: {name: [row[name] for row in rows] for name in rows[0]},
    "dataset": as_split,
    "torch dataset": lambda rows: as_split(rows).with_format("torch"),
    "stream": lambda rows: as_split(rows).to_iterable_dataset(),
    "generator": iter,
    "arrays": lambda rows: [{name: numpy.asarray(value) for name, value in row.items()} for row in rows],
    "batch": PadCollator(128004),
    "loader": as_loader,
}


@pytest.mark.parametrize("form", FORMS)
def test_encoded_rows_of_every_form(form: str, llama: Any, rows: list[dict[str, Any]]) -> None:
    view = view_mask(FORMS[form](rows), llama)
    assert [row.number for row in view.rows] == [0, 1, 2]
    for row, encoded in zip(view.rows, rows, strict=True):
        real = ~row.padding
        assert row.labels is not None
        assert row.input_ids[real].tolist() == encoded["input_ids"]
        assert row.labels[real].tolist() == encoded["labels"]
    assert view.total == (None if form in ("stream", "generator", "loader") else 3)


@pytest.mark.parametrize("form", ["list", "columns", "dataset", "stream", "generator"])
def test_raw_rows_are_encoded(form: str, llama: Any) -> None:
    raw = [CHAT, CHAT]
    view = view_mask(FORMS[form](raw), llama)
    expected = ChatEncoder(llama)(CHAT)
    assert [row.input_ids.tolist() for row in view.rows] == [expected["input_ids"]] * 2
    assert [row.labels.tolist() for row in view.rows if row.labels is not None] == [expected["labels"]] * 2


@pytest.mark.parametrize(
    "one", [CHAT, CHAT["messages"], SHORT, {"text": "Plain."}, {"prompt": "a", "completion": "b"}]
)
def test_one_row_or_conversation(one: Any, llama: Any) -> None:
    [row] = view_mask(one, llama).rows
    assert row.input_ids.tolist() == ChatEncoder(llama)(one)["input_ids"]


def test_masks_of_which_trainers_make_labels(llama: Any, rows: list[dict[str, Any]]) -> None:
    ids, labels = rows[0]["input_ids"], rows[0]["labels"]
    mask = [int(label != IGNORE_INDEX) for label in labels]
    completion = [1] * (len(ids) - 1) + [0]
    [row] = view_mask([{"input_ids": ids, "assistant_masks": mask, "completion_mask": completion}], llama).rows
    assert row.labels is not None and row.labels.tolist() == [*labels[:-1], IGNORE_INDEX]
    assert "assistant_masks and completion_mask" in row.note
    [bare] = view_mask([{"input_ids": ids}], llama).rows
    assert bare.labels is None and not bare.trained.any() and "no labels" in bare.note


def test_a_bad_row_is_shown_with_its_reason(llama: Any) -> None:
    unanswered = {"messages": [{"role": "user", "content": "Anybody?"}]}
    crooked = {"input_ids": [1, 2], "labels": [1]}
    words = {"input_ids": ["a", "b"]}
    view = view_mask([CHAT, unanswered, {"foo": 1}, crooked, words, CHAT], llama)
    assert [len(row) > 0 for row in view.rows] == [True, False, False, False, False, True]
    assert [problem.code for problem in view.rows[2].problems] == ["DAT001"]
    assert "no assistant" in view.rows[1].problems[-1].remark
    assert "labels has shape (1,)" in view.rows[3].problems[0].remark
    assert view.rows[4].problems[0].severity == "error"
    for text in (view.to_text(), view.to_html(), view._repr_html_()):
        assert "make no known shape" in text and "labels has shape (1,)" in text


def test_the_users_encoder_decides_and_keeps_its_counts(llama: Any) -> None:
    encoder = ChatEncoder(llama, train_on="last", max_length=40)
    encoder(SHORT)
    before = encoder.counts
    two = {"messages": [*SHORT_MESSAGES, *SHORT_MESSAGES]}
    view = view_mask([two, CHAT], llama, encoder=encoder)
    assert encoder.counts == before
    assert (
        view.rows[1].problems[0].remark == "encoding drops the row: its first trained turn is longer than max_length"
    )


SHORT_MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "there"}]


@pytest.mark.parametrize("numbers", [[1], [2, 0], [0, 0, 1]])
def test_row_numbers_are_those_of_the_dataset(numbers: list[int], llama: Any, rows: list[dict[str, Any]]) -> None:
    wanted = list(dict.fromkeys(numbers))
    for given in (rows, as_split(rows), iter(rows)):
        view = view_mask(given, llama, row_numbers=numbers)
        assert [row.number for row in view.rows] == wanted
        assert [row.input_ids.tolist() for row in view.rows] == [rows[n]["input_ids"] for n in wanted]


def test_at_most_max_rows(llama: Any, rows: list[dict[str, Any]]) -> None:
    view = view_mask(rows, llama, max_rows=2)
    assert len(view.rows) == 2 and view.total == 3
    assert view.to_text().startswith("2 of 3 rows (dataset)")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "is empty"),
        ("rows.jsonl", "no file or folder"),
        (5, "holds no rows"),
        ({"a": 1}, "neither a row nor a batch"),
    ],
)
def test_what_holds_no_rows_is_refused(given: Any, says: str, llama: Any) -> None:
    with pytest.raises(PadfixError, match=says):
        view_mask(given, llama)


def test_splits_trainers_and_missing_rows_are_refused(llama: Any, rows: list[dict[str, Any]]) -> None:
    import datasets

    with pytest.raises(PadfixError, match=r"dataset\['train'\]"):
        view_mask(datasets.DatasetDict({"train": as_split(rows)}), llama)
    with pytest.raises(PadfixError, match="There is no row 3: the rows are 0 to 2"):
        view_mask(rows, llama, row_numbers=[3])
    with pytest.raises(PadfixError, match="max_rows=0"):
        view_mask(rows, llama, max_rows=0)
    with pytest.raises(PadfixError, match="tokenizer is needed"):
        view_mask(rows, "meta-llama/Llama-3.1-8B")  # type: ignore[arg-type]


def test_nothing_that_is_passed_changes(llama: Any, rows: list[dict[str, Any]], batch: dict[str, Any]) -> None:
    tokenizer = copy_tokenizer(llama)
    tokenizer.backend_tokenizer.enable_truncation(max_length=7)
    before = (tokenizer.backend_tokenizer.to_str(), tokenizer.pad_token, copy.deepcopy(rows))
    kept = {name: tensor.clone() for name, tensor in batch.items()}
    view_mask(rows, tokenizer), view_mask([CHAT, SHORT], tokenizer), view_mask(batch, tokenizer)
    assert before == (tokenizer.backend_tokenizer.to_str(), tokenizer.pad_token, rows)
    assert all(bool((batch[name] == kept[name]).all()) for name in batch)


# ---- what the checks find is beside the row


def test_problems_stand_at_their_row_and_position(llama: Any, rows: list[dict[str, Any]]) -> None:
    doubled = {"input_ids": [128000, *rows[0]["input_ids"]], "labels": [IGNORE_INDEX, *rows[0]["labels"]]}
    everything = {"input_ids": rows[0]["input_ids"], "labels": rows[0]["input_ids"]}
    view = view_mask([*rows * 3, doubled, everything], llama)
    assert [row.number for row in view.rows if row.problems] == [9, 10]
    [double] = view.rows[9].problems
    assert (double.code, double.severity, double.start, double.end) == ("BOS003", "error", 0, 2)
    assert [problem.code for problem in view.rows[10].problems] == ["LBL004"]
    assert {finding.code for finding in view.report.findings} == {"BOS003", "LBL004"}
    assert "! error BOS003 double-bos-in-rows at 0-1" in view.to_text()
    assert "BOS003 double-bos-in-rows" in view._repr_html_()
    assert "encoding added another" in view.to_html(), "the page explains the check"


def test_more_rows_than_a_finding_keeps_are_marked(llama: Any, rows: list[dict[str, Any]]) -> None:
    bad = {"input_ids": rows[0]["input_ids"], "labels": rows[0]["input_ids"]}
    view = view_mask([bad] * 12, llama)
    assert all(row.problems for row in view.rows)


def test_a_model_lets_more_checks_look(llama: Any, make_model: Callable[..., Any]) -> None:
    row = {"input_ids": [128000, 200_000], "labels": [-100, 200_000]}
    assert "EMB002" not in {finding.code for finding in view_mask([row], llama).report.findings}
    view = view_mask([row], llama, model=make_model())
    assert [problem.code for problem in view.rows[0].problems if problem.code == "EMB002"] == ["EMB002"]


# ---- the terminal

PICTURE = """\
1 row (dataset): 57 tokens, 11 trained (19%), 10 control tokens (1 trained)
⟦trained⟧ is what the loss asks for

row 0: 57 tokens, 11 trained (19%)
               │ <|begin_of_text|>
        system │ <|start_header_id|>system<|end_header_id|>⏎⏎
               │ Cutting Knowledge Date: December 2023⏎
               │ Today Date: 26 Jul 2024⏎⏎
               │ Be brief.<|eot_id|>
          user │ <|start_header_id|>user<|end_header_id|>⏎⏎
               │ What is 龘? 🦙<|eot_id|>
     assistant │ <|start_header_id|>assistant<|end_header_id|>⏎⏎
               │ ⟦A dragon.⏎⏎
               │ Two of them fly 龘!<|eot_id|>⟧
"""


def test_the_picture_in_a_terminal(llama: Any) -> None:
    assert view_mask(CHAT, llama).to_text().startswith(PICTURE)


def test_the_docs_show_what_is_printed(llama: Any) -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "view.md").read_text(encoding="utf-8")
    [shown_there] = re.findall(r"--rows 3\n(.*?)\n```", page, re.S)
    rows = open_rows(root / "examples" / "data" / "chats.jsonl")
    printed = view_mask(rows, llama, row_numbers=[3]).to_text()
    assert printed.split("\n\nNo findings")[0] == shown_there
    assert (root / "docs" / "mask.png").read_bytes().startswith(b"\x89PNG")


def bracketed(text: str) -> str:
    """What stands in double brackets, without the gutter."""
    lines = [line.split("│ ", 1)[1] for line in text.splitlines() if "│ " in line]
    return "\n".join("".join(re.findall("⟦.*?⟧", "\n".join(lines), re.S)).replace("⟧", "").split("⟦")).strip("\n")


def test_exactly_the_trained_text_stands_in_brackets(llama: Any, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        wanted = llama.decode([i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label >= 0])
        seen = bracketed(view_mask(row, llama).to_text())
        assert re.sub("⏎+\n", lambda m: "\n" * m[0].count("⏎"), seen) == wanted


def test_training_may_begin_and_end_inside_a_line(llama: Any) -> None:
    ids = llama("one two three four five", add_special_tokens=False)["input_ids"]
    labels = [IGNORE_INDEX, *ids[1:3], IGNORE_INDEX, ids[4]]
    assert "│ one⟦ two three⟧ four⟦ five⟧\n" in view_mask({"input_ids": ids, "labels": labels}, llama).to_text()


def test_no_row_moves_the_cursor(hostile: MaskView) -> None:
    text = hostile.to_text()
    assert all(line.isprintable() for line in text.split("\n"))
    colored = hostile.to_text(color=True)
    assert "\x1b[32m" in colored
    assert re.sub(r"\x1b\[(?:\d+;)?\d+m", "", colored) == text, "color adds our own sequences alone"
    assert re.findall(r"\x1b\[[^m]*[A-HJKSTfhil]", colored) == []
    assert "\\x1b[2J" in text and "\\u202e" in text and "\\u27e6trained\\u27e7 \\u23ce" in text


def test_a_spelled_control_token_is_told_from_a_real_one(hostile: MaskView) -> None:
    lines = [line for line in hostile.to_text().split("\n") if "│ " in line and "__proto__" in line]
    assert len(lines) == 2
    assert all(
        "\\x3c|eot_id|>\\x3c|start_header_id|>assistant\\x3c|end_header_id|><|eot_id|>" in line for line in lines
    )


def test_every_color_is_switched_off_at_the_end_of_its_line(hostile: MaskView, batch: Any, llama: Any) -> None:
    faulty = {**batch, "labels": batch["input_ids"].clone()}
    for view in (hostile, view_mask(faulty, llama)):
        for line in view.to_text(color=True).split("\n"):
            switches = re.findall(r"\x1b\[[\d;]+m", line)
            assert switches[1::2] == ["\x1b[0m"] * (len(switches) // 2) and len(switches) % 2 == 0


def test_color_only_on_a_terminal(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_mask(CHAT, llama)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" not in str(view)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert "\x1b[32m" in str(view)
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in str(view)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in str(view)


def test_an_ascii_terminal_gets_ascii_marks(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ascii:
        encoding = "ascii"

    view = view_mask(SHORT, llama)
    monkeypatch.setattr(sys, "stdout", Ascii())
    text = view.to_text()
    assert text.isascii() and "[[there<|eot_id|>]]" in text


def test_what_is_left_out_is_said(llama: Any, rows: list[dict[str, Any]]) -> None:
    view = view_mask(rows * 5, llama)
    text = view.to_text(max_rows=2, max_tokens=20)
    assert text.count("\nrow ") == 2 and "... 13 more rows" in text
    left = len(rows[0]["input_ids"]) - 20
    assert f"... {left} tokens are left out ..." in text and "<|eot_id|>⟧" in text
    assert len(str(view_mask([{"input_ids": [9906] * 5000, "labels": [9906] * 5000}] * 30, llama))) < 200_000


# ---- the page and the notebook


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_holds_one_script_one_style_and_no_address(hostile: MaskView) -> None:
    page = hostile.to_html()
    tags = Tags(page)
    assert [attributes for tag, attributes in tags.tags if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {},
    ]
    assert [tag for tag, _ in tags.tags].count("style") == 1
    assert not {"img", "iframe", "svg", "link", "base", "a", "form", "object"} & {tag for tag, _ in tags.tags}
    names = {name for _, attributes in tags.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "href", "style", "srcdoc")]
    assert "://" not in page.replace("javascript://", "")
    page.encode("utf-8")


def test_the_policy_allows_the_own_script_and_style_alone(hostile: MaskView) -> None:
    page = hostile.to_html()
    [policy] = [
        attributes["content"]
        for _, attributes in Tags(page).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    directives = dict(part.strip().split(" ", 1) for part in str(policy).split(";"))
    assert directives["default-src"] == "'none'" and "unsafe" not in str(policy)
    for name, pattern in (("script-src", "<script>(.*?)</script></body>"), ("style-src", "<style>(.*?)</style>")):
        [source] = re.findall(pattern, page, re.S)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert directives[name] == f"'sha256-{digest}'"


def page_data(view: MaskView) -> tuple[str, Any]:
    [text] = re.findall('id="data">(.*?)</script>', view.to_html(), re.S)
    return text, json.loads(text)


def test_the_data_has_no_character_with_a_meaning_to_html(hostile: MaskView) -> None:
    text, data = page_data(hostile)
    assert text.isascii() and not set("<>&") & set(text)
    assert any("onerror" in turn[1] for row in data["rows"] for turn in row["turns"])


@pytest.mark.parametrize("wide", [False, True])
def test_the_data_says_what_the_rows_say(wide: bool, llama: Any, batch: dict[str, Any]) -> None:
    faulty = {**batch, "labels": batch["labels"].clone()}
    faulty["labels"][0, 5] = 77
    given: Any = faulty
    if wide:
        ids = list(range(70_000))
        given = [{"input_ids": ids, "labels": ids}]
    view = view_mask(given, llama)
    _, data = page_data(view)
    assert data["wide"] == wide
    for row, sent in zip(view.rows, data["rows"], strict=True):
        places = numpy.frombuffer(base64.b64decode(sent["tokens"]), dtype="<u4" if wide else "<u2")
        assert [data["ids"][place] for place in places] == row.input_ids.tolist()
        modes = [
            mode for mode, count in zip(sent["modes"][::2], sent["modes"][1::2], strict=True) for _ in range(count)
        ]
        assert modes == (row.trained * 1 + row.padding * 2).tolist()
        assert [tuple(turn) for turn in sent["turns"]] == list(row.turns)
    if not wide:
        assert data["rows"][0]["differing"] == {"5": 77}
    assert {data["ids"][place] for place in data["special"]} == {
        token_id for token_id, piece in view.pieces.items() if piece.is_special
    }


def test_the_notebook_needs_no_script_and_says_what_is_left_out(hostile: MaskView, llama: Any) -> None:
    output = hostile._repr_html_()
    tags = Tags(output)
    assert not {"script", "img", "iframe", "svg", "a"} & {tag for tag, _ in tags.tags}
    names = {name for _, attributes in tags.tags for name in attributes}
    assert names <= {"class", "title"}
    assert "10 more rows are left out" not in tags.words and "11 more rows are left out" in tags.words
    assert HOSTILE[0] in tags.words and "\x1b" not in output and "\u202e" not in output
    ids = [9906] * 3000
    long = Tags(view_mask({"input_ids": ids, "labels": ids}, llama)._repr_html_())
    assert [tag for tag, _ in long.tags].count("mark") == 2001, "and one in the legend"
    assert "1,000 more tokens of this row are left out" in long.words


def test_the_notebook_tells_each_token_by_its_title(llama: Any) -> None:
    view = view_mask(CHAT, llama)
    titles = [attributes["title"] for _, attributes in Tags(view._repr_html_()).tags if attributes.get("title")]
    assert len(titles) == len(view.rows[0])
    assert titles[0] == "id 128000, position 0, no role, not trained"
    assert titles[-1] == "id 128009, position 56, assistant, trained"


def test_printable_leaves_nothing_that_acts() -> None:
    for text in HOSTILE:
        assert printable(text).isprintable()
        assert not set(printable(text, keep="\n\t")) - {"\n", "\t"} & set("\x1b\u202e\u2028\x00")
    assert (
        printable("a\nb\tc", keep="\n\t") == "a\nb\tc" and printable("a\nb") == "a\\nb" and printable("é 你") == "é 你"
    )
    assert html.escape(printable("\ud800")) == "\\ud800"


# ---- the file


def test_save_writes_the_whole_page(llama: Any, tmp_path: Path) -> None:
    view = view_mask(CHAT, llama)
    path = tmp_path / "mask.html"
    path.write_text("old")
    assert view.save(path) == path and view.save(str(path)) == path
    assert path.read_text(encoding="utf-8") == view.to_html()
    link = tmp_path / "link.html"
    link.symlink_to(path)
    path.write_text("old")
    view.save(link)
    assert link.is_symlink() and path.read_text(encoding="utf-8") == view.to_html()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["link.html", "mask.html"]


def test_save_leaves_the_old_file_where_it_fails(llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_mask(CHAT, llama)
    path = tmp_path / "mask.html"
    path.write_text("old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PadfixError, match="No space left on device"):
        view.save(path)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["mask.html"]


def test_save_refuses_what_is_no_place_for_a_file(llama: Any, tmp_path: Path) -> None:
    view = view_mask(CHAT, llama)
    with pytest.raises(PadfixError, match="is a folder"):
        view.save(tmp_path)
    with pytest.raises(PadfixError, match="cannot be written: No such file or directory"):
        view.save(tmp_path / "nowhere" / "mask.html")
    view.save(os.devnull)
    assert Path(os.devnull).is_char_device()


def test_200_rows_of_4096_tokens_make_a_page_of_a_few_megabytes(llama: Any, rows: list[dict[str, Any]]) -> None:
    repeats = 4096 // len(rows[0]["input_ids"]) + 2
    ids, labels = (rows[0][name] * repeats for name in ("input_ids", "labels"))
    many = [{"input_ids": ids[at : at + 4096], "labels": labels[at : at + 4096]} for at in range(40)] * 5
    assert len(many) == 200
    page = view_mask(many, llama).to_html()
    assert "819,200 tokens" in page
    assert len(page) < 6_000_000
