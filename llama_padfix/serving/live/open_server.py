"""A running server as an engine: its ids against the trained ones, its stops seen by generating."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from llama_padfix.core.text import printable
from llama_padfix.serving.engines.catalogue import open_engines
from llama_padfix.serving.live.http import Server, ServerError
from llama_padfix.serving.live.servers import find_model, find_server, request_of

if TYPE_CHECKING:
    from llama_padfix.serving.engines.engine import Engine
    from llama_padfix.serving.folder import ServedFolder
    from llama_padfix.serving.rendering.chat import Chat

ASKED, LONGEST = 4, 256
"""How many answers are generated, and the most tokens of each."""


def open_server(url: str, folder: ServedFolder, chats: Sequence[Chat]) -> Engine:
    """Return the server at an address, whose rules then only name causes.

    Args:
        url: Its address.
        folder: The folder that it serves.
        chats: Chats to generate answers to, greedily: a few of them, spread over all.

    Raises:
        PadfixError: There is no server, or none that tells the ids of its prompts.
    """
    server, live = find_server(url, lambda ids: folder.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    with ExitStack() as stack:
        [rules], _ = open_engines([live.kind], folder, stack)
    own = live.template
    return replace(
        rules,
        name=f"{live.kind} at {server.url}",
        version=live.version,
        template=own if own is not None else rules.template,
        template_source="what the server holds" if own is not None else rules.template_source,
        run=live.render,
        encode=live.encode,
        refusals=(),
        close=None,
        notes=(*_see_stops(server, chats, folder),),
    )


def _see_stops(server: Server, chats: Sequence[Chat], folder: ServedFolder) -> Iterator[str]:
    """Generate answers, and tell how many end by themselves and at what."""
    step = max(len(chats) // ASKED, 1)
    settings = {"model": find_model(server)[1], "max_tokens": LONGEST, "temperature": 0}
    ends, asked, error = Counter[str](), 0, ""
    for chat in chats[::step][:ASKED]:
        try:
            answer = server.ask("/v1/chat/completions", {**request_of(chat), **settings})
            choice = answer["choices"][0]
            asked += 1
            if choice.get("finish_reason") in ("stop", "tool_calls"):
                ends[_name_end(choice.get("stop_reason", choice.get("matched_stop")), folder)] += 1
        except ServerError as refused:
            error = str(refused)
        except (KeyError, IndexError, TypeError, AttributeError):
            error = "an answer without a choice"
    where = f" ({', '.join(f'{end} {count}' for end, count in ends.most_common())})" if ends else ""
    yield f"{sum(ends.values())} of {asked} answers end by themselves within {LONGEST} tokens{where}"
    if error:
        yield f"an answer could not be generated: {error}"


def _name_end(reason: object, folder: ServedFolder) -> str:
    """Return what ended an answer: vLLM's `stop_reason` (null for its EOS), or SGLang's `matched_stop`."""
    if reason is None:
        return "its end of text"
    return printable(folder.name_ids([reason])[0] if type(reason) is int else reason)
