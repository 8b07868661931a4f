"""Each check finds its fault on a real tokenizer, heals it, and is silent on every release that is patched."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from llama_padfix import PadfixError, patch_tokenizer, plan_patch
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.doctor import checks
from llama_padfix.doctor.facts import Facts
from llama_padfix.doctor.findings import Check
from llama_padfix.doctor.observe.tokenizer import observe_tokenizer
from llama_padfix.doctor.runner import load_checks, run_checks
from tests.conftest import ALL, fresh_tokenizer

CATALOGUE = load_checks()
EACH = "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}"
ENDLESS = EACH + "{% endfor %}"


@dataclass(frozen=True)
class Fault:
    """How a user makes it, what the message must say of it, and whether a patch heals it."""

    release: str
    make: Callable[[Any, Any], Any]
    numbers: tuple[str, ...]
    heals: bool = True
    adds_tokens: bool = False


def setting(**values: Any) -> Callable[[Any, Any], None]:
    def apply(tokenizer: Any, model: Any) -> None:
        for name, value in values.items():
            setattr(tokenizer, name, value)

    return apply


def as_released(tokenizer: Any, model: Any) -> None:
    """The release as it came: the fault is in it."""


def splits_like_llama_2(tokenizer: Any, model: Any) -> None:
    """What LlamaTokenizerFast of transformers 5.0 to 5.21 makes of Llama 3's tokenizer.json."""
    from tokenizers import Regex, decoders, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(" "), behavior="removed")
    backend.decoder = decoders.Fuse()


FAULTS: dict[str, list[Fault]] = {
    "BOS001": [Fault("3.1-instruct", as_released, ("<|begin_of_text|>", "starts with 2 of them"))],
    "BOS002": [
        Fault("3-instruct-early", setting(chat_template=None), ("does not add <|begin_of_text|>",), heals=False),
        Fault("3-instruct-early", setting(chat_template=EACH[15:] + "<|eot_id|>{% endfor %}"), ("<|begin_of",), False),
    ],
    "EMB001": [
        Fault(
            "3.1-instruct",
            lambda tokenizer, model: tokenizer.add_tokens([f"<t{i}>" for i in range(7)]),
            ("has 128256 rows", "'<t0>' (128256)", "'<t4>' (128260) and 2 more"),
            heals=False,
            adds_tokens=True,
        )
    ],
    "GEN001": [
        Fault("3-instruct-early", as_released, ("with <|eot_id|>", "EOS is <|end_of_text|>")),
        Fault("3.1-instruct", setting(eos_token="<|end_of_text|>"), ("with <|eot_id|>", "EOS is <|end_of_text|>")),
    ],
    "GEN002": [
        Fault("3.1-base", as_released, ("[128001, 128008, 128009]", "model.generation_config.eos_token_id is 128001")),
        Fault(
            "3.1-instruct",
            lambda tokenizer, model: setattr(model.config, "eos_token_id", None),
            ("model.config.eos_token_id is None",),
        ),
    ],
    "LOD007": [Fault("3.1-instruct", splits_like_llama_2, ("[9906, 14957]", "'Helloworld'", "5.0 to 5.21"), False)],
    "PAD001": [Fault(release, as_released, ("pad_token is None",)) for release in ("3-base", "3.2-instruct")],
    "PAD002": [
        Fault("3.1-instruct", setting(pad_token="<|eot_id|>"), ("'<|eot_id|>' (128009)", "never learns to stop")),
        Fault("3-base", setting(pad_token="<|end_of_text|>"), ("'<|end_of_text|>' (128001)",)),
    ],
    "PAD003": [
        Fault("3.1-instruct-early", setting(pad_token="<|finetune_right_pad_id|>"), ("is not in the vocabulary",)),
        Fault(
            "3.1-instruct",
            lambda tokenizer, model: tokenizer.add_special_tokens({"pad_token": "[PAD]"}),
            ("'[PAD]' has id 128256", "has 128256 rows"),
            adds_tokens=True,
        ),
    ],
    "PAD004": [
        Fault("3.1-instruct", setting(pad_token="<|end_of_text|>"), ("128001", "model.config.pad_token_id is None")),
        Fault(
            "3.1-instruct",
            lambda tokenizer, model: setattr(model.generation_config, "pad_token_id", 128009),
            ("128001", "model.generation_config.pad_token_id is 128009"),
        ),
    ],
    "PAD005": [Fault("3.1-instruct", setting(padding_side="left"), ("is 'left'",))],
    "PAD006": [
        Fault("3.1-instruct", setting(pad_token_id=0), ("'!' (0) is ordinary text",)),
        Fault("3.1-instruct", setting(pad_token="<|begin_of_text|>"), ("(128000) is the BOS",)),
    ],
    "TPL001": [
        Fault(
            "3.1-instruct", setting(chat_template="{{ raise_exception('no') }}"), ("raised TemplateError: no",), False
        ),
        Fault("3.1-instruct", setting(chat_template=ENDLESS), ("without any special token",), heals=False),
    ],
    "TPL002": [
        Fault("3-instruct-early", as_released, ("ends every conversation with '<|start_header_id|>assistant",), False)
    ],
    "TPL008": [Fault("3.1-instruct", setting(split_special_tokens=True), ("split_special_tokens is True",))],
}
CASES = [(code, fault) for code, faults in FAULTS.items() for fault in faults]
# The checks of settings, which a patch heals; those of rows, trainers and folders are tested with what they read.
SETTINGS = {check.code: check for check in CATALOGUE if check.code in FAULTS}
# What a patch leaves, since it is no fault of a setting: the early template always opens a turn.
LEFT = {"3-instruct-early": {"TPL002"}}


def codes(facts: Facts) -> set[str]:
    return {finding.code for finding in run_checks(facts).findings}


@pytest.mark.parametrize(("code", "fault"), CASES, ids=[code for code, _ in CASES])
def test_fault_is_found_and_healed(code: str, fault: Fault) -> None:
    model = make_tiny_llama(fault.release, hidden_size=16)
    if fault.adds_tokens:
        _find_and_heal(code, fault, fresh_tokenizer(fault.release), model)
        return
    tokenizer = fresh_tokenizer(fault.release)
    _find_and_heal(code, fault, tokenizer, model)


def _find_and_heal(code: str, fault: Fault, tokenizer: Any, model: Any) -> None:
    fault.make(tokenizer, model)
    [finding] = [
        finding for finding in run_checks(observe_tokenizer(tokenizer, model)).findings if finding.code == code
    ]
    assert all(number in finding.message for number in fault.numbers), finding.message
    assert all(change.code == code and change.before != change.after for change in finding.changes)
    assert any(change.safety == "safe" for change in finding.changes) == fault.heals
    if code == "LOD007":
        before = tokenizer.backend_tokenizer.to_str()
        with pytest.raises(PadfixError, match=r"decodes as 'Helloworld'.*PreTrainedTokenizerFast"):
            patch_tokenizer(tokenizer, model)
        assert (tokenizer.backend_tokenizer.to_str(), tokenizer.pad_token) == (before, None)
        return
    patch_tokenizer(tokenizer, model)
    assert (code in codes(observe_tokenizer(tokenizer, model))) == (not fault.heals)


def test_a_complete_generation_config_needs_but_the_turns_stop_in_the_config() -> None:
    tokenizer, model = fresh_tokenizer("3.1-instruct"), make_tiny_llama("3.1-instruct", hidden_size=16)
    patch_tokenizer(tokenizer, model)
    for held in (128009, [128009, 128001]):  # 128009 alone is what the Trainer of transformers 4.57 makes of the list
        model.config.eos_token_id = held
        assert "GEN002" not in codes(observe_tokenizer(tokenizer, model))
    model.config.eos_token_id = 128001
    [finding] = [each for each in run_checks(observe_tokenizer(tokenizer, model)).findings if each.code == "GEN002"]
    assert [(change.target, change.after) for change in finding.changes] == [
        ("model.config.eos_token_id", (128001, 128008, 128009))
    ]
    model.config.eos_token_id = model.generation_config.eos_token_id = 128009
    targets = [change.target for change in plan_patch(tokenizer, model).changes]
    assert targets == ["model.config.eos_token_id", "model.generation_config.eos_token_id"]
    model.generation_config = None
    assert "GEN002" in codes(observe_tokenizer(tokenizer, model)), "then the config is what generate reads"


@pytest.mark.parametrize("release", ALL)
def test_patched_releases_are_healthy(release: str) -> None:
    model = make_tiny_llama(release, hidden_size=16)
    tokenizer = fresh_tokenizer(release)
    before = codes(observe_tokenizer(tokenizer, model))
    assert {"PAD001", "PAD004"} <= before
    patch_tokenizer(tokenizer, model)
    report = run_checks(observe_tokenizer(tokenizer, model))
    assert {finding.code for finding in report.findings} & set(SETTINGS) == LEFT.get(release, set())
    report.raise_for_errors()
    left = {"BOS001", "GEN001", "TPL001", "TPL002", "TPL008"} if release.endswith("base") else set()
    skipped = {code: reason for code, reason in report.skipped.items() if code in SETTINGS}
    assert skipped == dict.fromkeys(left, "no template to look at")
    reported = {*report.passed, *report.skipped, *(finding.code for finding in report.findings)}
    assert reported == {check.code for check in CATALOGUE}, "each check is accounted for"


def test_the_faults_are_those_of_known_checks() -> None:
    assert list(FAULTS) == list(SETTINGS)


@pytest.mark.parametrize("check", CATALOGUE, ids=lambda check: check.code)
def test_a_check_is_complete(check: Check) -> None:
    [file] = Path(checks.__path__[0]).glob(f"{check.code.lower()}_*.py")
    assert re.fullmatch(r"[A-Z]{3}\d{3}", check.code)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", check.name)
    assert check.severity in ("error", "warning", "note")
    assert check.needs
    assert (check.find is None) != (check.inspect is None)
    for text in (check.explanation, check.bad, check.good):
        assert text.strip()
    assert len(check.explanation) > 100
    module = importlib.import_module(f"llama_padfix.doctor.checks.{file.stem}")
    assert module.CHECK is check
    assert str(module.__doc__).startswith(f"{check.code}: ")


def test_codes_and_names_are_unique() -> None:
    assert len(CATALOGUE) >= 13
    assert len({check.code for check in CATALOGUE}) == len({check.name for check in CATALOGUE}) == len(CATALOGUE)
    assert [check.code for check in CATALOGUE] == sorted(check.code for check in CATALOGUE)


# ---- the doctor


@pytest.fixture(scope="module")
def facts() -> Facts:
    tokenizer = fresh_tokenizer("3.1-instruct")
    return observe_tokenizer(tokenizer)


def test_a_check_that_raises_is_listed_and_the_others_run(facts: Facts) -> None:
    def explode(facts: Facts) -> Iterator[Any]:
        yield from ()
        raise ZeroDivisionError("by nought")

    broken = replace(SETTINGS["BOS001"], code="AAA001", find=explode)
    report = run_checks(facts, (broken, *SETTINGS.values()))
    assert report.skipped["AAA001"] == "the check itself raised ZeroDivisionError: by nought"
    assert {"BOS001", "PAD001"} <= {finding.code for finding in report.findings}
    assert "AAA001" not in report.passed
    assert "skipped: AAA001 (the check itself raised" in str(report)


def test_what_is_not_there_is_said_to_be_skipped(facts: Facts) -> None:
    skipped = {code: reason for code, reason in run_checks(facts).skipped.items() if code in SETTINGS}
    assert skipped == dict.fromkeys(("EMB001", "GEN002", "PAD004"), "no model to look at")
    both = replace(SETTINGS["BOS001"], code="AAA001", needs=("template", "model"))
    report = run_checks(replace(facts, template=None), (both,))
    assert list(report.skipped) == ["AAA001"]
    assert report.skipped["AAA001"] == "no model to look at", "of several parts one is named"


CHECK_FILE = """
from llama_padfix.doctor.findings import Check
def _find(facts):
    yield CHECK.found(f"{facts.vocab_size} tokens")
CHECK = Check("NEW001", "brand-new", "note", ("tokenizer",), "Why.", "bad", "good", _find)
"""


@pytest.fixture
def drop_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    names = []

    def make(name: str, **files: str) -> Any:
        names.append(name)
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        for stem, source in files.items():
            (tmp_path / name / f"{stem}.py").write_text(source)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    monkeypatch.syspath_prepend(str(tmp_path))
    yield make
    for module in [module for module in sys.modules if module.split(".")[0] in names]:
        del sys.modules[module]


def test_a_new_file_is_a_new_check(drop_in: Callable[..., Any], facts: Facts) -> None:
    found = load_checks(drop_in("padfix_new", new001_brand_new=CHECK_FILE))
    assert [check.code for check in found] == ["NEW001"]
    assert str(run_checks(facts, found).findings[0]) == "note NEW001 brand-new: 128256 tokens"


def test_files_that_are_no_check(drop_in: Callable[..., Any]) -> None:
    with pytest.raises(PadfixError, match=r"checks/empty\.py holds no CHECK"):
        load_checks(drop_in("padfix_empty", empty="x = 1"))
    with pytest.raises(PadfixError, match=r"checks/two\.py claims NEW001, which is taken"):
        load_checks(drop_in("padfix_twice", one=CHECK_FILE, two=CHECK_FILE))
