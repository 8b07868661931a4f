"""SRV004: an engine stops at a token that stands inside trained answers.

The stop list of an engine may hold more than the ends of turns: SGLang adds tokens by their names, and llama.cpp every
token whose text is on a list. A trained answer that holds such a token is cut there when it is served.
"""

from llama_padfix.doctor.findings import Check

CHECK = Check(
    code="SRV004",
    name="stop-inside-answer",
    severity="warning",
    needs=("folder",),
    doc=__doc__,
    bad="rows with <|eom_id|> inside an answer, served by an engine that stops at it",
    good="rows whose answers hold no token of the engine's stop list, or that stop removed from the server's settings",
)
