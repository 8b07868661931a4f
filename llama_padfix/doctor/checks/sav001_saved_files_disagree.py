"""SAV001: the saved files disagree on where generation stops, or on the pad id.

`generate` reads its stop ids from generation_config.json, older tools and servers from config.json, and chat clients
use the tokenizer's EOS. A run that was patched in memory only, or that saved tokenizer and model at different times,
leaves files that disagree: one tool stops and another does not. The same holds for the pad id. Every list should hold
each id that ends a turn or a text.
"""

from collections.abc import Iterator

from llama_padfix.doctor.findings import Change, Check, Facts, Findings
from llama_padfix.doctor.token_policy import as_ids, choose_pad_token, stop_ids


def _find(facts: Facts) -> Findings:
    folder = facts.folder
    if folder is None or not folder.config:
        return
    text_config = folder.config.get("text_config")
    config = text_config if isinstance(text_config, dict) else folder.config
    files = {"config.json": config, "generation_config.json": folder.generation_config}
    files = {name: content for name, content in files.items() if content}
    stops = {name: as_ids(content.get("eos_token_id")) for name, content in files.items()}
    pads = {name: content.get("pad_token_id") for name, content in files.items()}
    seen = []
    missing = facts.eos_token_id is not None and any(facts.eos_token_id not in held for held in stops.values())
    if missing or len(set(map(frozenset, stops.values()))) > 1:
        listed = ", ".join(f"{name} stops at {' '.join(map(str, held)) or 'nothing'}" for name, held in stops.items())
        eos = f", and the tokenizer's EOS is {facts.eos_token} ({facts.eos_token_id})" if facts.eos_token else ""
        seen.append(listed + eos)
    known = {pad for pad in (*pads.values(), facts.pad_token_id) if pad is not None}
    if len(known) > 1:
        listed = ", ".join(f"{name} says {pad}" for name, pad in pads.items())
        seen.append(f"{listed} for padding, and the tokenizer {facts.pad_token_id}")
    if seen:
        message = f"The saved files disagree: {'; '.join(seen)}."
        yield CHECK.found(message, tuple(_changes(facts, stops, pads)))


def _changes(facts: Facts, stops: dict[str, tuple[int, ...]], pads: dict[str, int | None]) -> Iterator[Change]:
    expected = stop_ids(facts) if facts.vocab_size else tuple(dict.fromkeys(sum(reversed(stops.values()), ())))
    after = expected[0] if len(expected) == 1 else expected
    for name, held in stops.items():
        if set(held) != set(expected):
            target = f"model.{name.removesuffix('.json')}.eos_token_id"
            yield Change(target, held, after, "every file lists each id that ends a turn or a text")
    choice = choose_pad_token(facts) if facts.vocab_size else None
    for name, pad in pads.items():
        if choice is not None and pad != choice.token_id:
            target = f"model.{name.removesuffix('.json')}.pad_token_id"
            yield Change(target, pad, choice.token_id, "the same id as the tokenizer's pad token")


CHECK = Check(
    code="SAV001",
    name="saved-files-disagree",
    severity="warning",
    needs=("folder", "saved config"),
    traps=(3, 26),
    doc=__doc__,
    bad='generation_config.json: "eos_token_id": 128001 beside a tokenizer whose EOS is <|eot_id|>',
    good="llama-padfix doctor FOLDER --fix FIXED  # one stop list, one pad id, in every file",
    find=_find,
)
