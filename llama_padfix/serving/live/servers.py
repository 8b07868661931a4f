"""llama-server, vLLM and SGLang: how each tells the prompt that it makes of a chat, and where it ends an answer.

Read: tools/server/README.md and server-context.cpp of llama.cpp 0.5.0 (`/props`, `/apply-template`, `/tokenize`);
entrypoints/openai/chat_completion/protocol.py of vLLM 0.33 (`return_token_ids`, `prompt_token_ids`, `stop_reason`);
srt/entrypoints/openai/protocol.py and serving_chat.py, srt/entrypoints/http_server.py of SGLang 0.5.23
(`return_prompt_token_ids`, `prompt_token_ids` of a choice, `matched_stop`, `/server_info`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.serving.live.http import Server, ServerError
from llama_padfix.serving.rendering.chat import Chat, RenderRefusedError
from llama_padfix.serving.rendering.quirks import KEEPS_NULLS, NO_ARGUMENTS, UNPINNED_DATE
from llama_padfix.serving.rendering.render import apply_to_chat


def find_server(url: str, decode: Any) -> tuple[Server, LlamaServer | IdServer]:  # what makes text of ids
    """Return the server at an address, by the owner that its list of models names.

    Raises:
        PadfixError: it is none of those that tell the ids of a prompt, or does not answer.
    """
    server = Server(url)
    owner, model = find_model(server)
    if owner == "llamacpp":
        return server, LlamaServer(server, _ask_props(server))
    if owner in PROTOCOLS:
        return server, IdServer(server, model, decode, owner)
    raise PadfixError(
        f"{server.url} is a server of {owner!r}, and prompt ids are known of llama-server (/apply-template), vLLM "
        "(return_token_ids) and SGLang (return_prompt_token_ids). Compare by rules: "
        "check_serving(folder, rows, engines=[...])"
    )


def find_model(server: Server) -> tuple[str, str]:
    """Return the owner and the name of the first model that a server lists."""
    try:
        first = server.ask("/v1/models")["data"][0]
        return str(first.get("owned_by")), str(first["id"])
    except (ServerError, KeyError, IndexError, TypeError, AttributeError):
        return "nobody", ""


def _ask_props(server: Server) -> Mapping[str, Any]:
    try:
        props = server.ask("/props")
    except ServerError:
        return {}
    return props if isinstance(props, Mapping) else {}


def request_of(chat: Chat) -> dict[str, Any]:
    """Return the request that a client makes of a chat: messages, with arguments of calls as text, and tools."""
    chat, _ = apply_to_chat(chat, (UNPINNED_DATE, NO_ARGUMENTS, KEEPS_NULLS))
    tools = {"tools": list(chat.tools)} if chat.tools else {}
    return {"messages": [_send(message) for message in chat.messages], **tools}


def _send(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    return {**message, "tool_calls": [_send_call(call) for call in calls]}


def _send_call(call: Any) -> Any:  # a call of a user's row
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), Mapping):
        return call
    arguments = json.dumps(function["arguments"], ensure_ascii=False)  # vLLM refuses any other
    return {**call, "function": {**function, "arguments": arguments}}


@dataclass
class LlamaServer:
    """llama.cpp's own server; `kind` is the engine whose rules name the causes."""

    server: Server
    props: Mapping[str, Any] = field(repr=False)
    kind: str = "llama.cpp"

    @property
    def version(self) -> str:
        """What `/props` says of the build."""
        return f"llama-server {self.props.get('build_info') or 'of an unknown build'}, live"

    @property
    def template(self) -> str | None:
        """The template that `/props` shows."""
        held = self.props.get("chat_template")
        return held if isinstance(held, str) and held else None

    @cached_property
    def added(self) -> str:
        """The BOS where the vocabulary adds one: a template's own is cut away before."""
        bos = self.props.get("bos_token")
        return bos if isinstance(bos, str) and self._tokenize("") else ""

    def render(self, chat: Chat) -> str:
        """Return what `/apply-template` gives, with the BOS that is added."""
        return self.added + str(_ask(self.server, "/apply-template", request_of(chat)).get("prompt"))

    def encode(self, text: str) -> Sequence[int]:
        """Return what `/tokenize` gives."""
        return self._tokenize(text.removeprefix(self.added))

    def _tokenize(self, text: str) -> list[int]:
        question = {"content": text, "add_special": True, "parse_special": True}  # as a chat is encoded
        return [int(token_id) for token_id in _ask(self.server, "/tokenize", question)["tokens"]]


@dataclass(frozen=True)
class Protocol:
    """How a server that tells ids is asked."""

    name: str
    """Its name in a report."""

    since: str
    """A release that tells the ids of a prompt, as all newer ones do."""

    switch: str
    """The key of a request that asks for them."""

    versions: tuple[str, ...]
    """Where it tells its version: the path of this release, then those of older ones."""


PROTOCOLS = MappingProxyType(
    {
        "vllm": Protocol("vLLM", "0.10.2", "return_token_ids", ("/version",)),
        "sglang": Protocol("SGLang", "0.5.23", "return_prompt_token_ids", ("/server_info", "/get_server_info")),
    }
)
"""By the owner that a list of models names, which is the engine whose rules name the causes."""


@dataclass
class IdServer:
    """A server that tells ids and no text, so the text is that of the ids."""

    server: Server
    model: str
    decode: Any = field(repr=False)  # what makes text of ids
    kind: str
    template: str | None = None
    _last: tuple[str, list[int]] = ("", [])

    @property
    def version(self) -> str:
        """What the server says of itself."""
        told = PROTOCOLS[self.kind]
        for path in told.versions:
            try:
                return f"{told.name} {self.server.ask(path)['version']}, live"
            except (ServerError, KeyError, TypeError):
                continue
        return f"{told.name} of an unknown version, live"

    def render(self, chat: Chat) -> str:
        """Return the text of the ids that the server feeds."""
        told = PROTOCOLS[self.kind]
        more = {"model": self.model, "max_tokens": 1, "temperature": 0, told.switch: True}
        ids = _find_ids(_ask(self.server, "/v1/chat/completions", {**request_of(chat), **more}))
        if ids is None:
            raise PadfixError(
                f"{self.server.url} gives no prompt_token_ids, which {told.name} {told.since} and newer does. "
                f"Update {told.name}."
            )
        self._last = self.decode(ids), ids
        return self._last[0]

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids that were fed."""
        return self._last[1] if text == self._last[0] else ()


def _find_ids(answer: Mapping[str, Any]) -> list[int] | None:
    """Return the ids of the prompt: vLLM tells them of the answer, SGLang of each choice."""
    choices = answer.get("choices")
    for place in (answer, *(choices if isinstance(choices, list) else ())):
        ids = place.get("prompt_token_ids") if isinstance(place, Mapping) else None
        if isinstance(ids, list):
            return [int(token_id) for token_id in ids]
    return None


def _ask(server: Server, path: str, question: object) -> Mapping[str, Any]:
    try:
        answer = server.ask(path, question)
    except ServerError as error:
        if error.status in (401, 403, 404):
            raise PadfixError(f"{server.url}{path} is not to be had ({error}).") from None
        raise RenderRefusedError(str(error)) from None
    if not isinstance(answer, Mapping):
        raise PadfixError(f"{server.url}{path} answers with a {type(answer).__name__}, and no object.")
    return answer
