"""The tokens at which llama.cpp ends a text by their names: `special_eog_ids` in src/llama-vocab.cpp at 0.5.0."""

from __future__ import annotations

from collections.abc import Container

_ENDS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
    *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
    *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
)
# Tokens of the family that fills in code, which end a text too.
_FILL_IN = (
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
)
# What ends no text where all tokens of one of the groups are there (gpt-oss's `<|end|>` ends a message).
_LEFT_OUT = {"<|end|>": ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"})}


def find_end_tokens(vocabulary: Container[str]) -> list[str]:
    """Return the tokens of a vocabulary at which llama.cpp ends a text, whatever their ids and types.

    Args:
        vocabulary: The tokens, with what they spell.
    """
    held = [token for token in (*_ENDS, *_FILL_IN) if token in vocabulary]
    return [token for token in held if not any(group <= {*held} for group in _LEFT_OUT.get(token, ()))]
