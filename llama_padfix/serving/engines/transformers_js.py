"""transformers.js: its own Jinja and its own tokenizer, run by node, with the files that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.serving.engines.engine import Engine, Stops
from llama_padfix.serving.engines.files import ids_of
from llama_padfix.serving.engines.javascript.bridge import BridgeError, NodeBridge, open_bridge
from llama_padfix.serving.engines.javascript.quirks import QUIRKS
from llama_padfix.serving.rendering.chat import Chat, RenderRefusedError
from llama_padfix.serving.rendering.quirks import KEEPS_NULLS, NO_ALIAS, NO_ARGUMENTS, UNPINNED_DATE
from llama_padfix.serving.rendering.render import apply_to_chat, context_of

if TYPE_CHECKING:
    from llama_padfix.serving.folder import ServedFolder

JINJA, TOKENIZERS = "@huggingface/jinja", "@huggingface/tokenizers"
PACKAGES = (f"{JINJA}@0.5.11", f"{TOKENIZERS}@0.2.0")
"""What it runs, with the versions that were read."""

_READ = "4.3.2"  # of @huggingface/transformers: src/tokenization_utils.js, src/pipelines/text-generation.js
_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty")
_NO_TEXT = r"Cannot apply filter .* to type: (Null|Array|Object)Value|Unknown ArrayValue filter"
REQUEST = (UNPINNED_DATE, NO_ARGUMENTS, NO_ALIAS, KEEPS_NULLS)


def open_engine(folder: ServedFolder) -> Engine:
    """Return transformers.js with a folder opened.

    Its tokenizer loads tokenizer.json and tokenizer_config.json (get_tokenizer_files.js), so a template in
    chat_template.jinja is not seen. The pipeline renders with the generation prompt and adds no special tokens.
    """
    bridge = open_bridge(PACKAGES, never_in=folder.path)
    try:
        versions = bridge.ask("versions", names=[JINJA, TOKENIZERS])
        template = folder.template_in_config
        source = "tokenizer_config.json"
        if template is None:
            source = "none: tokenizer_config.json has no chat_template, and chat_template.jinja is not read"
        client = JavaScriptClient(bridge, folder.path / "tokenizer.json", folder.tokenizer_config)
        held = {**folder.config, **folder.generation_config}
        return Engine(
            "transformers.js",
            f"{JINJA} {versions[JINJA]} and {TOKENIZERS} {versions[TOKENIZERS]}, run; "
            f"rules of transformers.js {_READ}: read",
            template,
            source,
            quirks=(*REQUEST, *QUIRKS),
            run=client.render,
            refusals=((_NO_TEXT, "filter operand"),),
            encode=client.encode if folder.saved else None,
            stops=Stops(ids_of(held.get("eos_token_id")), source="generation_config.json over config.json"),
            sampling={name: held[name] for name in _SAMPLING if held.get(name) is not None},
            close=bridge.close,
        )
    except BaseException:
        bridge.close()
        raise


class JavaScriptClient:
    """One folder in the node process; what a new process does not know is told again."""

    def __init__(self, bridge: NodeBridge, file: Path, config: Mapping[str, Any]) -> None:
        self._bridge, self._file, self._config = bridge, file, config
        self._keys: dict[str, int] = {}
        self._known: set[tuple[int, object]] = set()

    def render(self, chat: Chat) -> str:
        """Return the text; raises `RenderRefusedError` with the package's own message."""
        chat, _ = apply_to_chat(chat, REQUEST)
        kept = {name: value for name, value in context_of(chat).items() if name not in ("strftime_now", *_TOKENS)}
        key = self._keys.setdefault(chat.source, len(self._keys))
        tokens = {name: text for name in _TOKENS if (text := _text_of(self._config.get(name)))}
        arguments: dict[str, object] = {"key": key, "context": {**kept, **tokens}}
        arguments["day"] = [chat.day.year, chat.day.month, chat.day.day] if chat.day is not None else None
        told = (self._bridge.start(), key)
        if told not in self._known:
            arguments["source"] = chat.source
        text = self._ask("render", **arguments)
        self._known.add(told)
        return str(text)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a rendered text."""
        told = (self._bridge.start(), "tokenizer")
        if told not in self._known:
            self._ask("open", file=str(self._file.resolve()), config=self._config)
            self._known.add(told)
        return [int(token_id) for token_id in self._ask("encode", texts=[text])[0]]

    def _ask(self, question: str, **arguments: object) -> Any:  # whatever JSON holds
        try:
            return self._bridge.ask(question, **arguments)
        except BridgeError as error:
            raise RenderRefusedError(str(error)) from None
        except (TypeError, ValueError) as error:  # a value that JSON does not know
            raise RenderRefusedError(f"{type(error).__name__}: {error}") from None


def _text_of(token: Any) -> str | None:  # what tokenizer_config.json holds
    """Return the text of a token in tokenizer_config.json as getTokenFromConfig of transformers.js does."""
    if isinstance(token, (dict, list)) and token:
        if not isinstance(token, dict) or token.get("__type") != "AddedToken":
            raise RenderRefusedError(
                "Error: Unknown token: a token is an object without __type in tokenizer_config.json"
            )
        token = token.get("content")
    return str(token) if token else None
