"""llama.cpp by the rules of its sources at 0.5.0: llama-server's chat layer on a GGUF file made of the folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_padfix.serving.engines.engine import Engine, EngineMissingError, Stops
from llama_padfix.serving.engines.files import config_eos, describe_rules, tokenizer_eos
from llama_padfix.serving.engines.llamacpp import messages, specialized, values
from llama_padfix.serving.engines.llamacpp.run_vocabulary import GgufMissingError, open_vocabulary
from llama_padfix.serving.rendering.chat import Chat, RenderRefusedError
from llama_padfix.serving.rendering.quirks import NO_ALIAS, NO_ARGUMENTS, UNPINNED_DATE
from llama_padfix.serving.rendering.render import render_chat

if TYPE_CHECKING:
    from llama_padfix.serving.folder import ServedFolder

READ_AT = "0.5.0"
ENDS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
    *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
    *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
)
"""Tokens that end generation by their text: `special_eog_ids` in src/llama-vocab.cpp."""

FILL_IN = (
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
)
"""Tokens of the family that fills in code, which end generation too."""

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


_CONTROL = {"<|end|>": ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"})}


def open_engine(folder: ServedFolder) -> Engine:
    """Return llama.cpp with a folder opened, as gguf 0.19.0 converts it.

    The conversion (gguf/vocab.py) takes the template of tokenizer_config.json before chat_template.jinja, and one EOS:
    that of tokenizer_config.json, else of config.json where that is one id. generation_config.json is not opened.
    Where `gguf` and node-llama-cpp are installed, ids and stops are those of llama.cpp itself on the vocabulary.
    """
    in_config = folder.template_in_config
    vocabulary, how, ran = None, describe_rules("llama.cpp", READ_AT), ""
    try:
        vocabulary = open_vocabulary(folder.path)
        how, ran = f"{how}; ids and stops by {vocabulary.version}, run", ""
    except (EngineMissingError, GgufMissingError) as error:
        ran = f"ids are those of the tokenizer, and stops go by rules. To run llama.cpp's own: {error}"
    stops = find_stops(folder) if vocabulary is None else vocabulary.ends
    return Engine(
        "llama.cpp",
        how,
        in_config if in_config is not None else folder.template_file,
        "tokenizer_config.json" if in_config is not None else folder.template_file_name,
        QUIRKS,
        run=_render,
        refusals=(("Failed to parse messages", "message keys"),),
        encode=None if vocabulary is None else vocabulary.encode,
        stops=Stops(stops, source="the EOS of tokenizer_config.json, and tokens by their text"),
        notes=(
            "the GGUF file keeps one EOS and no sampling; generation_config.json is not read",
            *([ran] if ran else []),
        ),
        close=None if vocabulary is None else vocabulary.close,
    )


def find_stops(folder: ServedFolder) -> tuple[int, ...]:
    """Return the ids that end generation by the rules of src/llama-vocab.cpp."""
    eos = tokenizer_eos(folder) or (config_eos(folder) if len(config_eos(folder)) == 1 else ())
    vocabulary = folder.tokenizer.get_vocab()
    named = [token for token in (*ENDS, *FILL_IN) if token in vocabulary]
    left_out = {token for token, groups in _CONTROL.items() if any(group <= {*named} for group in groups)}
    return tuple(sorted({*eos, *(vocabulary[token] for token in named if token not in left_out)}))


def _render(chat: Chat) -> str:
    refusal = messages.find_refusal(chat)
    if refusal is not None:
        raise RenderRefusedError(refusal)
    return render_chat(chat, QUIRKS)
