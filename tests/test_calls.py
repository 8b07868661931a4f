"""Calls go down the list of rooms: following one through the package never leads back up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import llama_padfix
from llama_padfix import PadCollator, diagnose, prepare

ORDER = ("core", "tokens hardware", "chat", "encoding", "doctor", "view", "serving", "training")
FLOORS = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms.split()}
ROOT = Path(llama_padfix.__file__).parent


def name_place(frame: FrameType | None) -> tuple[str, str]:
    """Return the room and the name of the nearest function of the package; ("", "") for none."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in FLOORS:
            return path.relative_to(ROOT).parts[0], f"{path.relative_to(ROOT)}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "", ""


def follow(work: Callable[[], object]) -> tuple[list[str], set[str]]:
    """Return the rooms that a call enters, in the order of their first call, and the calls that lead up."""
    rooms: dict[str, None] = {}
    climbs = set()

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT)):
            (room, name), (caller_room, caller) = name_place(frame), name_place(frame.f_back)
            if room:
                rooms.setdefault(room)
                if caller_room and FLOORS[room] > FLOORS[caller_room]:
                    climbs.add(f"{caller} -> {name}")

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return list(rooms), climbs


CHATS = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}."}]} for n in range(20)
]


def test_prepare_and_encode_go_down(tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = make_model(hidden_size=8)
    rooms, climbs = follow(lambda: prepare(tokenizer, model).encode(CHATS, progress=False))
    assert not climbs
    assert rooms[0] == "training" and {"doctor", "encoding", "chat", "tokens"} < set(rooms)
    assert not {"view", "serving"} & set(rooms)


def test_serving_is_asked_by_training_and_asks_down(tokenizer: Any) -> None:
    rooms, climbs = follow(lambda: prepare(tokenizer, serve_with="vllm").encode(CHATS[:2], progress=False))
    assert not any("-> training/" in climb for climb in climbs) and "serving" in rooms


def test_diagnose_goes_down(tokenizer: Any, make_model: Callable[..., Any], tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    rows = [{"input_ids": [128000, 9906, 128009], "labels": [-100, 9906, 128009]}] * 4
    trainer = Trainer(make_model(hidden_size=8), arguments, PadCollator(128001), rows, processing_class=tokenizer)
    rooms, climbs = follow(lambda: diagnose(trainer))
    assert not climbs
    assert rooms[0] == "doctor" and not {"view", "training"} & set(rooms)


def test_a_call_that_leads_up_is_seen(tokenizer: Any) -> None:
    namespace: dict[str, Any] = {"diagnose": diagnose}
    exec(compile("def up(tokenizer): diagnose(tokenizer)", str(ROOT / "core" / "planted.py"), "exec"), namespace)
    _, climbs = follow(lambda: namespace["up"](tokenizer))
    assert any(climb.startswith("core/planted.py:up -> doctor/diagnose.py") for climb in climbs)
