"""Text Generation Inference: minijinja, run as its router sets it up, after its own reading of the messages.

Read at January 2026: router/src/infer/chat_template.rs, router/src/lib.rs, router/src/infer/tool_grammar.rs (messages
and tools), router/src/server.rs (files), server/.../flash_causal_lm.py and utils/tokens.py (stops).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from llama_padfix.serving.engines import minijinja
from llama_padfix.serving.engines.engine import Engine
from llama_padfix.serving.engines.files import generation_eos, merge, tokenizer_eos
from llama_padfix.serving.rendering.chat import Chat, Quirk
from llama_padfix.serving.rendering.messages import change_messages, join_parts
from llama_padfix.serving.rendering.quirks import NO_ALIAS, NO_ARGUMENTS, UNPINNED_DATE

if TYPE_CHECKING:
    import jinja2

    from llama_padfix.core.types import Message, MessageDict
    from llama_padfix.serving.folder import ServedFolder

REPLACED = (
    ("messages[0]['content'][0]['text']", "messages[0]['content']"),
    ("[::-1]", "|reverse"),
    ("{% generation %}", ""),
    ("{% endgeneration %}", ""),
)
"""What the router replaces in the source of a template."""

_TOOL_PROMPT = (
    "\nGiven the functions available, please respond with a JSON for a function call with its proper arguments that "
    "best answers the given prompt. Respond in the format {name: function name, parameters: dictionary of argument "
    "name and its value}.Do not use variables.\n"
)
_NO_TOOL = {
    "type": "function",
    "function": {
        "description": "Open ended response with no specific tool selected",
        "name": "no_tool",
        "arguments": '{"type":"object"}',
    },
}


def _replace_source(chat: Chat) -> Chat:
    source = chat.source
    for old, new in REPLACED:
        source = source.replace(old, new)
    return chat if source == chat.source else replace(chat, source=source)


def _write(value: object, *, sort_keys: bool = False) -> str:
    """Return compact JSON; serde_json sorts the keys of a value, and a struct has its own order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys)


def _keep_text(message: Message) -> MessageDict:
    """Return role and text: a message of calls becomes their JSON, and every other key is lost."""
    content = message.get("content")
    if content is None and isinstance(message.get("tool_calls"), list):
        content = _write([_type_call(call) for call in message["tool_calls"]])
    return {"role": message.get("role"), "content": "" if content is None else join_parts(content, "")}


def _type_call(call: Any) -> Any:  # a call of a user's row
    function = call.get("function") or {}
    arguments = function.get("arguments")
    typed = {"description": None, "name": function.get("name"), "arguments": _write(arguments, sort_keys=True)}
    return {"id": call.get("id", ""), "type": call.get("type", "function"), "function": typed}


def _write_tools(chat: Chat) -> Chat:
    """Return the chat with the router's text about tools behind the last message, and the tools as it types them."""
    if not chat.tools or not chat.messages:
        return chat
    tools = [*map(_type_tool, chat.tools), _NO_TOOL]
    listed = "" if "tools" in chat.source else f"{_write(tools)}\n"
    last = chat.messages[-1]
    text = f"{last.get('content') or ''}\n---\n{listed}{_TOOL_PROMPT}"
    return replace(chat, tools=tools, messages=[*chat.messages[:-1], {**last, "content": text}])


def _type_tool(tool: Any) -> Any:  # a tool's schema
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        return tool
    arguments = _write(function.get("parameters", function.get("arguments")), sort_keys=True)
    typed = {"description": function.get("description"), "name": function.get("name"), "arguments": arguments}
    return {"type": "function", "function": typed}


def _keep_breaks(environment: jinja2.Environment) -> None:
    environment.trim_blocks = environment.lstrip_blocks = False


QUIRKS = (
    UNPINNED_DATE,
    NO_ARGUMENTS,
    NO_ALIAS,
    Quirk("rewritten source", _replace_source),
    Quirk("message keys", change_messages(_keep_text)),
    Quirk("tools", _write_tools),
    Quirk("white space", on_environment=_keep_breaks),
    *minijinja.QUIRKS,
)


def open_engine(folder: ServedFolder) -> Engine:
    """Return TGI with a folder opened."""
    module = minijinja.load_minijinja()
    template = folder.template_in_config
    listed = folder.generation_config.get("eos_token_id")
    return Engine(
        "tgi",
        f"minijinja {version('minijinja')}, run as TGI's router of January 2026 sets it up",
        template,
        "tokenizer_config.json" if template is not None else "none: tokenizer_config.json has no chat_template",
        QUIRKS,
        run=minijinja.MiniJinjaRenderer(module, QUIRKS, trim_blocks=False).render,
        refusals=minijinja.REFUSALS,
        stops=merge(generation_eos(folder), source="the list in generation_config.json")
        if isinstance(listed, list)
        else merge(tokenizer_eos(folder), source="tokenizer_config.json"),
    )
