"""TRL's chat templates beside their training variants, as an oracle, and nasty conversations for them."""

from __future__ import annotations

import copy
import functools
import json
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trl

from llama_padfix.chat.turns import read_template
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.encoder import ChatEncoder
from tests.conftest import fresh_tokenizer
from tests.support.conversations import _TOOLS, Message, say

FOLDER = Path(trl.__file__).parent / "chat_templates"
PARTS_ONLY = ("idefics3", "smolvlm", "llava_next")  # these read content as a list of parts and nothing else
_CONTROL = re.compile(
    r"<[|｜][^<>|｜\s]{1,40}[|｜]>|<[|｜][a-z_]+>|<[a-z_]+[|｜]>|<(?:start|end)_of_\w+>|</?s>|\[/?[A-Z_]{4,20}\]"
)
_SOFT = re.compile(r"</?(?:think|tool_call|tool_response|arg_key|arg_value)>")


def originals() -> list[Path]:
    return [path for path in sorted(FOLDER.glob("*.jinja")) if not path.stem.endswith("_training")]


@functools.cache
def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def training_of(path: Path) -> Path | None:
    found = path.with_name(f"{path.stem}_training.jinja")
    return found if found.exists() else None


@functools.cache
def family_tokenizer(path: Path) -> Any:
    """Llama's tokenizer with the template and its control tokens; think and tool tags are ordinary added tokens."""
    tokenizer = fresh_tokenizer("3.1-instruct")
    source = path.read_text(encoding="utf-8")
    controls = sorted(set(_CONTROL.findall(source)))
    if controls:
        tokenizer.add_special_tokens({"additional_special_tokens": controls})
    tokenizer.add_tokens(sorted(set(_SOFT.findall(source))))
    tokenizer.chat_template = source
    for eos in (
        "<|im_end|>",
        "<｜end▁of▁sentence｜>",
        "<|return|>",
        "<end_of_turn>",
        "<turn|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|endoftext|>",
        "</s>",
        "<end_of_utterance>",
    ):
        if eos in controls or (eos == "<|endoftext|>" and "phi" in path.stem):
            tokenizer.add_special_tokens({"eos_token": eos})
            break
    return tokenizer


@functools.cache
def family_encoder(path: Path) -> ChatEncoder:
    return ChatEncoder(family_tokenizer(path))


@functools.cache
def family_prompt(path: Path) -> str:
    return read_template(family_tokenizer(path)).profile.prompt or pytest.fail("unread")


def make_nasty(rng: random.Random, stem: str = "") -> dict[str, Any]:
    """A row that real data holds: thoughts, calls, late systems, empty and blank answers, answers in a row."""
    parts = stem in PARTS_ONLY

    def content(text: str) -> Any:
        return [{"type": "text", "text": text}] if parts else text

    def think(text: str) -> Message:
        kind = rng.random()
        if kind < 0.15:
            return {"role": "assistant", "content": content(f"<think>\n{say(rng)}\n</think>\n\n{text}")}
        if kind < 0.3:
            return {"role": "assistant", "content": content(text), "reasoning_content": say(rng)}
        return {"role": "assistant", "content": content(text)}

    messages: list[Message] = []
    if rng.random() < 0.3:
        messages.append({"role": "system", "content": content(say(rng))})
    if rng.random() < 0.04:
        messages.append(think(say(rng)))
    tools = rng.random() < 0.3 and not parts
    for _ in range(rng.choice((1, 1, 2, 3))):
        messages.append({"role": "user", "content": content(say(rng))})
        if tools and rng.random() < 0.7:
            arguments: Any = {"city": rng.choice(("Zürich", "東京", "<b>")), "days": rng.randint(1, 9)}
            if rng.random() < 0.3:
                arguments = json.dumps(arguments)
            call = {"type": "function", "id": "abcdefghi", "function": {"name": "get_weather", "arguments": arguments}}
            calls = [copy.deepcopy(call) for _ in range(rng.choice((1, 1, 2)))]
            message = think(rng.choice(("", "Let me look.", say(rng)))) | {"tool_calls": calls}
            messages.append(message)
            messages += [
                {"role": "tool", "content": say(rng), "name": "get_weather", "tool_call_id": "abcdefghi"}
                for _ in calls
            ]
            if rng.random() < 0.1:
                continue
        messages.append(think(say(rng)))
        if rng.random() < 0.06:
            messages.append(think(say(rng)))
    if rng.random() < 0.15:
        messages.append({"role": "user", "content": content(say(rng))})
    return {"messages": messages, **({"tools": _TOOLS} if tools and rng.random() < 0.7 else {})}


@dataclass
class Outcome:
    """What became of a row that is compared with the oracle.

    `kind`: unaccepted (the template raises), refused (by us), answered (there is no oracle), incomparable (the oracle
    writes another text), same, space (white space behind the stop token apart), documented (the oracle's fault) or
    differs.
    """

    kind: str
    detail: str = ""
    pieces: list[tuple[int, str]] = field(default_factory=list)


def compare(path: Path, row: dict[str, Any]) -> Outcome:
    """Encode a row with the original and compare with the mask of the training variant."""
    tokenizer, training = family_tokenizer(path), training_of(path)
    messages, tools = row["messages"], row.get("tools")
    try:
        made = family_encoder(path)(row)
    except PadfixError as refusal:
        try:
            text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
            text.encode()
        except Exception as error:
            return Outcome("unaccepted", f"{type(error).__name__}: {error}")
        return Outcome("refused", str(refusal))
    if training is None:
        return Outcome("answered")
    try:
        oracle = tokenizer.apply_chat_template(
            messages,
            tools=tools,
            chat_template=read(training),
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
    except Exception as error:
        return Outcome("incomparable", f"{type(error).__name__}: {error}")
    ids = made["input_ids"]
    if oracle["input_ids"] != ids:
        return Outcome("incomparable", "other ids")
    mine = [int(label != IGNORE_INDEX) for label in made["labels"]]
    theirs = oracle["assistant_masks"]
    if mine == theirs:
        return Outcome("same")
    pieces: list[tuple[int, str]] = []
    run: list[int] = []
    state = 0
    for token, one, two in [*zip(ids, theirs, mine, strict=True), (0, -1, -1)]:
        if run and one + 2 * two != state:
            pieces.append((state, tokenizer.decode(run)))
            run = []
        state = one + 2 * two
        run.append(token)
    extra = sorted({("theirs: ", "ours: ")[code - 1] + repr(piece)[:60] for code, piece in pieces if code in (1, 2)})
    if all(code in (0, 3) or (code == 1 and not piece.strip()) for code, piece in pieces):
        return Outcome("space", pieces=pieces)  # policy: white space behind the stop token is not trained
    excused = all(code in (0, 3) or _is_excused(path, pieces, place) for place, (code, _) in enumerate(pieces))
    return Outcome("documented" if excused else "differs", "; ".join(extra), pieces)


# What TRL's variants train behind a family's stop token: Phi's end of text, which is written once at the end of a
# conversation, and the header with which GLM's next message begins.
_BEHIND = {"phi3": "<|endoftext|>", "phi3_5": "<|endoftext|>"}
# What the generation prompt after a tool's answer supplies, and TRL's variant trains.
_BEFORE = {"deepseek_r1_distill": "<｜tool▁outputs▁end｜>"}
_NEXT_HEADERS = {"glm4moe": ("<|user|>", "<|observation|>")}


def _is_excused(path: Path, pieces: list[tuple[int, str]], place: int) -> bool:
    """Tell whether a disagreement is the oracle's fault, or a policy that it does not share."""
    code, piece = pieces[place]
    before = "".join(text for _, text in pieces[:place])
    if code == 2:
        # Its mask knows only the first token of a last character that is several tokens, and leaves out the token
        # with which Gemma 4 stops to hear the tool.
        hears = path.stem.startswith(("gemma4", "diffusion_gemma")) and before.endswith("<tool_call|>")
        return set(piece) == {"\ufffd"} or (hears and piece == "<|tool_response>")
    bare = piece.strip()
    if not before:
        return True  # position 0, which is never trained
    if bare in (_BEHIND.get(path.stem), _BEFORE.get(path.stem)) or bare in _NEXT_HEADERS.get(path.stem, ()):
        return True
    # It trains what the generation prompt supplies, a header or a thought that it opens, with the line breaks that
    # melt into one token with it.
    if not bare:
        return True
    opened, found, _ = family_prompt(path).partition(bare)
    return bool(found and before.rstrip().endswith(opened.rstrip()))
