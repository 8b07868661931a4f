"""Kills one process in the middle of its work; Python imports this by itself where the folder is on its path.

The first process that has encoded its KILL_AT-th table is gone before it hands it over; then the file KILLED exists.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from llama_padfix.encoding.encoder import ChatEncoder

encode_chunk = ChatEncoder.encode_chunk
tables = 0


def die_once(encoder: ChatEncoder, *arguments: Any, **keywords: Any) -> Any:
    global tables
    encoded = encode_chunk(encoder, *arguments, **keywords)
    tables += 1
    if tables == int(os.environ["KILL_AT"]):
        try:
            Path(os.environ["KILLED"]).touch(exist_ok=False)
        except FileExistsError:
            return encoded
        os.kill(os.getpid(), signal.SIGKILL)
    return encoded


if "KILLED" in os.environ:
    ChatEncoder.encode_chunk = die_once  # type: ignore[method-assign, assignment]
