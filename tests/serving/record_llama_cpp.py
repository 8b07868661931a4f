"""Writes `recorded_llama_cpp.json`: what llama-server's compiled chat layer makes of the pairs.

    python -m tests.serving.record_llama_cpp LAYER

LAYER is what `tests/serving/compiled/build.py` builds. Of each pair the hash of the text is kept, its dates replaced.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from llama_padfix.serving.rendering.chat import Chat
from tests.serving.compiled.build import PACKAGE
from tests.serving.engine_chats import TOKENS, pairs, short_hash

FILE = Path(__file__).with_name("recorded_llama_cpp.json")
_FORMATS = ("%d %b %Y", "%b %d %Y", "%Y-%m-%d", "%d %B %Y", "%B %d, %Y")


class Layer:
    """The compiled layer in a process."""

    def __init__(self, program: str) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([program], stdin=pipe, stdout=pipe, encoding="utf-8")

    def __enter__(self) -> Layer:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()

    def render(self, chat: Chat) -> dict[str, Any]:
        """Return `prompt` or `error`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {"source": chat.source, "bos": TOKENS["bos_token"], "eos": TOKENS["eos_token"]}
        line = json.dumps({**request, "messages": list(chat.messages), "tools": chat.tools})
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def without_dates(text: str, day: datetime.date) -> str:
    """Return a text with the forms of a day replaced."""
    for form in _FORMATS:
        text = text.replace(day.strftime(form), form)
    return text


def main(program: str) -> None:
    today, recorded = datetime.date.today(), dict[str, str]()
    with Layer(program) as layer:
        for name, chat in pairs():
            answer = layer.render(chat)
            prompt = answer.get("prompt")
            recorded[name] = (
                f"error: {answer['error']}" if prompt is None else short_hash(without_dates(prompt, today))
            )
    document = {"made by": "python -m tests.serving.record_llama_cpp", "versions": PACKAGE, "texts": recorded}
    FILE.write_text(json.dumps(document, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
