"""llama.cpp by the rules of its sources at 0.5.0: llama-server's chat layer on a GGUF file made of the folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_padfix.serving.engines.engine import Engine, EngineMissingError, Stops
from llama_padfix.serving.engines.files import describe_rules
from llama_padfix.serving.engines.llamacpp import messages, specialized, values
from llama_padfix.serving.engines.llamacpp.run_vocabulary import GgufMissingError, open_vocabulary
from llama_padfix.serving.engines.llamacpp.special_tokens import find_bos, find_stops, open_encoder
from llama_padfix.serving.rendering.chat import Chat, RenderRefusedError
from llama_padfix.serving.rendering.quirks import NO_ALIAS, NO_ARGUMENTS, UNPINNED_DATE
from llama_padfix.serving.rendering.render import render_chat

if TYPE_CHECKING:
    from llama_padfix.serving.folder import ServedFolder

READ_AT = "0.5.0"
QUIRKS = (
    UNPINNED_DATE,
    NO_ARGUMENTS,
    NO_ALIAS,
    specialized.SOURCE,
    messages.DATE,
    messages.THINKING,
    messages.MESSAGES,
    messages.PARTS,
    messages.ROLES,
    messages.TOOLS,
    specialized.FAMILY,
    values.NUMBERS,
    values.BLANKS,
    values.PRINTED,
)
"""In the order in which they apply."""


def open_engine(folder: ServedFolder) -> Engine:
    """Return llama.cpp with a folder opened, as gguf 0.19.0 converts it.

    The conversion (gguf/vocab.py) takes the template of tokenizer_config.json before chat_template.jinja, and one EOS:
    that of tokenizer_config.json, else of config.json where that is one id. generation_config.json is not opened.
    Where `gguf` and node-llama-cpp are installed, ids and stops are those of llama.cpp itself on the vocabulary.
    """
    in_config = folder.template_in_config
    vocabulary, how, ran = None, describe_rules("llama.cpp", READ_AT), ""
    try:
        if not folder.saved:
            raise GgufMissingError("save the tokenizer, and check the folder")
        vocabulary = open_vocabulary(folder.path)
        how, ran = f"{how}; ids and stops by {vocabulary.version}, run", ""
    except (EngineMissingError, GgufMissingError) as error:
        ran = f"ids and stops go by rules. To run llama.cpp's own: {error}"
    bos_id = find_bos(folder) if vocabulary is None else None
    stops = find_stops(folder) if vocabulary is None else vocabulary.ends
    return Engine(
        "llama.cpp",
        how,
        in_config if in_config is not None else folder.template_file,
        "tokenizer_config.json" if in_config is not None else folder.template_file_name,
        QUIRKS,
        run=_render,
        refusals=(("Failed to parse messages", "message keys"),),
        encode=open_encoder(folder, bos_id) if vocabulary is None else vocabulary.encode,
        bos=bos_id,
        stops=Stops(stops, source="the EOS of tokenizer_config.json, and tokens by their text"),
        notes=(
            "the GGUF file keeps one EOS and no sampling; generation_config.json is not read",
            *([ran] if ran else []),
        ),
        close=None if vocabulary is None else vocabulary.close,
    )


def _render(chat: Chat) -> str:
    refusal = messages.find_refusal(chat)
    if refusal is not None:
        raise RenderRefusedError(refusal)
    return render_chat(chat, QUIRKS)
