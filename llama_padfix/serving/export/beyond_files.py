"""What files cannot do: the differences that are left, and lines for a server's command line, request or Modelfile."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_padfix.serving.export.template import SavedTemplate
    from llama_padfix.serving.folder import ServedFolder
    from llama_padfix.serving.report import ServingReport

_TRAINED = "in transformers too; train on rows that the template writes as it does before a generated answer"
BEYOND: Mapping[str, str] = MappingProxyType(
    {
        "arguments": "rows have different arguments of the template: pass theirs with each request",
        "thinking switch": "the server passes the switch itself: start it with the setting of the training",
        "content parts": "the server joins or splits content before the template: send it in the form of the training",
        "call arguments": "the server reads the arguments of calls again: train on arguments as objects",
        "message keys": "the server leaves keys of messages out before the template",
        "tools": "the server types tools again: train on tools as it writes them",
        "roles": "the server renames a role: train on `system` in place of `developer`",
        "thought key": "the server or version passes a thought under another key: send it under the one that is read",
        "null key": "null keys reach the template: leave them out of requests",
        "rewritten source": "the server replaces texts in the template",
        "numbers": "the server keeps another form of numbers: 1.0 is 1, or 1e-05 is 0.00001",
        "key order": "the server reorders keys that are numbers: begin them with a letter",
        "printed values": "the template prints a list, an object or null, which engines print differently: send texts",
        "filter operand": "the template trims a list or null, which the engine refuses: send texts",
        "white space": "the engine trims other blanks (no-break, ideographic, control): strip texts first",
        "comparisons": "the engine compares values of two types otherwise: send texts, and no empty values",
        "escaped JSON": "`tojson` is called in a form that is not rewritten",
        "iterable null": "null counts as iterable in a form that is not rewritten: leave null keys out of requests",
        "does not run": "the engine lacks what the template uses, or refuses the conversation; SRV007 has its message",
        "refused": f"the template refuses the conversation up to there, {_TRAINED}",
        "earlier turns": f"the template writes earlier turns otherwise while an answer is generated, {_TRAINED}",
        "generation prompt": f"the generation prompt is not what stands before the trained answer, {_TRAINED}",
        "BOS": "the server adds a BOS by itself, or none",
        "spelled control token": "a message spells a control token: remove such texts before they are sent",
        "token edge": "the prompt ends inside of a token",
        "encoding": "the engine reads no flags of added tokens and no normalizer: send texts in the form NFC",
    }
)
"""Each cause that a copy may keep, with why and what to do. Others are gone in a copy."""


def list_beyond(report: ServingReport) -> Iterator[str]:
    """Yield a line for each engine and each cause that is left in a copy.

    Args:
        report: The comparison of the copy.
    """
    for engine in report.engines:
        for cause, count in engine.causes.items():
            if cause in BEYOND:
                yield f"{engine.name}: {cause}, {count} of {engine.points} points: {BEYOND[cause]}"


def list_commands(
    report: ServingReport, folder: ServedFolder, ends: Mapping[int, int], saved: SavedTemplate
) -> Iterator[str]:
    """Yield a line for each thing that is left to the start of a server, or to its requests.

    Args:
        report: The comparison of the copy.
        folder: The copy.
        ends: The ids with which trained turns end.
        saved: The template of the copy, with the arguments of the training.
    """
    names = folder.name_ids(sorted(ends))
    own = folder.tokenizer_config.get("eos_token")
    others = [name for name in names if name != (own.get("content") if isinstance(own, dict) else own)]
    thinks = shlex.quote(json.dumps({"enable_thinking": saved.thinks})) if saved.thinks is not None else ""
    for engine in report.engines:
        if "thinking switch" in engine.causes and thinks:
            yield f"{_SWITCHES[engine.name]} {thinks}"
        if engine.name == "ollama":
            yield from (f"Modelfile: PARAMETER stop {json.dumps(name, ensure_ascii=False)}" for name in names)
        if engine.name == "llama.cpp":
            yield from (f"llama-server --reverse-prompt {shlex.quote(name)}" for name in others)
    for arguments, count in saved.requests:
        given = json.dumps(dict(arguments), ensure_ascii=False, default=str)
        yield f'requests like {count} rows: "chat_template_kwargs": {given}'


_SWITCHES = {
    "mlx-lm": "mlx_lm.server --model OUT --chat-template-args",
    "llama.cpp": "llama-server --chat-template-kwargs",
}
