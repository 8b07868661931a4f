"""What files cannot do, as the lines of a server's command line or Modelfile."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_padfix.serving.folder import ServedFolder
    from llama_padfix.serving.report import ServingReport


def list_commands(
    report: ServingReport, folder: ServedFolder, ends: Mapping[int, int], kwargs: Mapping[str, object]
) -> Iterator[str]:
    """Yield a line for each thing that is left to the start of a server.

    Args:
        report: The comparison of the copy.
        folder: The copy.
        ends: The ids with which trained turns end.
        kwargs: The arguments of the template in the training.
    """
    names = folder.name_ids(sorted(ends))
    own = folder.tokenizer_config.get("eos_token")
    others = [name for name in names if name != (own.get("content") if isinstance(own, dict) else own)]
    for engine in report.engines:
        if engine.name == "mlx-lm" and "thinking switch" in engine.causes:
            thinks = {"enable_thinking": bool(kwargs.get("enable_thinking", False))}
            yield f"mlx_lm.server --model OUT --chat-template-args {shlex.quote(json.dumps(thinks))}"
        if engine.name == "ollama":
            yield from (f"Modelfile: PARAMETER stop {json.dumps(name, ensure_ascii=False)}" for name in names)
        if engine.name == "llama.cpp":
            yield from (f"llama-server --reverse-prompt {shlex.quote(name)}" for name in others)
