"""TPL006: the chat template prints today's date.

The template of Llama 3.2 writes `Today Date:` with the current day. The same dataset has other ids tomorrow, so a
cache misses, a run cannot be repeated, and a resumed run mixes two days. The library's encoder renders a whole run
with one date: the day on which it was made, or that of `template_kwargs`. The check finds the usual formats of a date
by rendering.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    if facts.template is not None and facts.template.prints_date:
        yield CHECK.found(
            "The chat template prints today's date, so the same data has other ids tomorrow. Pin it: "
            'template_kwargs={"date_string": ...} where the template knows that name.'
        )


CHECK = Check(
    code="TPL006",
    name="date-in-template",
    severity="note",
    needs=("tokenizer", "template"),
    traps=(23,),
    doc=__doc__,
    bad="tokenizer.apply_chat_template(messages)  # Today Date: <today>",
    good='prepare(tokenizer, template_kwargs={"date_string": "26 Jul 2024"})',
    find=_find,
)
