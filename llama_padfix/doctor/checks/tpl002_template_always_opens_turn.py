"""TPL002: the chat template ends every conversation with an assistant header.

The chat template of the first Llama 3 Instruct release ignores `add_generation_prompt` and always appends the
assistant header. In training rows nothing follows it, or an appended EOS. The library does not train it.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    if facts.template is not None and facts.template.always_adds_prompt:
        yield CHECK.found(
            f"The chat template ends every conversation with {facts.template.header!r}, asked for or not: "
            "training rows end in an empty assistant turn. Its labels are -100 here."
        )


CHECK = Check(
    code="TPL002",
    name="template-always-opens-a-turn",
    severity="note",
    needs=("tokenizer", "template"),
    traps=(7,),
    doc=__doc__,
    bad="... <|eot_id|><|start_header_id|>assistant<|end_header_id|>\\n\\n  # trained, and then <|end_of_text|>",
    good="ChatEncoder(tokenizer)  # the trailing header has labels of -100",
    find=_find,
)
