"""What the keywords of a config show; what depends on a value that is not in the file is not reported.

Keywords and defaults were read in Axolotl 0.18.0 (`src/axolotl/utils/schemas/config.py`, `enums.py`; `eot_tokens` in
`prompt_strategies/chat_template.py`), LLaMA-Factory 0.9.6.dev0 (`src/llamafactory/hparams/data_args.py`,
`parser.py`) and ms-swift 4.6.0.dev0 (`swift/arguments/sft_args.py`, `base_args/template_args.py`). What those tools
check by themselves in that version may go unnoticed in an older one, so it is reported too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llama_padfix.doctor.configs.families import TEMPLATE_FAMILY, TURN_ENDS, Family, find_eos, find_family
from llama_padfix.doctor.configs.settings import Config, Fault

_MODEL: Mapping[str, str] = {"axolotl": "base_model", "llama-factory": "model_name_or_path", "ms-swift": "model"}
_TEMPLATE: Mapping[str, str] = {"axolotl": "chat_template", "llama-factory": "template", "ms-swift": "template"}
# The keyword of the longest row, and its default where one is set by the tool and not by the model.
_LENGTH: Mapping[str, tuple[str, int]] = {"axolotl": ("sequence_len", 512), "llama-factory": ("cutoff_len", 2048)}
_OWN_TEMPLATE: Mapping[str, str] = {
    "axolotl": "chat_template: tokenizer_default",
    "llama-factory": "template: {}  # or the name that LLaMA-Factory lists for this model",
    "ms-swift": "leave template out: it is chosen by the model",
}
# Axolotl's keywords before `attn_implementation`, which are still read (`LEGACY_ATTN_FLAG_TO_IMPL`). Each isolates
# documents, and so does each value of `attn_implementation` but fp8 (`attn_decontaminates_packing`).
_ISOLATING = (
    "flash_attention",
    "sdp_attention",
    "xformers_attention",
    "flex_attention",
    "sage_attention",
    "eager_attention",
    "gemma4_hybrid_attn_impl",
)
# Megatron-SWIFT's own keywords; it keeps the documents of a row apart with any attention.
_MEGATRON = ("micro_batch_size", "global_batch_size", "attention_backend")


def find_faults(config: Config) -> Iterator[Fault]:
    """Yield the faults of a config, in the order of the codes."""
    model = config.text(_MODEL[config.tool])
    family = find_family(model)
    template = TEMPLATE_FAMILY.get(config.text(_TEMPLATE[config.tool]))
    yield from _pad_is_end(config, template or family)
    if config.tool == "axolotl" and family is not None:
        of_model = config.text("chat_template").startswith("tokenizer_default")
        if template is not None or of_model:
            yield from _end_not_trained(config, model, family, template or family)
    yield from _packing(config)
    if family is not None:
        yield from _half_precision(config, family)
        if template is not None and template is not family and not _adds(config, template.turn_end):
            yield _other_template(config, family, template)
    yield from _default_length(config)


def _pad_is_end(config: Config, known: Family | None) -> Iterator[Fault]:
    setting = config.settings.get("special_tokens.pad_token")
    # The EOS of a base model ends a text and never a turn: padding with it hides nothing.
    eos = config.text("special_tokens.eos_token")
    turn_end = known.turn_end if known is not None else eos if eos in TURN_ENDS else ""
    if setting is not None and setting.value and setting.value == turn_end:
        yield Fault(
            "PAD002",
            "warning",
            f"The pad token {setting.value} also ends a turn. Collators that mask every pad id hide it from the loss, "
            "and the saved tokenizer carries it to the next run.",
            "another token of the vocabulary, such as <|finetune_right_pad_id|> or <|end_of_text|> for Llama 3",
            setting.place,
        )


def _end_not_trained(config: Config, model: str, family: Family, template: Family) -> Iterator[Fault]:
    eos = config.text("special_tokens.eos_token") or find_eos(model, family)
    types = [setting.value for name, setting in config.settings.items() if name.endswith("].type")]
    by_template = "chat_template" in types and not config.value("rl")  # other types mask otherwise
    if "eot_tokens" in config.settings or template.turn_end == eos or not by_template:
        return
    yield Fault(
        "LBL002",
        "warning",
        f"The chat template ends a turn with {template.turn_end}, and the EOS is {eos}. Without eot_tokens only the "
        "EOS is trained as an end, so the model does not learn to stop.",
        f'eot_tokens: ["{template.turn_end}"]',
        config.settings["chat_template"].place,
    )


def _packing(config: Config) -> Iterator[Fault]:
    name = "sample_packing" if config.tool == "axolotl" else "packing"
    if config.value(name) is not True or config.value("stage") == "pt":
        return
    message = (
        f"{name} is on, and nothing here keeps the documents of a packed row apart: each attends to those before it."
    )
    if config.tool == "axolotl":
        attention = config.text("attn_implementation")
        apart = attention not in ("", "fp8") or any(config.value(each) is True for each in _ISOLATING)
        fix = "attn_implementation: flash_attention_2"
    elif config.tool == "llama-factory":
        apart, fix = config.value("neat_packing") is True, "neat_packing: true"
    else:
        apart = config.text("attn_impl").startswith("flash") or any(each in config.settings for each in _MEGATRON)
        fix = "attn_impl: flash_attn"
        message = (
            "packing is on without flash attention, which keeps the documents of a packed row apart: ms-swift 4.6 "
            "ends with an error."
        )
    if not apart:
        yield Fault("PCK002", "warning", message, fix, config.settings[name].place)


def _half_precision(config: Config, family: Family) -> Iterator[Fault]:
    names = ("fp16", "float16", "torch_dtype")
    half = [name for name in names if config.value(name) is True or config.value(name) == "float16"]
    if half:
        yield Fault(
            "PRC003",
            "warning",
            f"{half[0]} asks for float16, and {family.name} was trained in bfloat16: numbers beyond 65504 become inf, "
            "and the loss nan. On a GPU without bfloat16 clip tightly and keep the learning rate low.",
            "bf16: true",
            config.settings[half[0]].place,
        )


def _other_template(config: Config, family: Family, template: Family) -> Fault:
    name = _TEMPLATE[config.tool]
    return Fault(
        "TPL009",
        "warning",
        f"{name} {config.value(name)} ends turns with {template.turn_end}, and {family.name} with {family.turn_end}: "
        "a token that a vocabulary lacks is encoded as letters, and a server uses the model's own template.",
        _OWN_TEMPLATE[config.tool].format(family.templates[0]),
        config.settings[name].place,
    )


def _default_length(config: Config) -> Iterator[Fault]:
    name, default = _LENGTH.get(config.tool, ("", 0))
    if name and name not in config.settings:
        yield Fault(
            "TRN001",
            "note",
            f"{name} is not set, and its default is {default} tokens: longer rows are cut or dropped.",
            f"{name}: 4096  # as long as your rows are",
            config.settings[_MODEL[config.tool]].place,
        )


def _adds(config: Config, token: str) -> bool:
    """Return whether the config adds a token to the vocabulary."""
    added = config.value("tokens")
    named = [
        setting.value for key, setting in config.settings.items() if key.startswith(("special_tokens.", "added_"))
    ]
    return token in (added if isinstance(added, list) else []) or token in named
