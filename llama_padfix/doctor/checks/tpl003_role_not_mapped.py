"""TPL003: another dataset's role names stand in the headers.

ShareGPT data names the roles `human` and `gpt`, and a chat template writes any role into the header. The model is
then trained on turns of a `gpt` that inference never opens. Masks that search for the assistant's header find none.
"""

from collections.abc import Mapping

from llama_padfix.doctor.check_helpers import real_span
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts

_ASSISTANTS = ("gpt", "bot", "chatbot", "chatgpt", "ai", "model", "GPT", "Bot", "AI")
_USERS = ("human", "Human", "prompter", "instruction")
_LONGEST = 2  # ids that such a name takes at most


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    header = facts.markers.header_ids if facts.markers is not None else ()
    controls = set(facts.special_ids.values())
    if len(header) < 3 or header[0] not in controls:
        return
    # A header like the assistant's in all but the role, which ends at the next control id if there is one.
    after = next((place for place in range(1, len(header)) if header[place] in controls), 2)
    role, rest = header[1:after], list(header[after:])
    starts = (row.input_ids[: real_span(row)[1]] == header[0]).nonzero()[0].tolist()
    spellings = _spellings(facts.vocabulary) if starts else {}
    found: dict[int, str] = {}
    has_known_role = False
    for start in starts:
        opening = row.input_ids[start + 1 : start + 2 + _LONGEST + len(rest)].tolist()
        if not opening:
            break  # the row ends here
        has_known_role = has_known_role or opening[: len(header) - 1] == list(header[1:])
        for spelled, name in spellings.items():
            if spelled != role and opening[: len(spelled) + len(rest)] == [*spelled, *rest]:
                found[start] = name
    if has_known_role and not set(found.values()) & set(_ASSISTANTS):
        return  # beside true assistant turns `human` may be the template's own name for the user
    if found:
        first = min(found)
        seen = ", ".join(repr(name) for name in dict.fromkeys(found.values()))
        yield Hit(first, first + len(header), len(found), f"the roles {seen}")


def _spellings(vocabulary: Mapping[str, int]) -> dict[tuple[int, ...], str]:
    """Return each name by its ids: as one, and as two where the vocabulary has the pieces."""
    cuts = ((name, cut) for name in (*_ASSISTANTS, *_USERS) for cut in range(1, len(name) + 1))
    spelled = ((name, [piece for piece in (name[:cut], name[cut:]) if piece]) for name, cut in cuts)
    return {
        tuple(map(vocabulary.__getitem__, p)): name for name, p in spelled if all(piece in vocabulary for piece in p)
    }


CHECK = Check(
    code="TPL003",
    name="role-not-mapped",
    severity="error",
    needs=("rows", "tokenizer", "markers"),
    message="{rows} of {seen} rows ({where}) hold {count} headers with a role that the model does not know.",
    traps=(21,),
    doc=__doc__,
    bad="<|start_header_id|>human<|end_header_id|>",
    good="prepared.encode(dataset)  # reads ShareGPT, maps human and gpt, refuses what it does not know",
    inspect=_inspect,
)
