"""SAV005: a chat_template.jinja that an earlier save left behind.

`save_pretrained` of a tokenizer without a template writes tokenizer.json and tokenizer_config.json, and leaves an
earlier chat_template.jinja in the folder. Loaded again, the tokenizer has that template, with control tokens that it
may lack. It is found by another template in tokenizer_config.json, or by an older file time. A copy with new times
hides it; a template that was written later is newer, and no fault.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings

_FILE = "chat_template.jinja"
_APART = 5.0  # seconds between the files of one save, on a slow disk


def _find(facts: Facts) -> Findings:
    folder = facts.folder
    if folder is None or folder.chat_template is None:
        return
    other = folder.tokenizer_config.get("chat_template")
    if isinstance(other, str) and other.strip() != folder.chat_template.strip():
        seen = f"{_FILE} and the chat_template of tokenizer_config.json differ; current releases read the file."
        yield CHECK.found(seen, (_change(),))
        return
    saved = [folder.saved_at[name] for name in ("tokenizer_config.json", "tokenizer.json") if name in folder.saved_at]
    age = min(saved) - folder.saved_at.get(_FILE, min(saved)) if saved else 0.0
    if age <= _APART or other is not None:
        return
    stop = facts.template.stop_token if facts.template is not None else None
    foreign = stop != facts.eos_token
    ends = f", and ends its turns with {stop} where the tokenizer's EOS is {facts.eos_token}" if foreign else ""
    message = f"{_FILE} is {age:.0f} s older than the rest of the tokenizer{ends}: it may be that of an earlier save."
    yield CHECK.found(message, (_change(),), severity="warning" if foreign else "note")


def _change() -> Change:
    why = "save_pretrained leaves a template where the tokenizer has none, and loading then gives it that one"
    return Change(f"folder.{_FILE}", "from an earlier save", "save into an empty folder", why, "manual")


CHECK = Check(
    code="SAV005",
    name="stale-chat-template",
    severity="warning",
    needs=("folder",),
    traps=(26,),
    doc=__doc__,
    bad='instruct.save_pretrained("out"); base.save_pretrained("out")  # base reloads with the chat template',
    good='base.save_pretrained("out-base")  # an empty folder',
    find=_find,
)
