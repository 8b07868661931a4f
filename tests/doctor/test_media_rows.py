"""Raw rows with images: `diagnose` and `view_mask` read them with the processor, as `prepare` does."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import datasets
import pytest

from llama_padfix import diagnose, prepare, view_mask
from tests.support.processors import WITH_PIL, make_image, make_processor, make_vision_model

ASKED = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
ANSWER = {"role": "assistant", "content": "A cat."}
LLAVA = {
    "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}],
    "image": make_image(64, 64),
}
INSIDE = {
    "messages": [{"role": "user", "content": [{"type": "image", "image": make_image()}]}, ANSWER],
}
ROWS: list[dict[str, Any]] = [
    {"messages": [ASKED, ANSWER], "images": [make_image()]},
    LLAVA,
    INSIDE,
    {"messages": [{"role": "user", "content": "Hi"}, ANSWER]},
]


@functools.cache
def ready(family: str) -> Any:
    processor = make_processor(family)
    prepare(processor, device="cpu")
    return processor


def found(report: Any, code: str) -> str:
    return "\n".join(str(finding) for finding in report.findings if finding.code == code)


@pytest.mark.parametrize("family", WITH_PIL)
def test_raw_rows_are_read_as_they_are_encoded(family: str) -> None:
    processor = ready(family)
    for report in (diagnose(processor, dataset=ROWS), diagnose(ROWS, tokenizer=processor)):
        assert {finding.code for finding in report.findings} <= {"PKG001"}  # of the installed versions
        assert "raw rows" in str(report)
    view = view_mask(ROWS, processor)
    encoded = prepare(processor, device="cpu").encode(ROWS, progress=False)
    for shown, row in zip(view.rows, encoded, strict=True):
        assert shown.labels is not None
        assert (shown.input_ids.tolist(), shown.labels.tolist()) == (row["input_ids"].tolist(), row["labels"].tolist())
    assert not view.report.findings
    assert str(view_mask(encoded, processor)) == str(view_mask(encoded, processor.tokenizer))


def test_a_dataset_of_images_a_pair_with_the_model_and_one_row() -> None:
    processor = ready("gemma3")
    features = datasets.Features({"image": datasets.Image(), "prompt": datasets.Value("string")})
    held = datasets.Dataset.from_list([{"image": make_image(), "prompt": "<image>What?"}] * 3, features=features)
    held = held.add_column("completion", ["A cat."] * 3)
    assert not found(diagnose((processor, make_vision_model("gemma3", processor)), dataset=held), "DAT001")
    assert not found(diagnose(processor, dataset={"train": ROWS, "test": ROWS[:1]}), "DAT001")
    assert "A cat." in str(view_mask(ROWS[0], processor)) and "A cat." in str(view_mask(held, processor))


def test_what_the_processor_cannot_read_is_named(tmp_path: Path) -> None:
    processor = ready("mllama")
    (tmp_path / "broken.png").write_bytes(b"no image")
    wrong: list[dict[str, Any]] = [
        {"messages": [ASKED, ANSWER], "images": [str(tmp_path / "broken.png")]},
        {"messages": [ASKED, ANSWER]},
        {"messages": [{"role": "user", "content": [{"type": "video", "video": [make_image()]}]}, ANSWER]},
    ]
    [finding] = [one for one in diagnose(processor, dataset=[*ROWS, *wrong]).findings if one.code == "DAT001"]
    assert finding.message.startswith("3 of 7 rows (dataset) cannot be read, the first is row 4: image 0 is ")
    said = {place.row: str(place) for place in finding.evidence}
    assert "which is no image that can be read here" in said[4]
    assert "the row has 0 of kind image in its columns and 1 places" in said[5]
    assert "video 0 is of kind video, and MllamaProcessor reads image only" in said[6]
    drawn = str(view_mask([*ROWS, *wrong], processor))
    assert drawn.count("not encoded") == 3 and "no image that can be read" in drawn


def test_a_processor_whose_tokenizer_has_no_template() -> None:
    processor = make_processor("gemma3")
    processor.chat_template, processor.tokenizer.chat_template = processor.chat_template, None
    assert not found(diagnose(processor, dataset=ROWS), "DAT001")
    assert "A cat." in str(view_mask(ROWS[:1], processor))


@pytest.mark.parametrize("row", [ROWS[0], LLAVA, INSIDE], ids=["column", "llava", "inside"])
def test_a_tokenizer_alone_gets_one_line_that_names_the_processor(row: dict[str, Any]) -> None:
    tokenizer = ready("gemma3").tokenizer
    line = "The model's processor reads it: pass that in the tokenizer's place, as in prepare(processor, model) or"
    assert line in found(diagnose(tokenizer, dataset=[row]), "DAT001")
    assert line in str(view_mask([row], tokenizer))
