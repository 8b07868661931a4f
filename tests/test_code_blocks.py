"""Every code block of the README and the docs runs; the few that do not are listed here with the reason."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from datasets import Dataset

from llama_padfix import GuardError, TrainingGuard, prepare
from llama_padfix.demo.tiny import make_tiny_chat
from tests.support.code_blocks import RUN, find_blocks, parse_command, read_commands, run_page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "findings/README.md")),
    *sorted(path for path in DOCS.rglob("*.md") if path.parent.name != "checks"),
]
# Pages whose blocks this file runs, with the names that a reader has: a tiny model, its tokenizer, rows.
HERE = ("encoding", "guard", "loading", "memory", "packing", "preference", "rollouts", "serving", "stops", "view")
# Pages whose blocks other tests run: what runs them, and which.
ELSEWHERE = {
    "tests/test_first_hour.py": ("README.md", "docs/symptoms/*.md", "docs/migrate/*.md"),
    "tests/test_pages.py": ("docs/labels.md", "docs/design.md", "docs/rollouts.md", "docs/preference.md"),
    "tests/training/test_added_tokens.py": ("docs/embeddings.md",),
    "tests/training/test_task_pages.py": ("docs/tasks/*.md",),
    "tests/training/test_pictures.py": ("docs/pictures.md",),
}
# Blocks that are shown and not run, by page.
SHOWN = {
    "README.md": "the table of `make demo`, which takes 70 seconds",
    "docs/ci.md": "a finding at its line; tests/doctor/configs compares such text",
    "docs/design.md": "a drawing of the rooms",
    "docs/doctor.md": "what diagnose takes, and a finding of a run with 64 rows",
    "docs/loading.md": "choices on a T4",
    "docs/memory.md": "what `python benchmarks/memory.py 8b` prints in 11 seconds",
    "docs/serving.md": "what a check of rows prints; tests/serving/test_serve_with.py compares such text",
    "docs/view.md": "tests/view/test_mask_view.py compares it",
}
# Blocks that need what is not here, by their first line.
LEFT_OUT = {"loading": ("import unsloth  # before transformers",)}  # tests/unsloth runs it


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_every_block_has_a_language_and_runs_or_is_listed() -> None:
    run = {f"docs/{page}.md" for page in HERE}
    for pages in ELSEWHERE.values():
        run |= {name(path) for pattern in pages for path in ROOT.glob(pattern)}
    shown: Counter[str] = Counter()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = list(find_blocks(text))
        assert len(blocks) * 2 == len(re.findall("^ *```", text, re.MULTILINE)), f"{name(page)}: a fence is not read"
        for block in blocks:
            place = f"{name(page)}:{block.line}"
            assert block.language in RUN | {"pycon", "sh", "yaml", "txt"}, f"{place}: no language, or not a known one"
            if block.language in RUN:
                assert name(page) in run, f"{place}: nothing runs it"
            elif block.language == "pycon":
                assert name(page) in ELSEWHERE["tests/test_pages.py"], f"{place}: nothing runs it"
            shown[name(page)] += block.language == "txt"
    assert {page for page, count in shown.items() if count} == set(SHOWN)
    assert shown.total() == 9


EXTRAS = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]


def test_the_commands_of_every_page_exist() -> None:
    seen = 0
    for page in PAGES:
        for block in find_blocks(page.read_text(encoding="utf-8")):
            if block.language == "yaml":
                assert yaml.safe_load(block.text)
            if block.language != "sh":
                continue
            for words in read_commands(block.text):
                seen += 1
                place = f"{name(page)}:{block.line}: {words}"
                if words[0] == "llama-padfix":
                    parse_command(words)
                elif words[0] == "python":
                    assert (ROOT / words[1]).is_file(), place
                elif words[:2] == ["pip", "install"]:
                    extra = re.fullmatch(r"llama-padfix(?:\[(\w+)\])?", words[2])
                    assert extra and (not extra[1] or f"\n{extra[1]} = [" in EXTRAS), place
                else:
                    assert words[0] in {"export", "npm"}, place
    assert seen > 20
    with pytest.raises(SystemExit):
        parse_command(["llama-padfix", "doctor", "out", "--no-such-option"])


def pairs() -> list[dict[str, Any]]:
    return [
        {"prompt": f"{n} + 1?", "chosen": f"It is {n + 1}.", "rejected": "No idea."}  # of every preference task
        for n in range(4)
    ]


def make_names(page: str) -> dict[str, Any]:
    """What a reader of the page has before its first line; files lie in the working directory."""
    import torch
    import transformers
    import trl

    model, tokenizer, dataset = make_tiny_chat()
    dataset = dataset.select(range(4))
    prepared = prepare(tokenizer, model, max_length=512)
    names = {"__name__": "__page__", "model": model, "tokenizer": tokenizer, "dataset": dataset, "prepared": prepared}
    names |= {"rows": pairs() if page == "preference" else list(dataset), "encoder": prepared.encoder}
    encoded = prepared.encode(dataset)
    batches = [prepared.collator([row]) for row in encoded]
    dataset.to_json("train.jsonl")
    if page == "guard":
        optimizer = torch.optim.AdamW(model.parameters())
        names |= {"optimizer": optimizer, "batches": batches, "batch": batches[0], "step": 1}
        names |= {"loss": torch.tensor(1.0), "grad_norm": torch.tensor(1.0)}
        with pytest.raises(GuardError):  # the evidence that the page reads
            TrainingGuard("out/guard").watch(torch.tensor(torch.nan), batch=batches[0], step=12)
    elif page == "encoding":  # processes that each import torch are tried elsewhere
        names["prepared"] = SimpleNamespace(encode=lambda rows, num_proc=1: prepared.encode(rows))
    elif page in {"loading", "memory", "serving"}:
        model.config.max_position_embeddings = 4096
        for folder in ("meta-llama/Llama-3.1-8B-Instruct", "out"):  # stands for the model of the page
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    elif page == "stops":
        names |= {"held_back": ["2 + 2?"], "trained": encoded}
    elif page == "rollouts":
        names["dataset"] = Dataset.from_list([{"prompt": "2 + 2?"}] * 8)
        names |= {"rewards": lambda completions, **_: [0.0] * len(completions), "play": None}
    if page in {"memory", "view"}:
        arguments: Any = transformers.TrainingArguments("run", max_steps=1, use_cpu=True, report_to=[])
        names["trainer"] = transformers.Trainer(model, arguments, prepared.collator, encoded)
    if page == "packing":
        config = trl.SFTConfig("out", max_length=64, packing=True, use_cpu=True, report_to=[])
        names["parser"] = SimpleNamespace(parse_args_and_config=lambda: (None, config, None))
    return names


@pytest.mark.slow
@pytest.mark.parametrize("page", HERE)
def test_the_blocks_of_a_page_run_in_order(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = DOCS / f"{page}.md"
    blocks = [block for block in find_blocks(path.read_text(encoding="utf-8")) if block.language in RUN]
    assert run_page(path, make_names(page), LEFT_OUT.get(page, ())) == len(blocks) > 0
