"""What a training script shows by itself: its syntax tree is read, and nothing of it is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.configs.families import find_family
from llama_padfix.doctor.configs.settings import Fault, Place

_ARGUMENTS = {"SFTConfig", "TrainingArguments", "DPOConfig", "KTOConfig", "ORPOConfig", "RewardConfig"}
_PADDING_COLLATORS = {
    "DataCollatorForLanguageModeling",
    "DataCollatorForCompletionOnlyLM",
    "DataCollatorForSeq2Seq",
    "DataCollatorWithPadding",
    "PadCollator",
}
_MASKING_COLLATORS = {"DataCollatorForLanguageModeling"}  # by id, wherever the pad token stands
_FIXES = {"prepare", "patch_tokenizer", "build_trainer", "load"}


def find_faults(text: str, name: str) -> Iterator[Fault]:
    """Yield the faults of a script, in the order of its lines.

    Args:
        text: The source.
        name: The name of the file, for errors.

    Raises:
        PadfixError: The source is not Python that this version reads.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise PadfixError(
            f"{name!r} is no Python that this version reads: {error}. Check: python -m py_compile"
        ) from error
    script = _Script(tree)
    read = [node for node in ast.walk(tree) if isinstance(node, (ast.Assign, ast.Call))]
    for node in sorted(read, key=lambda node: (node.lineno, node.col_offset)):
        if isinstance(node, ast.Assign):
            yield from script.read_assignment(node)
        else:
            yield from script.read_call(node)


class _Script:
    """What is known of a whole script."""

    def __init__(self, tree: ast.AST) -> None:
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        self.called = {_last_name(call.func) for call in calls}
        self.own_fixes = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "llama_padfix"
            for alias in node.names
        } & _FIXES
        self.bound = {
            target.id: _last_name(node.value.func)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        given = [call.args[0] for call in calls if _last_name(call.func) == "from_pretrained" and call.args]
        names = [node.value for node in given if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        self.family = next((family for name in names if (family := find_family(name))), None)
        collators = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "data_collator"]
        self.collators = {self._name_of(node) for node in collators}

    def _name_of(self, node: ast.expr) -> str:
        """Return the class of a collator that is made on the spot or was bound to a name."""
        if isinstance(node, ast.Call):
            return _last_name(node.func)
        return self.bound.get(node.id, "") if isinstance(node, ast.Name) else ""

    def read_assignment(self, node: ast.Assign) -> Iterator[Fault]:
        """Yield pad = eos."""
        if self.own_fixes:
            return  # they set another pad token afterwards
        for target in node.targets:
            pads = isinstance(target, ast.Attribute) and target.attr in ("pad_token", "pad_token_id")
            of_config = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Attribute)
            ends = isinstance(node.value, ast.Attribute) and node.value.attr in ("eos_token", "eos_token_id")
            if pads and ends and not of_config:
                hidden = bool(self.called & _MASKING_COLLATORS)
                effect = (
                    "DataCollatorForLanguageModeling masks every pad id, so no end of a turn is trained"
                    if hidden
                    else "collators that mask every pad id hide the end of a turn, and the next run inherits it"
                )
                yield Fault(
                    "PAD002",
                    "error" if hidden else "warning",
                    f"The pad token is the EOS: {effect}.",
                    "prepare(tokenizer, model)  # from llama_padfix: a token that need not be learned",
                    _place(node),
                )

    def read_call(self, node: ast.Call) -> Iterator[Fault]:
        """Yield what the keywords of a config's call show."""
        name = _last_name(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if name not in _ARGUMENTS:
            return
        if _is_true(given.get("fp16")) and self.family is not None:
            yield Fault(
                "PRC003",
                "warning",
                f"fp16=True, and {self.family.name} was trained in bfloat16: numbers beyond 65504 become inf, and the "
                "loss nan. On a GPU without bfloat16 clip tightly and keep the learning rate low.",
                "bf16=True  # or prepared.training_args, which looks at the device",
                _place(given["fp16"]),
            )
        padding = self.collators & _PADDING_COLLATORS
        if _is_true(given.get("packing")) and padding:
            yield Fault(
                "PCK002",
                "warning",
                f"packing=True with {min(padding)}, which pads: what it makes of a packed row has no bounds of "
                "documents, so each attends to those before it, or the trainer refuses it.",
                "prepare(tokenizer, model, max_length=2048, packing=True)  # its collator goes with it",
                _place(given["packing"]),
            )
        if name == "SFTConfig" and None not in given and not {"max_length", "max_seq_length"} & given.keys():
            yield Fault(
                "TRN001",
                "note",
                "max_length is not set, and TRL's default is 1024 tokens: longer rows are cut, their ends too.",
                "SFTConfig(max_length=4096)  # as long as your rows are",
                _place(node.func),
            )


def _last_name(node: ast.expr) -> str:
    """Return the last part of a dotted name, "" for any other expression."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _place(node: ast.expr | ast.stmt) -> Place:
    same = node.end_lineno == node.lineno and node.end_col_offset is not None
    return Place(node.lineno, node.col_offset + 1, (node.end_col_offset or 0) - node.col_offset if same else 1)
