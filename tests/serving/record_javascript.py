"""Writes `recorded_javascript.json`: what @huggingface/jinja makes of the pairs, and how JavaScript writes numbers.

    LLAMA_PADFIX_NODE_MODULES=FOLDER python -m tests.serving.record_javascript

FOLDER holds the packages that `llama-padfix serving` names. Of each pair the hash of the text is kept, or the error.
"""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from llama_padfix.serving.engines.javascript.bridge import open_bridge
from llama_padfix.serving.engines.transformers_js import JINJA, PACKAGES, TOKENIZERS, JavaScriptClient
from llama_padfix.serving.rendering.chat import RenderRefusedError
from tests.serving.engine_chats import TOKENS, pairs, short_hash

FILE = Path(__file__).with_name("recorded_javascript.json")
DAY = datetime.date(2026, 7, 4)
NUMBERS = [
    *(
        0.1,
        -0.5,
        1.5,
        1e-05,
        1e-06,
        1e-07,
        1.25e-07,
        123456.789,
        1e15,
        1e20,
        1.5e20,
        1e21,
        1e22,
        1.7976931348623157e308,
    ),
    *(5e-324, 0.30000000000000004, 2.0**60, 2.0**53 + 2, -1e-07, 1e16, 12345678901234567890.0, 1 / 3),
]


def main() -> None:
    bridge = open_bridge(PACKAGES, never_in=Path(__file__).parent)
    client = JavaScriptClient(bridge, Path(__file__), {"bos_token": TOKENS["bos_token"], **TOKENS})
    recorded: dict[str, str] = {}
    for name, chat in pairs():
        try:
            recorded[name] = short_hash(client.render(replace(chat, day=DAY)))
        except RenderRefusedError as error:
            recorded[name] = f"error: {error}"
    versions = bridge.ask("versions", names=[JINJA, TOKENIZERS])
    bridge.close()
    node = shutil.which("node") or "node"
    program = f"console.log(JSON.stringify({json.dumps(NUMBERS)}.map(String)))"
    written = subprocess.run([node, "-e", program], capture_output=True, text=True, check=True).stdout
    numbers = dict(zip(map(repr, NUMBERS), json.loads(written), strict=True))
    document = {"made by": "python -m tests.serving.record_javascript", "versions": versions}
    FILE.write_text(json.dumps({**document, "numbers": numbers, "texts": recorded}, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
