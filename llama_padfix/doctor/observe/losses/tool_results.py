"""What a trainer that runs tools in its rollouts (GRPO) appends behind a call, beside what the template writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_padfix.core.compat import find_tokenizer
from llama_padfix.encoding.rollouts.written import PromptWriter, read_tools
from llama_padfix.tokens.calls import preserve_backend_state

if TYPE_CHECKING:
    from llama_padfix.core.types import TrainerLike


def find_wrong_suffix(trainer: TrainerLike) -> tuple[str, str] | None:
    """Return what is appended behind a call that stopped, and what the template writes; None where both are the same.

    None also where the trainer runs no tools, or where it is not known what the template writes there.
    """
    append, tools = getattr(trainer, "_get_tool_suffix_ids", None), getattr(trainer, "tools", None)
    tokenizer = find_tokenizer(trainer)
    if append is None or not tools or not hasattr(tokenizer, "get_vocab"):
        return None
    result = {"role": "tool", "name": getattr(tools[0], "__name__", "tool"), "content": "4"}
    kwargs = dict(getattr(trainer, "chat_template_kwargs", None) or {})
    if (template := getattr(trainer, "chat_template", None)) is not None:
        kwargs["chat_template"] = template
    with preserve_backend_state(tokenizer):
        try:
            appended = [*append([result])]
            stop_id, expected = PromptWriter(tokenizer, kwargs, read_tools(tools)).write_behind(None, [result])
        except Exception:  # the trainer's own code, and a template, may raise anything
            return None
    if stop_id is None and expected and expected[0] in getattr(trainer, "eos_token_ids", ()):
        expected = expected[1:]  # the model stops with what opens the result (GLM)
    if appended == expected:
        return None
    shown = [tokenizer.decode(ids, skip_special_tokens=False) for ids in (appended, expected)]
    return shown[0], shown[1]
