"""Rows with images through the processors of six families: ids, labels, batches, and what is refused."""

from __future__ import annotations

import base64
import io
import pickle
import random
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from llama_padfix import PadfixError, prepare
from llama_padfix.encoding.media.parts import read_media_row
from llama_padfix.encoding.media.processor import MediaReader
from llama_padfix.training.prepare import Prepared
from tests.support.conversations import say, trained_runs
from tests.support.processors import (
    ENCODED_WITH_PIL,
    ENCODED_WITH_TORCHVISION,
    LEADS,
    STOPS,
    WITH_PIL,
    WITH_TORCHVISION,
    make_image,
    make_processor,
)

FAMILIES = (*WITH_PIL, *WITH_TORCHVISION)
Row = dict[str, Any]


def text(words: str) -> Row:
    return {"type": "text", "text": words}


def ask(*content: Any, answer: Any = "A cat.") -> Row:
    return {"messages": [{"role": "user", "content": [*content]}, {"role": "assistant", "content": answer}]}


def make_row(rng: random.Random) -> tuple[Row, list[str]]:
    """A conversation with images of all sizes in its questions, and its answers."""
    messages, answers = [], []
    for turn in range(rng.choice((1, 2, 3))):
        size = rng.choice(((40, 30), (64, 64), (100, 20), (17, 90)))
        parts = [{"type": "image", "image": make_image(*size, seed=turn)} for _ in range(rng.choice((1, 1, 2)))]
        words = text(
            re.sub(r"[<>\[\]]", "", say(rng))
        )  # without control tokens, which the processor itself would take
        parts = [*parts, words] if turn == 0 else [words, *parts[: rng.choice((0, 1))]]
        answers.append(rng.choice(("Yes.", "It is\na cat", f"No {turn}!")))
        messages += [{"role": "user", "content": parts}, {"role": "assistant", "content": answers[-1]}]
    return {"messages": messages}, answers


def ready(family: str, **settings: Any) -> tuple[Any, Prepared]:
    processor = make_processor(family)
    return processor, prepare(processor, device="cpu", **settings)


@pytest.mark.parametrize("family", [*FAMILIES, *ENCODED_WITH_PIL, *ENCODED_WITH_TORCHVISION])
def test_ids_labels_and_batches_are_those_of_the_processor_and_of_the_text(family: str) -> None:
    processor, prepared = ready(family)
    rng = random.Random(7)
    rows, answers = zip(*(make_row(rng) for _ in range(4)), strict=True)
    encoded = prepared.encode(list(rows), progress=False)
    decode = processor.tokenizer.decode
    for row, said in zip(encoded, answers, strict=True):
        assert [decode(run) for run in trained_runs(row["labels"].tolist())] == [
            LEADS.get(family, "") + answer + STOPS[family] for answer in said
        ]
    batch = prepared.collator([encoded[place] for place in range(len(encoded))])
    as_text = [[_as_template_reads(message, family) for message in row["messages"]] for row in rows]
    own = processor.apply_chat_template(
        as_text,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "right"},
    )
    for name in {*own, *batch} - {"labels"}:
        assert torch.equal(own[name], batch[name]), name
    assert batch["labels"].shape == batch["input_ids"].shape
    assert [row["media_counts"].tolist()[0] for row in encoded] == [_count_images(row) for row in rows]


def _as_template_reads(message: Row, family: str) -> Row:
    if family == "pixtral" or isinstance(message["content"], list):
        return message
    return {**message, "content": [text(message["content"])]}


def _count_images(row: Row) -> int:
    return sum(part["type"] == "image" for message in row["messages"][::2] for part in message["content"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_spelled_placeholder_is_text(family: str) -> None:
    processor, prepared = ready(family)
    token = MediaReader(processor).tokens["image"]
    plain = ask({"type": "image", "image": make_image()}, text("What is  ?"))
    spelled = ask({"type": "image", "image": make_image()}, text(f"What is {token} ?"))
    encoded = prepared.encode([plain, spelled], progress=False)
    counts = [row["input_ids"].tolist().count(processor.tokenizer.convert_tokens_to_ids(token)) for row in encoded]
    assert counts[0] == counts[1] > 0
    assert prepared.counts.escaped == 1
    assert prepared.collator([encoded[1], encoded[0]])["labels"].shape[0] == 2


@pytest.mark.parametrize("family", WITH_PIL)
def test_what_is_cut_takes_its_images_along(family: str) -> None:
    _, whole = ready(family)
    first = ask({"type": "image", "image": make_image()}, text("What?"))
    row = {"messages": [*first["messages"], *ask({"type": "image", "image": make_image(64, 64)})["messages"]]}
    full = whole.encode([row], progress=False)[0]
    _, prepared = ready(family, max_length=len(full["input_ids"]) - 5)
    cut = prepared.encode([row, first], progress=False)
    assert prepared.counts.cut == 1
    assert cut[0]["media_counts"].tolist()[0] < full["media_counts"].tolist()[0]
    assert cut[0]["media_counts"].tolist()[0] == len(cut[0]["images"])
    batch = prepared.collator([cut[0]])
    assert batch["labels"][0, -1] != -100
    _, tight = ready(family, max_length=8)
    with pytest.raises(PadfixError, match="1 dropped whose first trained turn does not fit"):
        tight.encode([row], progress=False)
    with pytest.raises(PadfixError, match="half an image is none"):
        ready(family, max_length=8, truncation="tokens")


def forms() -> dict[str, Row]:
    """One question about one image in every form that is read."""
    image = make_image()
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    question, answer = text("What?"), "A cat."
    said = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": answer}]
    plain = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": answer}]
    return {
        "part": ask({"type": "image", "image": image}, question),
        "Qwen": ask({"image": image}, {"text": "What?"}),
        "filled by Arrow": ask({"type": "image", "image": image, "text": None}, {**question, "image": None}),
        "bytes": ask({"type": "image", "image": {"bytes": buffer.getvalue(), "path": None}}, question),
        "OpenAI": ask({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}, question),
        "base64": ask({"type": "image", "base64": encoded}, question),
        "images": ask({"type": "image"}, question) | {"images": [image]},
        "LLaVA": {"conversations": said, "image": image},
        "LLaVA, several": {"conversations": said, "images": [image]},
        "TRL": {"messages": plain, "images": [image]},
        "prompt": {"prompt": [plain[0]], "completion": [plain[1]], "image": image},
        "texts": {"prompt": "<image>What?", "completion": answer, "image": image},
        "alpaca": {"instruction": "<image>What?", "output": answer, "image": image},
    }


def test_every_form_of_a_row_gives_the_same(tmp_path: Path) -> None:
    _, prepared = ready("mllama")
    make_image().save(tmp_path / "one.png")
    rows = forms() | {"path": ask({"type": "image", "path": str(tmp_path / "one.png")}, text("What?"))}
    encoded = prepared.encode([*rows.values()], progress=False)
    for name, row in zip(rows, encoded, strict=True):
        assert row["input_ids"].tolist() == encoded[0]["input_ids"].tolist(), name
    pixels = prepared.collator([*encoded])["pixel_values"]
    assert (pixels == pixels[:1]).all()


REFUSED = {
    "the row has 2 of kind image in its columns and 1 places": {**forms()["images"], "images": [make_image()] * 2},
    "the row has 0 of kind image in its columns and 1 places": ask({"type": "image"}, text("What?")),
    "the row has image and images": {**forms()["images"], "image": make_image()},
    "nothing is fetched from a network": ask({"type": "image", "url": "https://example.com/cat.png"}),
    "is no image that can be read here": ask({"type": "image", "path": "nowhere/cat.png"}, text("What?")),
    "of kind video, and MllamaProcessor reads image only": ask({"type": "video", "video": [make_image()]}),
    "message 1 is the assistant's and holds an image": {
        "messages": [
            {"role": "user", "content": "Draw"},
            {"role": "assistant", "content": [{"type": "image", "image": make_image()}]},
        ]
    },
    "spells the private mark": ask(
        {"type": "image", "image": make_image()}, text("\U0010fffdllama-padfix medium 0\U0010fffc")
    ),
    "plain text and media": {"text": "A text", "image": make_image()},
    "no assistant message": {"messages": [{"role": "user", "content": [{"type": "image", "image": make_image()}]}]},
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_row_that_cannot_be_right_is_refused_and_dropped_on_request(words: str) -> None:
    _, prepared = ready("mllama")
    with pytest.raises(PadfixError, match=words) as caught:
        prepared.encode([forms()["part"], REFUSED[words]], progress=False)
    assert str(caught.value).startswith("row 1: ")
    _, dropping = ready("mllama", on_error="drop")
    assert len(dropping.encode([REFUSED[words], forms()["part"]], progress=False)) == 1
    assert dropping.counts.dropped == 1


def test_datasets_keep_their_columns_and_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, prepared = ready("gemma3", on_error="drop")
    rows = [ask({"type": "image"}, answer=[text("A cat.")]) | {"images": [make_image()], "id": n} for n in range(5)]
    rows[2]["messages"] = rows[2]["messages"][:1]  # nobody answers
    images = datasets.Features({"images": [datasets.Image()]})
    held = datasets.Dataset.from_list([{"images": row.pop("images")} for row in rows], features=images)
    held = datasets.concatenate_datasets([held, datasets.Dataset.from_list(rows)], axis=1).shuffle(seed=1)
    parts = prepared.encode(datasets.DatasetDict(train=held, test=held.select([0])), progress=False)
    encoded = parts["train"]
    assert encoded.with_format(None)["id"][:] == [number for number in held["id"] if number != 2]
    assert prepared.counts.dropped_untrained in (1, 2)
    assert "messages" not in encoded.column_names  # of which TRL would make ids and labels of its own
    inside = datasets.Dataset.from_list([{"messages": ask({"type": "image", "path": "cat.png"})["messages"][:1]}])
    make_image().save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    answered = inside.map(lambda row: {"messages": [*row["messages"], {"role": "assistant", "content": [text("A")]}]})
    kept = prepared.encode(answered, progress=False)
    assert "messages" in kept.column_names
    assert prepared.collator([kept[0]])["pixel_values"].shape == (1, 3, 28, 28)
    batch = prepared.collator([encoded[place] for place in range(4)])
    assert batch["pixel_values"].shape == (4, 3, 28, 28)
    streamed = list(prepared.encode(held.to_iterable_dataset()))
    assert [row["id"] for row in streamed] == encoded.with_format(None)["id"][:]
    again = prepared.collator(streamed)
    assert all(torch.equal(again[name], batch[name]) for name in batch)


def test_a_batch_of_text_a_lost_image_and_another_image() -> None:
    _, prepared = ready("gemma3")
    collator = pickle.loads(pickle.dumps(prepared.collator))
    hello = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    encoded = prepared.encode([{"messages": hello}, forms()["images"]], progress=False)
    assert "pixel_values" not in collator([encoded[0]])
    mixed = collator([encoded[0], encoded[1]])
    assert mixed["pixel_values"].shape[0] == 1
    with pytest.raises(PadfixError, match="has 1 tokens <start_of_image>, and its images now need 2"):
        collator([{**encoded[1], "images": [make_image()] * 2, "media_counts": [2, 0, 0]}])
    with pytest.raises(PadfixError, match="has no media_counts"):
        collator([{name: encoded[1][name] for name in ("input_ids", "labels", "images")}])
    for setting in ({"packing": True, "max_length": 64}, {"group_by_length": True}, {"task": "dpo"}):
        with pytest.raises(PadfixError, match="arrange rows of text, and those of a processor have media"):
            ready("gemma3", **setting)


def test_an_image_that_was_turned_in_its_file_has_the_size_that_is_shown() -> None:
    pytest.importorskip("torchvision")
    _, prepared = ready("qwen2_5_vl")
    image, buffer = make_image(100, 30), io.BytesIO()
    turned = image.getexif()
    turned[0x0112] = 6
    image.save(buffer, "PNG", exif=turned)
    row = ask({"type": "image", "image": {"bytes": buffer.getvalue()}}, text("What?"))
    encoded = prepared.encode([row], progress=False)
    grid = prepared.collator([*encoded])["image_grid_thw"]
    assert grid[0, 1] > grid[0, 2]


def sound(samples: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def video(frames: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (frames, 56, 56, 3), dtype=np.uint8)


@pytest.mark.parametrize("family", ["qwen2_audio", "qwen2_5_vl", "qwen3_vl"])
def test_sounds_and_videos_are_those_of_the_processor(family: str) -> None:
    processor, prepared = ready(family)
    kind, make = ("audio", sound) if family == "qwen2_audio" else ("video", video)
    first, second, third = ({"type": kind, kind: make(size, size)} for size in (8, 4, 6))
    if kind == "audio":
        first, second, third = ({"type": kind, kind: make(size)} for size in (16000, 9000, 5000))
    image = [] if kind == "audio" else [{"type": "image", "image": make_image()}]
    rows = [
        ask(first, text("What?"), answer=[text("A dog.")]),
        ask(*image, second, text("And?"), third, answer=[text("No")]),
    ]
    encoded = prepared.encode(rows, progress=False)
    batch = prepared.collator([*encoded])
    own = processor.apply_chat_template(
        [row["messages"] for row in rows],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "right"},
    )
    for name in {*own, *batch} - {"labels"}:
        assert torch.equal(torch.as_tensor(own[name]), batch[name]), name
    ends = [run for row in encoded for run in trained_runs(row["labels"].tolist())]
    assert [processor.tokenizer.decode(run) for run in ends] == ["A dog.<|im_end|>", "No<|im_end|>"]


def test_a_sound_comes_at_the_rate_of_the_processor() -> None:
    _, prepared = ready("qwen2_audio")
    good = ask({"type": "audio"}, text("What?")) | {"audio": {"array": sound(16000), "sampling_rate": 16000}}
    assert prepared.encode([good], progress=False)[0]["media_counts"].tolist() == [0, 0, 1]
    for value, words in (
        ({"array": sound(800), "sampling_rate": 8000}, "has 8000 samples a second, and the processor takes 16000"),
        ("sound.wav", "which holds no samples"),
    ):
        with pytest.raises(PadfixError, match=words):
            prepared.encode([{**good, "audio": value}], progress=False)


def test_an_empty_text_part_stays() -> None:
    found, media = read_media_row(ask({"type": "image", "image": make_image()}, text("")))
    assert found.messages is not None
    assert found.messages[0]["content"] == [{"type": "image"}, text("")]
    assert len(media) == 1
