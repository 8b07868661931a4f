"""BOS005: add_bos_token or add_eos_token say what encoding does not do."""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    config = facts.folder.tokenizer_config if facts.folder is not None else {}
    doubled = facts.template is not None and facts.template.leading_bos > 0 and facts.bos_added > 0
    seen, changes = [], []
    for name, added, token in (
        ("add_bos_token", facts.bos_added, facts.bos_token),
        ("add_eos_token", facts.eos_added, facts.eos_token),
    ):
        said = config.get(name)
        if not isinstance(said, bool) or said == (added > 0) or token is None:
            continue
        seen.append(f"{name} is {said}, yet encoding a text {'adds' if added else 'does not add'} {token}")
        if not (doubled and name == "add_bos_token"):  # BOS001 then sets both
            why = "the post-processor in tokenizer.json decides; classes that read the attribute now do the same"
            target = f"folder.tokenizer_config.{name}"
            changes.append(Change(target, said, added > 0, why))
    if seen:
        yield CHECK.found(f"In tokenizer_config.json {' and '.join(seen)}.", tuple(changes))


CHECK = Check(
    code="BOS005",
    name="saved-bos-attribute-disagrees",
    severity="warning",
    needs=("tokenizer", "folder"),
    traps=(33,),
    explanation="""\
`add_bos_token` and `add_eos_token` are read by some tokenizer classes and ignored by others, among them the one that
loads Llama 3: there the post-processor in tokenizer.json decides. A folder that says `add_eos_token: true` gets no
EOS, and where a class does read it, another version drops the BOS. The attribute is made to say what encoding does,
so that every version gives the same ids. To change what encoding does, edit the post-processor:
`patch_tokenizer(tokenizer, add_bos=True)`.
""",
    bad='tokenizer_config.json: "add_bos_token": false  # and ids still begin with 128000',
    good="prepare(tokenizer)  # found by encoding, set in the post-processor",
    find=_find,
)
