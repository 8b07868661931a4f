"""Each check of rows: the trap as a user makes it, the finding with its numbers, the fix, and what the fix heals."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling

from llama_padfix import IGNORE_INDEX, PadCollator, find_markers, mask_labels, prepare
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.doctor.check_helpers import find_turns
from llama_padfix.doctor.diagnose import diagnose
from llama_padfix.doctor.findings import Finding
from llama_padfix.doctor.observe.rows import rows_of_batch
from llama_padfix.doctor.runner import load_checks
from tests.conftest import fresh_tokenizer
from tests.support.correct_setups import (
    BASE_TEXTS,
    CHATS,
    SETUPS,
    SINGLE,
    Setup,
    make_setup,
    patched,
    plain_trainer,
    sft_trainer,
    trl_template,
)

EOT, END_OF_TEXT, BOS = 128009, 128001, 128000
TURNS = 14  # of the assistant, in CHATS
OWN = {check.code: check for check in load_checks() if "rows" in check.needs}


@dataclass(frozen=True)
class Trap:
    """How it is made and mended, and the numbers that the finding must show.

    A count may be reckoned from what was made. `text` stands in the evidence of the row `first`; None where the
    trainer shuffles its rows.
    """

    code: str
    make: Callable[[Path], Setup]
    mend: Callable[[Path], Setup]
    rows: int
    seen: int
    count: int | Callable[[Setup], int]
    where: str
    text: str
    first: int | None = 0
    remark: str = ""


@functools.cache
def raw(release: str, **changes: Any) -> Any:
    """A tokenizer of the release with these attributes, shared between tests, which must not change it."""
    tokenizer = fresh_tokenizer(release)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return tokenizer


def tiny(release: str = "3.1-instruct") -> Any:
    return make_tiny_llama(release, hidden_size=16)


def ids_of(tokenizer: Any, messages: Any, **keywords: Any) -> list[int]:
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **keywords)["input_ids"])


def rendered(tokenizer: Any) -> list[dict[str, str]]:
    return [{"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)} for row in CHATS]


def rows_setup(tokenizer: Any, rows: list[dict[str, Any]], model: Any = None) -> Setup:
    return Setup(tokenizer, {"model": model, "dataset": Dataset.from_list(rows)})


def encoded_setup(release: str, rows: Any = CHATS, **keywords: Any) -> Setup:
    tokenizer, model = patched(release)
    dataset = prepare(tokenizer, model, device="cpu", **keywords).encode(rows, progress=False)
    return Setup(tokenizer, {"model": model, "dataset": dataset})


def rendered_then_tokenized(folder: Path) -> Setup:
    tokenizer = raw("3.1-instruct", pad_token="<|end_of_text|>")
    return Setup(sft_trainer(tokenizer, tiny(), rendered(tokenizer), folder))


def rendered_then_tokenised_without_automatic_bos(folder: Path) -> Setup:
    tokenizer, model = patched("3.1-instruct")
    return Setup(sft_trainer(tokenizer, model, rendered(tokenizer), folder))


def text_without_bos(folder: Path) -> Setup:
    tokenizer = raw("3.1-base")
    rows = [{"input_ids": tokenizer(row["text"], add_special_tokens=False)["input_ids"]} for row in BASE_TEXTS]
    return rows_setup(tokenizer, rows)


@functools.cache
def with_new_token() -> Any:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.add_tokens(["<thought>"])
    return tokenizer


def new_token(folder: Path, *, resized: bool = False) -> Setup:
    tokenizer, model = with_new_token(), tiny()
    if resized:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    texts = ("plain", "a <thought> here", "<thought> and <thought>")
    return rows_setup(tokenizer, [dict(tokenizer(text)) for text in texts], model)


def chats_by_hand_on_a_base_model(folder: Path, *, patch: bool = False) -> Setup:
    tokenizer, model = raw("3.1-base"), tiny("3.1-base")
    if patch:
        tokenizer, model = patched("3.1-base")
    header = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
    rows = [tokenizer(header.format("user", "Why?") + header.format("assistant", "So."))["input_ids"]] * 3
    return rows_setup(tokenizer, [{"input_ids": row, "labels": row} for row in rows], model)


@functools.cache
def generation_tokenizer() -> Any:
    """One whose `{% generation %}` closes before the end token."""
    template = trl_template("llama3_training")
    cut = template.replace(
        "trim + '<|eot_id|>' }}\n        {%- endgeneration %}", "trim }}{%- endgeneration %}<|eot_id|>"
    )
    assert cut != template
    tokenizer = fresh_tokenizer("3-instruct-early")
    tokenizer.chat_template = cut
    return tokenizer


def generation_block_without_the_end(folder: Path) -> Setup:
    tokenizer, rows = generation_tokenizer(), []
    for row in CHATS:
        out = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
        pairs = zip(out["input_ids"], out["assistant_masks"], strict=True)
        labels = [token_id if bit else IGNORE_INDEX for token_id, bit in pairs]
        rows.append({"input_ids": out["input_ids"], "labels": labels})
    return rows_setup(tokenizer, rows)


def masked_by_us(tokenizer: Any) -> Setup:
    markers = find_markers(tokenizer)
    ids = [ids_of(tokenizer, row["messages"]) for row in CHATS]
    return rows_setup(tokenizer, [{"input_ids": row, "labels": mask_labels(row, markers)} for row in ids])


def prompt_without_the_header(folder: Path) -> Setup:
    """Completion-only by length, where the length is that of the prompt without a generation prompt."""
    tokenizer, rows = raw("3.1-instruct"), []
    for row in SINGLE:
        ids = ids_of(tokenizer, row["prompt"] + row["completion"])
        prompt = len(ids_of(tokenizer, row["prompt"]))
        rows.append({"input_ids": ids, "labels": [IGNORE_INDEX] * prompt + ids[prompt:]})
    return rows_setup(tokenizer, rows)


def ids_as_labels(folder: Path) -> Setup:
    tokenizer, model = patched("3.1-instruct")
    encoded = [ids_of(tokenizer, row["messages"]) for row in CHATS]
    return Setup(sft_trainer(tokenizer, model, [{"input_ids": ids, "labels": ids} for ids in encoded], folder))


def padded_to_max_length(folder: Path) -> Setup:
    tokenizer, model = patched("3.1-base")
    rows = [dict(tokenizer(row["text"], padding="max_length", max_length=64)) for row in BASE_TEXTS]
    rows = [{**row, "labels": row["input_ids"].copy()} for row in rows]
    return Setup(tokenizer, {"model": model, "dataset": Dataset.from_list(rows)})


def padded_by_the_collator(folder: Path) -> Setup:
    tokenizer, model = patched("3.1-base")
    rows = [{"input_ids": tokenizer(row["text"])["input_ids"]} for row in BASE_TEXTS]
    return Setup(plain_trainer(tokenizer, model, rows, folder, PadCollator(tokenizer.pad_token_id)))


def labels_shifted_beforehand(folder: Path) -> Setup:
    setup = masked_by_us(raw("3.1-instruct"))
    rows = [{**row, "labels": [*row["labels"][1:], IGNORE_INDEX]} for row in setup.keywords["dataset"]]
    return rows_setup(setup.target, rows)


def early_template_with_an_eos(folder: Path) -> Setup:
    tokenizer = raw("3-instruct-early", pad_token="<|reserved_special_token_0|>")
    return Setup(sft_trainer(tokenizer, tiny("3-instruct-early"), rendered(tokenizer), folder))


def early_template_masked(folder: Path) -> Setup:
    """The same ids, with the labels that `mask_labels` gives: the appended end is there and not trained."""
    tokenizer = raw("3-instruct-early", pad_token="<|reserved_special_token_0|>")
    ids = [[*ids_of(tokenizer, row["messages"]), END_OF_TEXT] for row in CHATS]
    markers = find_markers(tokenizer)
    return rows_setup(tokenizer, [{"input_ids": row, "labels": mask_labels(row, markers)} for row in ids])


def completion_with_questions(folder: Path) -> Setup:
    tokenizer, model = patched("3.1-instruct")
    asked = [len(row["messages"]) % 2 + 1 for row in CHATS]  # a system prompt, where there is one, and the question
    rows = [
        {"prompt": row["messages"][:until], "completion": row["messages"][until:]}
        for row, until in zip(CHATS, asked, strict=True)
    ]
    return Setup(sft_trainer(tokenizer, model, rows, folder))


def usual_collator(folder: Path, release: str = "3.1-instruct", patch: bool = False, **changes: Any) -> Setup:
    tokenizer, model = patched(release) if patch else (raw(release, **changes), tiny(release))
    rows = [{"input_ids": ids_of(tokenizer, row["messages"])} for row in CHATS]
    return Setup(
        plain_trainer(
            tokenizer,
            model,
            Dataset.from_list(rows),
            folder,
            DataCollatorForLanguageModeling(tokenizer, mlm=False),
            per_device_train_batch_size=len(rows),
        )
    )


def text_padded_with_eos(folder: Path, *, pad: str = "<|end_of_text|>") -> Setup:
    tokenizer = raw("3.1-base", pad_token=pad)
    rows = Dataset.from_list([dict(tokenizer(row["text"] + tokenizer.eos_token)) for row in BASE_TEXTS])
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return Setup(plain_trainer(tokenizer, tiny("3.1-base"), rows, folder, collator))


def packed(folder: Path, strategy: str) -> Setup:
    tokenizer, model = patched("3-instruct-early", trl_template("llama3_training"))
    given = {"assistant_only_loss": True, "packing": True, "packing_strategy": strategy, "max_length": 256}
    return Setup(sft_trainer(tokenizer, model, CHATS, folder, **given))


def roles_passed_through(folder: Path) -> Setup:
    tokenizer = raw("3.1-instruct")
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    chats = [[{**message, "role": names[message["role"]]} for message in row["messages"]] for row in CHATS]
    rows = [{"input_ids": (ids := ids_of(tokenizer, chat)), "labels": ids} for chat in chats]
    return rows_setup(tokenizer, rows)


def share_gpt_read(folder: Path) -> Setup:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    rows = [
        {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in row["messages"]]}
        for row in CHATS
    ]
    return encoded_setup("3.1-instruct", rows)


def cut_by_trl(folder: Path) -> Setup:
    tokenizer, model = patched("3-instruct-early", trl_template("llama3_training"))
    return Setup(sft_trainer(tokenizer, model, CHATS, folder, assistant_only_loss=True, max_length=40))


def cut_by_us(folder: Path) -> Setup:
    tokenizer, model = patched("3-instruct-early", trl_template("llama3_training"))
    dataset = prepare(tokenizer, model, max_length=40, device="cpu").encode(CHATS, progress=False)
    return Setup(tokenizer, {"model": model, "dataset": dataset})


def count_prompts(setup: Setup) -> int:
    tokenizer = setup.target.processing_class
    prepared = prepare(tokenizer, device="cpu")
    prepared.encode(CHATS, progress=False)
    return sum(len(ids_of(tokenizer, row["messages"])) for row in CHATS) - prepared.counts.trained_tokens


def count_padding(setup: Setup) -> int:
    return sum(64 - len(setup.target(row["text"])["input_ids"]) for row in BASE_TEXTS)


def count_differing(setup: Setup) -> int:
    pairs = [p for row in setup.keywords["dataset"] for p in zip(row["input_ids"], row["labels"], strict=True)]
    return sum(label not in (IGNORE_INDEX, token_id) for token_id, label in pairs)


def count_questions(setup: Setup) -> int:
    """The ids of all questions but each conversation's first, headers and ends included."""
    asked = [[m["content"].strip() for m in row["messages"] if m["role"] == "user"] for row in CHATS]
    text = "".join(f"<|start_header_id|>user<|end_header_id|>\n\n{q}<|eot_id|>" for row in asked for q in row[1:])
    return len(setup.target.processing_class(text, add_special_tokens=False)["input_ids"])


def count_cut(setup: Setup) -> int:
    rows = setup.target.train_dataset
    return sum(len(row["input_ids"]) == 40 and row["labels"][-1] not in (IGNORE_INDEX, EOT) for row in rows)


def count_left_padding(setup: Setup) -> int:
    lengths = [len(row["input_ids"]) for row in setup.target.train_dataset]
    return max(lengths) * len(lengths) - sum(lengths)


def count_inner_bos(setup: Setup) -> int:
    return sum(row["input_ids"][1:].count(BOS) for row in setup.target.train_dataset)


HEADER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
TRAPS = [
    Trap(
        "BOS003",
        rendered_then_tokenized,
        rendered_then_tokenised_without_automatic_bos,
        7,
        7,
        7,
        "train batch",
        "<|begin_of_text|><|begin_of_text|><|start_header_id|>system",
        None,
    ),
    Trap(
        "BOS004",
        text_without_bos,
        lambda folder: encoded_setup("3.1-base", BASE_TEXTS),
        5,
        5,
        5,
        "dataset",
        "Once upon a time",
    ),
    Trap(
        "EMB002",
        new_token,
        lambda folder: new_token(folder, resized=True),
        2,
        3,
        3,
        "dataset",
        "<|begin_of_text|>a <thought> here",
        1,
        "id 128256, and the embedding has 128256 rows",
    ),
    Trap(
        "GEN003",
        chats_by_hand_on_a_base_model,
        lambda folder: chats_by_hand_on_a_base_model(folder, patch=True),
        3,
        3,
        3,
        "dataset",
        "So.<|eot_id|>",
        0,
        "trained to end with 128009; generation stops at [128001]",
    ),
    Trap(
        "LBL002",
        generation_block_without_the_end,
        lambda folder: masked_by_us(generation_tokenizer()),
        7,
        7,
        TURNS,
        "dataset",
        "Because 1.<|eot_id|><|start_header_id|>user",
        0,
        "0 of 2 stop tokens of trained turns are trained",
    ),
    Trap(
        "LBL003",
        prompt_without_the_header,
        lambda folder: masked_by_us(raw("3.1-instruct")),
        7,
        7,
        7,
        "dataset",
        HEADER + "Because 2",
    ),
    Trap(
        "LBL004",
        ids_as_labels,
        lambda folder: encoded_setup("3.1-instruct"),
        7,
        7,
        count_prompts,
        "train batch",
        "<|begin_of_text|><|start_header_id|>system",
        None,
    ),
    Trap(
        "LBL005",
        padded_to_max_length,
        padded_by_the_collator,
        5,
        5,
        count_padding,
        "dataset",
        "<|finetune_right_pad_id|>" * 40,
        0,
    ),
    Trap(
        "LBL007",
        labels_shifted_beforehand,
        lambda folder: masked_by_us(raw("3.1-instruct")),
        7,
        7,
        count_differing,
        "dataset",
        HEADER + "Because",
        0,
        "the labels are shifted by one, and the model shifts them again",
    ),
    Trap(
        "LBL008",
        early_template_with_an_eos,
        early_template_masked,
        7,
        7,
        7,
        "train batch",
        HEADER + "<|end_of_text|>",
        None,
    ),
    Trap(
        "LBL009",
        completion_with_questions,
        lambda folder: encoded_setup("3.1-instruct"),
        5,
        7,
        count_questions,
        "train batch",
        "<|start_header_id|>user<|end_header_id|>\n\nWhy",
        None,
    ),
    Trap(
        "PAD007",
        lambda folder: usual_collator(folder, pad_token="<|end_of_text|>", padding_side="left"),
        lambda folder: usual_collator(folder, patch=True),
        6,
        7,
        count_left_padding,
        "train batch",
        "<|end_of_text|><|begin_of_text|>",
        None,
    ),
    Trap(
        "PAD008",
        lambda folder: usual_collator(folder, pad_token="<|eot_id|>"),
        lambda folder: usual_collator(folder, patch=True),
        7,
        7,
        TURNS,
        "train batch",
        "<|eot_id|>",
        None,
        "ends of trained text are trained",
    ),
    Trap(
        "PAD008",
        text_padded_with_eos,
        lambda folder: text_padded_with_eos(folder, pad="<|finetune_right_pad_id|>"),
        5,
        5,
        5,
        "train batch",
        "llama. <|end_of_text|>",
        None,
        "0 of 1 ends of trained text are trained",
    ),
    Trap(
        "PCK001",
        lambda folder: packed(folder, "wrapped"),
        lambda folder: packed(folder, "bfd"),
        2,
        2,
        count_inner_bos,
        "train batch",
        "<|eot_id|><|begin_of_text|><|start_header_id|>",
        None,
    ),
    Trap(
        "TPL003",
        roles_passed_through,
        share_gpt_read,
        7,
        7,
        2 * TURNS,
        "dataset",
        "<|start_header_id|>human<|end_header_id|>\n\n",
        0,
        "the roles 'human', 'gpt'",
    ),
    Trap(
        "TRN001",
        cut_by_trl,
        cut_by_us,
        2,
        7,
        count_cut,
        "train batch",
        "Because",
        None,
        "tokens of the answer",
    ),
]


def findings(setup: Setup, code: str, **keywords: Any) -> list[Finding]:
    report = diagnose(setup.target, **{**setup.keywords, **keywords})
    assert code not in report.skipped, report.skipped[code]
    assert (code in report.passed) == (code not in {finding.code for finding in report.findings})
    return [finding for finding in report.findings if finding.code == code]


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.code)
@pytest.mark.slow
def test_the_trap_is_found_with_its_numbers_and_is_gone_when_it_is_mended(trap: Trap, tmp_path: Path) -> None:
    setup = trap.make(tmp_path)
    [finding] = findings(setup, trap.code)
    count = trap.count if isinstance(trap.count, int) else trap.count(setup)
    assert count > 0
    assert (finding.rows, finding.seen, finding.count, finding.where) == (trap.rows, trap.seen, count, trap.where)
    assert f"{trap.rows} of {trap.seen} rows ({trap.where})" in finding.message
    assert finding.severity == OWN[trap.code].severity
    shown = finding.evidence[0]
    assert trap.text in shown.text
    assert trap.remark in shown.remark
    assert len(finding.evidence) == min(trap.rows, 5)
    if trap.first is not None:
        assert shown.row == trap.first
    assert findings(trap.mend(tmp_path), trap.code) == []


def test_every_check_of_rows_has_its_trap_here() -> None:
    of_their_own = {"LBL001", "LBL006"} | {"LBL010", "LBL012", "TPL007"}  # see below, and test_checks_runs
    assert {trap.code for trap in TRAPS} | of_their_own >= {
        code for code in OWN if code[:3] in ("BOS", "LBL", "TRN", "TPL") or code in ("EMB002", "GEN003", "PCK001")
    }


# ---- what the faults do, and that the cures heal it


@pytest.mark.parametrize("name", sorted(SETUPS))
@pytest.mark.slow
def test_nothing_above_a_note_is_said_of_a_correct_set_up(name: str, tmp_path: Path) -> None:
    setup = make_setup(name, tmp_path)
    report = diagnose(setup.target, **setup.keywords)
    assert [str(finding) for finding in report.findings if finding.severity != "note"] == []
    assert not [reason for reason in report.skipped.values() if "raised" in reason]
    assert all(sample.seen for sample in report.samples)


def test_the_corpus_is_worth_its_name() -> None:
    assert len(SETUPS) >= 25


def test_the_masked_end_is_trained_again(tmp_path: Path) -> None:
    def trained_ends(setup: Setup) -> list[bool]:
        [batch] = setup.target.get_train_dataloader()
        rows = rows_of_batch(batch, "train batch")
        markers = find_markers(setup.target.processing_class)
        return [bool(row.labels[turn.end] == EOT) for row in rows for turn in find_turns(row, markers)]

    assert trained_ends(usual_collator(tmp_path, pad_token="<|eot_id|>")) == [False] * TURNS
    assert trained_ends(usual_collator(tmp_path, patch=True)) == [True] * TURNS
    [finding] = findings(usual_collator(tmp_path, pad_token="<|eot_id|>"), "PAD008")
    assert {evidence.remark for evidence in finding.evidence} <= {
        f"0 of {turns} ends of trained text are trained" for turns in (1, 2, 3)
    }
    assert findings(usual_collator(tmp_path, pad_token="<|eot_id|>"), "LBL002") == []  # one fault, one finding


def test_an_id_beyond_the_embedding_ends_the_run(tmp_path: Path) -> None:
    for resized in (False, True):
        setup = new_token(tmp_path, resized=resized)
        batch = torch.tensor([setup.keywords["dataset"][1]["input_ids"]])
        if resized:
            setup.keywords["model"](input_ids=batch)
        else:
            with pytest.raises(IndexError):
                setup.keywords["model"](input_ids=batch)


def test_ids_that_are_negative() -> None:
    batch = {"input_ids": torch.tensor([[1, 2, 3], [4, -100, -100]])}
    [finding] = findings(Setup(batch), "EMB002")
    assert (finding.rows, finding.seen, finding.count, finding.evidence[0].row) == (1, 2, 2, 1)
    assert finding.evidence[0].remark == "id -100"


def test_labels_padded_with_nought() -> None:
    batch = {"input_ids": torch.tensor([[1, 2, 3], [4, 9, 9]]), "labels": torch.tensor([[-100, 2, 3], [-100, 0, 0]])}
    [finding] = findings(Setup(batch), "LBL007")
    assert (finding.rows, finding.count, finding.evidence[0].remark) == (1, 2, "label 0 at id 9")


def test_the_double_bos_is_in_the_ids_and_then_is_not(tmp_path: Path) -> None:
    before = rendered_then_tokenized(tmp_path).target.train_dataset
    after = rendered_then_tokenised_without_automatic_bos(tmp_path).target.train_dataset
    assert [row["input_ids"] for row in before] == [[BOS, *row["input_ids"]] for row in after]


def test_what_follows_the_open_header_is_trained_no_more(tmp_path: Path) -> None:
    def ends(rows: Any) -> set[tuple[int, int]]:
        return {(row["input_ids"][-1], row["labels"][-1]) for row in rows}

    assert ends(early_template_with_an_eos(tmp_path).target.train_dataset) == {(END_OF_TEXT, END_OF_TEXT)}
    healed = encoded_setup("3-instruct-early").keywords["dataset"]
    assert {label for _, label in ends(healed)} == {IGNORE_INDEX}


@pytest.mark.slow
def test_a_packed_conversation_sees_the_one_before_it_unless_borders_are_kept(tmp_path: Path) -> None:
    """The logits of a conversation must not depend on what is packed before it."""

    def logits(setup: Setup, **changes: Any) -> tuple[Any, Any]:
        batch = next(iter(setup.target.get_train_dataloader()))
        ids = batch["input_ids"][0]
        starts = [*(ids == BOS).nonzero().flatten().tolist(), len(ids)]
        begin, end = starts[1], starts[2]
        given = {name: batch[name][:1] for name in ("attention_mask", "position_ids") if name in batch}
        given |= {name: make(ids) for name, make in changes.items()}
        model = setup.target.model.eval()
        with torch.no_grad():
            together = model(input_ids=ids[None], **given).logits[0, begin:end]
            alone = model(input_ids=ids[None, begin:end]).logits[0]
        return together, alone

    assert not torch.allclose(*logits(packed(tmp_path, "wrapped")), atol=1e-5)
    assert torch.allclose(*logits(packed(tmp_path, "bfd")), atol=1e-5)
    # With an attention mask beside them, sdpa does not look at the position ids.
    masked = {"attention_mask": lambda ids: torch.ones_like(ids)[None]}
    assert not torch.allclose(*logits(packed(tmp_path, "bfd"), **masked), atol=1e-5)


def test_rows_without_one_trained_token() -> None:
    rows = [{"input_ids": [1, 2], "labels": [-100, 2]}, {"input_ids": [1, 2], "labels": [-100, -100]}]
    [finding] = findings(Setup(Dataset.from_list(rows)), "LBL001")
    assert (finding.rows, finding.seen, finding.evidence[0].row) == (1, 2, 1)
