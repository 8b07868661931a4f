"""BOS005: add_bos_token or add_eos_token disagrees with what encoding does.

Some tokenizer classes read `add_bos_token` and `add_eos_token`, and others ignore them. The class that loads Llama 3
ignores them: there the post-processor in tokenizer.json decides. A folder with `add_eos_token: true` may get no EOS,
and another version may drop the BOS. The change sets the attribute to what encoding does, so that every version gives
the same ids. `patch_tokenizer(tokenizer, add_bos=True)` changes what encoding does.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    config = facts.folder.tokenizer_config if facts.folder is not None else {}
    doubled = facts.template is not None and facts.template.leading_bos > 0 and facts.bos_added > 0
    seen, changes = [], []
    for name, added, token in (
        ("add_bos_token", facts.bos_added, facts.bos_token),
        ("add_eos_token", facts.eos_added, facts.eos_token),
    ):
        declared = config.get(name)
        if not isinstance(declared, bool) or declared == (added > 0) or token is None:
            continue
        seen.append(f"{name} is {declared}, yet encoding a text {'adds' if added else 'does not add'} {token}")
        if not (doubled and name == "add_bos_token"):  # BOS001 then sets both
            why = "the post-processor in tokenizer.json decides; classes that read the attribute now do the same"
            changes.append(Change(f"folder.tokenizer_config.{name}", declared, added > 0, why))
    if seen:
        yield CHECK.found(f"In tokenizer_config.json {' and '.join(seen)}.", tuple(changes))


CHECK = Check(
    code="BOS005",
    name="saved-bos-attribute-disagrees",
    severity="warning",
    needs=("tokenizer", "folder"),
    traps=(33,),
    doc=__doc__,
    bad='tokenizer_config.json: "add_bos_token": false  # and ids still begin with 128000',
    good="prepare(tokenizer)  # found by encoding, set in the post-processor",
    find=_find,
)
