"""Pad, stop and BOS settings on the real vocabulary: planned, applied, verified, undone, saved and loaded again."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llama_padfix import ChatEncoder, PadfixError, padding_side, patch_tokenizer, plan_patch
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.doctor import patch as patching
from llama_padfix.doctor.findings import Change, Plan
from llama_padfix.doctor.fixing.settings import apply_change
from llama_padfix.doctor.observe.tokenizer import observe_tokenizer
from llama_padfix.doctor.patch import patch_and_observe
from tests.conftest import ALL, BASE, INSTRUCT, fresh_tokenizer
from tests.support.byte_tokenizer import make_byte_tokenizer

Make = Callable[..., Any]

BOS, TEXT_END, EOT = 128000, 128001, 128009
PADS = {"3-base": 128002, "3.1-base": 128004, **dict.fromkeys(INSTRUCT, TEXT_END)}
STOPS = {release: {TEXT_END, EOT} if release.startswith("3-") else {TEXT_END, 128008, EOT} for release in ALL}
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
DATE = {"date_string": "26 Jul 2024"}  # a template of Llama 3.2 prints the day, and a run may cross midnight
REPLY = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}<|eot_id|>{% endfor %}"


def settings_of(tokenizer: Any, model: Any = None) -> tuple[Any, ...]:
    """Every setting that a patch may touch, and the counts that it must not, as a value that can be compared."""
    backend = tokenizer.backend_tokenizer
    processor = backend.post_processor and backend.post_processor.__getstate__()
    held = [processor, backend.truncation, backend.padding, str(backend.get_added_tokens_decoder()), len(tokenizer)]
    held += [tokenizer.padding_side, tokenizer.chat_template, copy.deepcopy(tokenizer.init_kwargs)]
    held += [dict(tokenizer.special_tokens_map), {k: v for k, v in vars(tokenizer).items() if k.startswith("_add_")}]
    if model is not None:
        held += [model.config.to_dict(), model.generation_config.to_dict()]
    return tuple(held)


@pytest.fixture
def instruct() -> Any:
    """Llama 3.1 Instruct."""
    return fresh_tokenizer("3.1-instruct")


@dataclass(frozen=True)
class Patched:
    """A release before the patch, after it, and loaded again from where it was saved."""

    foreseen: Plan
    applied: Plan
    plan_touched_nothing: bool
    vocabulary: dict[str, int]
    weights: dict[str, Any]
    text: str
    ids_before: list[list[int]]
    both: tuple[tuple[Any, Any], tuple[Any, Any]]


PLAIN = ("Once", "a")
_patched: dict[str, Patched] = {}


def encode_all(tokenizer: Any, text: str) -> list[list[int]]:
    """A rendered chat, one plain text, each of a batch, and a pair."""
    singles = [tokenizer(text)["input_ids"], tokenizer(PLAIN[0])["input_ids"]]
    return [*singles, *tokenizer(list(PLAIN))["input_ids"], tokenizer(*PLAIN)["input_ids"]]


@pytest.fixture
def patched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Patched]:
    def make(release: str) -> Patched:
        if release in _patched:
            return _patched[release]
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer, model = fresh_tokenizer(release), make_tiny_llama(release, hidden_size=16)
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        text = (
            tokenizer.apply_chat_template(CHAT, tokenize=False, **DATE)
            if release in INSTRUCT
            else "<|begin_of_text|>Once"
        )
        vocabulary, ids_before = tokenizer.get_vocab(), encode_all(tokenizer, text)
        before = settings_of(tokenizer, model), tokenizer.backend_tokenizer.to_str()
        foreseen = plan_patch(tokenizer, model)
        untouched = before == (settings_of(tokenizer, model), tokenizer.backend_tokenizer.to_str())
        applied = patch_tokenizer(tokenizer, model)
        folder = tmp_path_factory.mktemp(release)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        reloaded = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
        _patched[release] = Patched(
            foreseen, applied, untouched, vocabulary, weights, text, ids_before, ((tokenizer, model), reloaded)
        )
        return _patched[release]

    return make


def stops_of(config: Any) -> set[int]:
    value = config.eos_token_id
    return {value} if isinstance(value, int) else set(value)


def count_bos(ids: list[int]) -> int:
    return ids.count(BOS)


@pytest.mark.parametrize("release", ALL)
@pytest.mark.slow
def test_patch_sets_all_of_it_once_and_for_good(release: str, patched: Callable[[str], Patched]) -> None:
    import torch

    case = patched(release)
    assert case.plan_touched_nothing
    assert case.applied == case.foreseen
    assert len(case.applied) > 0
    for tokenizer, model in case.both:
        assert tokenizer.pad_token_id == PADS[release]
        assert tokenizer.eos_token_id == (EOT if release in INSTRUCT else TEXT_END)
        assert tokenizer.padding_side == "right"
        assert tokenizer.get_vocab() == case.vocabulary
        assert model.config.vocab_size == len(case.vocabulary) == 128256
        assert model.config.pad_token_id == model.generation_config.pad_token_id == PADS[release]
        assert stops_of(model.config) == stops_of(model.generation_config) == STOPS[release]
        assert not plan_patch(tokenizer, model)
        assert not patch_tokenizer(tokenizer, model)
        state = model.state_dict()
        assert state.keys() == case.weights.keys()
        assert all(torch.equal(state[name], value) for name, value in case.weights.items())


@pytest.mark.parametrize("release", INSTRUCT)
def test_rendered_text_gets_one_bos(release: str, patched: Callable[[str], Patched]) -> None:
    case = patched(release)
    doubled = release != "3-instruct-early"
    assert count_bos(case.ids_before[0]) == 1 + doubled, "the trap is there before the patch"
    for tokenizer, _ in case.both:
        wanted = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False, **DATE)
        assert count_bos(wanted) == 1
        assert wanted[0] == BOS
        assert tokenizer(case.text)["input_ids"] == wanted
        assert tokenizer([case.text, case.text], padding=True)["input_ids"] == [wanted, wanted]
        more = tokenizer("and more", add_special_tokens=False)["input_ids"]
        assert tokenizer(case.text, "and more")["input_ids"] == wanted + more
        # `tokenizers` cannot add a BOS on condition: plain text has none from the tokenizer, and one from the encoder.
        assert count_bos(tokenizer("Once upon a time")["input_ids"]) == 0
        for plain in ("Once upon a time", "<|begin_of_text|>Once upon a time", case.text):
            row = ChatEncoder(tokenizer)({"text": plain})
            assert count_bos(row["input_ids"]) == 1
            assert row["input_ids"][0] == BOS


@pytest.mark.parametrize("release", BASE)
def test_base_tokenizers_keep_their_bos(release: str, patched: Callable[[str], Patched]) -> None:
    case = patched(release)
    assert [count_bos(ids) for ids in case.ids_before[1:]] == [1, 1, 1, 2], "one before each sequence, as on the hub"
    for tokenizer, _ in case.both:
        assert encode_all(tokenizer, case.text) == case.ids_before
        assert count_bos(ChatEncoder(tokenizer)({"text": case.text})["input_ids"]) == 1


def _without_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None


def _no_processor(tokenizer: Any) -> None:
    tokenizer.chat_template, tokenizer.backend_tokenizer.post_processor = None, None


def _adds_eos(tokenizer: Any) -> None:
    from tokenizers import processors

    tokenizer.chat_template = None
    tokenizer.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="$A <|end_of_text|>",
                pair="$A <|end_of_text|> $B:1 <|end_of_text|>:1",
                special_tokens=[("<|end_of_text|>", TEXT_END)],
            ),
        ]
    )


@pytest.mark.parametrize("spoil", [_without_template, _no_processor, _adds_eos])
@pytest.mark.slow
def test_add_bos_on_request(spoil: Callable[[Any], None], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = fresh_tokenizer("3-instruct-early")
    try:
        spoil(tokenizer)
    except TypeError:
        pytest.skip("a post-processor cannot be taken away before tokenizers 0.20")
    text, pair = tokenizer("Once")["input_ids"], tokenizer("Once", "a")["input_ids"]
    second = len(text)
    assert count_bos(text) == 0
    assert "tokenizer.adds_bos" not in [change.target for change in plan_patch(tokenizer)], "not unless asked"

    patch_tokenizer(tokenizer, add_bos=True)
    tokenizer.save_pretrained(tmp_path)
    for some in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert some("Once")["input_ids"] == [BOS, *text], "and whatever else was added is still added"
        assert some("Once", "a")["input_ids"] == [BOS, *pair[:second], BOS, *pair[second:]]
        assert not plan_patch(some, add_bos=True)

    tokenizer.chat_template = REPLY
    patch_tokenizer(tokenizer, add_bos=True)
    assert tokenizer("Once")["input_ids"] == text, "a template that writes the BOS takes it back"
    assert tokenizer("Once", "a")["input_ids"] == pair


@pytest.fixture(scope="module")
def saved_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    fresh_tokenizer("3.1-instruct").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved_backend(saved_release: Path) -> Any:
    """The file itself, as `tokenizers` reads it."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(saved_release / "tokenizer.json"))


def _without_bos(ids: list[int]) -> list[int]:
    """LlamaTokenizerFast of transformers 4.x takes add_bos_token at its word, other classes do not."""
    while ids[:1] == [BOS]:
        ids = ids[1:]
    return ids


@pytest.mark.parametrize("add_bos_token", [True, False])
@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizerFast", "PreTrainedTokenizerFast"])
@pytest.mark.slow
def test_tokenizers_that_another_class_loads(
    saved_release: Path, saved_backend: Any, tmp_path: Path, tokenizer_class: str, add_bos_token: bool
) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    folder = tmp_path / "edited"
    folder.mkdir()
    for file in saved_release.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((saved_release / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = tokenizer_class
    config["add_bos_token"] = add_bos_token
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(config))

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer("Hello world", add_special_tokens=False)["input_ids"] == [39, 96392]:  # transformers 5.0 to 5.21
        with pytest.raises(PadfixError, match=r"\[39, 96392\].*PreTrainedTokenizerFast"):
            patch_tokenizer(tokenizer)
        return
    texts = ["Hello world", "  你好, naïve\n\n\tcafé 🙂 12345", tokenizer.apply_chat_template(CHAT, tokenize=False)]
    assert [_without_bos(tokenizer(text)["input_ids"]) for text in texts] == [
        _without_bos(saved_backend.encode(text).ids) for text in texts
    ]

    patch_tokenizer(tokenizer)
    tokenizer.save_pretrained(tmp_path / "patched")
    reloaded = AutoTokenizer.from_pretrained(tmp_path / "patched")
    raw = Tokenizer.from_file(str(tmp_path / "patched" / "tokenizer.json"))
    for text, bos in zip(texts, (0, 0, 1), strict=True):
        ids = tokenizer(text)["input_ids"]
        assert count_bos(ids) == bos
        assert ids == reloaded(text)["input_ids"] == raw.encode(text).ids
    assert not plan_patch(reloaded)


@pytest.mark.slow
def test_bos_switched_on_by_keyword_when_loaded(saved_release: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(saved_release, add_bos_token=True)
    patch_tokenizer(tokenizer)
    assert count_bos(tokenizer("Once")["input_ids"]) == 0
    assert getattr(tokenizer, "add_bos_token", False) is False
    assert tokenizer.init_kwargs["add_bos_token"] is False, "LlamaTokenizerFast of transformers 4.x rebuilds from it"
    if hasattr(tokenizer, "update_post_processor"):  # in 4.x a matter of LlamaTokenizerFast alone
        tokenizer.update_post_processor()  # what transformers does by itself when somebody sets add_eos_token
    assert count_bos(tokenizer("Once")["input_ids"]) == 0
    tokenizer.save_pretrained(tmp_path)
    assert count_bos(AutoTokenizer.from_pretrained(tmp_path)("Once")["input_ids"]) == 0


@pytest.mark.parametrize("token", ["<|finetune_right_pad_id|>", "<|end_of_text|>", "<|reserved_special_token_7|>"])
def test_a_sound_pad_token_is_kept(token: str, instruct: Any, make_model: Make) -> None:
    model = make_model()
    instruct.pad_token = token
    plan = patch_tokenizer(instruct, model)
    assert "tokenizer.pad_token" not in [change.target for change in plan]
    assert instruct.pad_token == token
    assert model.config.pad_token_id == model.generation_config.pad_token_id == instruct.pad_token_id


@pytest.mark.parametrize("release", ["3-instruct-early", "3.1-instruct"])
@pytest.mark.parametrize("bad", ["<|eot_id|>", "<|not_in_this_vocabulary|>", "!", "<|begin_of_text|>"])
def test_an_unsound_pad_token_is_replaced(release: str, bad: str, make_model: Make) -> None:
    model = make_model(release)
    tokenizer = fresh_tokenizer(release)
    tokenizer.pad_token = bad
    plan = patch_tokenizer(tokenizer, model)
    assert tokenizer.pad_token_id == model.config.pad_token_id == TEXT_END
    [change] = [change for change in plan if change.target == "tokenizer.pad_token"]
    assert (change.before, change.after) == (bad, "<|end_of_text|>")


def test_right_pad_that_the_early_vocabulary_lacks(make_model: Make) -> None:
    tokenizer = fresh_tokenizer("3.1-instruct-early")
    tokenizer.pad_token = "<|finetune_right_pad_id|>"
    assert tokenizer.pad_token_id is None
    patch_tokenizer(tokenizer, make_model("3.1-instruct-early"))
    assert tokenizer.pad_token_id == TEXT_END


def test_a_new_pad_token_beyond_the_embedding(tokenizer: Any, make_model: Make) -> None:
    model = make_model()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 128256 == model.get_input_embeddings().weight.shape[0]
    patch_tokenizer(tokenizer, model)
    assert tokenizer.pad_token_id == model.generation_config.pad_token_id == TEXT_END
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.pad_token = "[PAD]"
    patch_tokenizer(tokenizer, model)
    assert tokenizer.pad_token_id == 128256, "with a row of its own it is sound"


@pytest.mark.parametrize("token", ["<|reserved_special_token_0|>", "<|eot_id|>", "!"])
def test_a_pad_token_that_was_asked_for(token: str, instruct: Any, make_model: Make) -> None:
    model = make_model()
    patch_tokenizer(instruct, model)
    plan = patch_tokenizer(instruct, model, pad_token=token)
    assert {change.target for change in plan} == {
        "tokenizer.pad_token",
        "model.config.pad_token_id",
        "model.generation_config.pad_token_id",
    }
    assert instruct.pad_token == token
    assert model.config.pad_token_id == model.generation_config.pad_token_id == instruct.pad_token_id
    assert not patch_tokenizer(instruct, model, pad_token=token)


def test_where_no_token_is_free_to_pad_with_the_candidates_are_named() -> None:
    tokenizer = make_byte_tokenizer(["<|end_of_text|>", "<|eom_id|>"], "<|end_of_text|>")
    with pytest.raises(
        PadfixError, match=r"free to pad with \('<\|end_of_text\|>' \(256\) is what the model must learn"
    ):
        patch_tokenizer(tokenizer)
    tokenizer = make_byte_tokenizer(["</s>"], "</s>")
    with pytest.raises(PadfixError, match=r"free to pad with \(the vocabulary holds none of the names"):
        patch_tokenizer(tokenizer)
    tokenizer = make_byte_tokenizer(["<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"], "<｜end▁of▁sentence｜>")
    patch_tokenizer(tokenizer)
    assert tokenizer.pad_token == "<｜▁pad▁｜>"


def test_a_pad_token_that_cannot_be_had(tokenizer: Any, make_model: Make) -> None:
    model = make_model()
    tokenizer.add_tokens(["<new>"])
    before = settings_of(tokenizer, model)
    with pytest.raises(PadfixError, match=r"'<nowhere>' is not among the 128257 tokens"):
        patch_tokenizer(tokenizer, model, pad_token="<nowhere>")
    with pytest.raises(PadfixError, match=r"'<new>' \(128256\) is beyond the embedding"):
        patch_tokenizer(tokenizer, model, pad_token="<new>")
    assert settings_of(tokenizer, model) == before


def test_base_model_that_is_given_a_chat_template(make_model: Make) -> None:
    tokenizer, model = fresh_tokenizer("3.1-base"), make_model("3.1-base")
    tokenizer.chat_template = fresh_tokenizer("3.1-instruct").chat_template
    patch_tokenizer(tokenizer, model)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (EOT, TEXT_END)
    assert stops_of(model.generation_config) == {TEXT_END, 128008, EOT}
    ids = tokenizer(tokenizer.apply_chat_template(CHAT, tokenize=False))["input_ids"]
    assert count_bos(ids) == 1


def test_the_default_stop_of_a_llama_made_from_scratch(instruct: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config)
    assert (model.generation_config.eos_token_id, instruct.convert_ids_to_tokens(2)) == (2, "#")
    plan = patch_tokenizer(instruct, model)
    assert stops_of(model.generation_config) == stops_of(model.config) == {TEXT_END, 128008, EOT}
    assert "and not at 2, which is ordinary text" in str(plan)


def test_stops_that_the_user_listed_stay(instruct: Any, make_model: Make) -> None:
    model = make_model()
    model.generation_config.eos_token_id = [EOT, 128010]
    patch_tokenizer(instruct, model)
    assert model.generation_config.eos_token_id == [EOT, 128010, TEXT_END, 128008]
    assert stops_of(model.config) == {EOT, 128010, TEXT_END, 128008}


@pytest.mark.slow
def test_adapters_are_patched_like_the_model_inside(instruct: Any, make_model: Make) -> None:
    peft = pytest.importorskip("peft")
    settings: list[dict[str, Any]] = [
        {},
        {"modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"trainable_token_indices": {"embed_tokens": [EOT]}},  # PEFT 0.15 brought it
    ]
    known = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    for more in settings:
        if not known.issuperset(more):
            continue
        model = peft.get_peft_model(make_model(), peft.LoraConfig(r=2, **{"target_modules": ["q_proj"], **more}))
        assert "model.config.pad_token_id" in [change.target for change in patch_tokenizer(instruct, model)]
        assert model.base_model.model.config.pad_token_id == instruct.pad_token_id
        assert model.base_model.model.generation_config.pad_token_id == instruct.pad_token_id
        assert not plan_patch(instruct, model)


def test_a_model_that_is_none(instruct: Any) -> None:
    before = settings_of(instruct)
    with pytest.raises(PadfixError, match=r"Got a str where a model is needed.*AutoModelForCausalLM"):
        patch_tokenizer(instruct, "meta-llama/Llama-3.1-8B")  # type: ignore[arg-type]
    assert settings_of(instruct) == before


def test_a_plan_keeps_truncation_and_padding_of_the_backend(instruct: Any) -> None:
    instruct.backend_tokenizer.enable_truncation(7, stride=1)
    instruct.backend_tokenizer.enable_padding(length=9, pad_id=3, pad_token="$")
    before = settings_of(instruct)
    plan_patch(instruct)
    assert settings_of(instruct) == before
    assert instruct.backend_tokenizer.truncation["max_length"] == 7


# ---- the facts that come with the plan


def test_the_facts_are_those_after_the_patch(instruct: Any, make_model: Make) -> None:
    model = make_model()
    foreseen, before = plan_patch(instruct, model), observe_tokenizer(instruct, model)
    plan, facts = patch_and_observe(instruct, model)
    assert plan == foreseen and len(plan) > 0
    assert facts == observe_tokenizer(instruct, model) != before
    assert (facts.pad_token_id, facts.bos_added, before.bos_added) == (TEXT_END, 0, 1)
    assert facts.model is not None and facts.model.generation_pad_token_id == TEXT_END
    assert patch_and_observe(instruct, model) == (Plan(()), facts), "nothing to do, and the same is seen"


def test_the_facts_know_the_pad_token_that_was_asked_for(instruct: Any) -> None:
    for _ in ("set", "found"):
        _, facts = patch_and_observe(instruct, pad_token="<|reserved_special_token_0|>")
        assert facts.requested_pad_token == facts.pad_token == "<|reserved_special_token_0|>"
        assert facts == observe_tokenizer(instruct, pad_token="<|reserved_special_token_0|>")


def test_the_vocabulary_is_copied_once(instruct: Any) -> None:
    copies: list[int] = []

    class Counts(type(instruct)):  # type: ignore[misc]
        def get_vocab(self) -> Any:
            copies.append(len(self))
            return super().get_vocab()

    instruct.__class__ = Counts
    observe_tokenizer(instruct)
    once = len(copies)
    plan, _ = patch_and_observe(instruct)
    assert len(plan) > 0
    assert len(copies) == 2 * once == 2


# ---- atomicity: whatever is raised on the way, nothing is half changed


def test_generation_config_that_refuses_its_stops(make_model: Make) -> None:
    from transformers import GenerationConfig

    class Refuses(GenerationConfig):  # type: ignore[misc]
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)  # it raises after it has written
            if name == "eos_token_id" and isinstance(value, list):
                raise RuntimeError("no lists here")

    tokenizer, model = fresh_tokenizer("3-instruct-early"), make_model("3-instruct-early")
    model.generation_config = Refuses(eos_token_id=TEXT_END)
    before = settings_of(tokenizer, model)
    with pytest.raises(RuntimeError, match="no lists here"):
        patch_tokenizer(tokenizer, model)
    assert settings_of(tokenizer, model) == before


def test_tokenizer_class_that_refuses_the_pad_token(make_model: Make) -> None:
    tokenizer, model = fresh_tokenizer("3-instruct-early"), make_model("3-instruct-early")

    class Refuses(type(tokenizer)):  # type: ignore[misc]
        def __setattr__(self, name: str, value: Any) -> None:
            if name != "pad_token":
                super().__setattr__(name, value)

    tokenizer.__class__ = Refuses
    before = settings_of(tokenizer, model)
    with pytest.raises(PadfixError, match=r"not keep what was set: tokenizer\.pad_token.*class Refuses overrides"):
        patch_tokenizer(tokenizer, model)
    assert settings_of(tokenizer, model) == before


@pytest.fixture(scope="module")
def broken_once() -> Iterator[tuple[Any, Any, int]]:
    """Early Llama 3 Instruct whose encoding adds BOS too, so that a patch makes every kind of change."""
    tokenizer, model = fresh_tokenizer("3.1-instruct"), make_tiny_llama("3-base", hidden_size=16)
    tokenizer.eos_token, tokenizer.padding_side = "<|end_of_text|>", "left"
    tokenizer.init_kwargs["add_bos_token"] = True
    plan = plan_patch(tokenizer, model)
    assert len(plan) == 8
    yield tokenizer, model, len(plan)


@pytest.mark.parametrize("done", range(9))
def test_an_interruption_after_any_change(
    done: int, broken_once: tuple[Any, Any, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, model, planned = broken_once
    before = settings_of(tokenizer, model)
    apply, look, applied = apply_change, observe_tokenizer, list[Change]()

    def interrupt() -> None:
        if len(applied) == done:
            raise KeyboardInterrupt

    def apply_until(change: Change, *owners: Any) -> None:
        interrupt()
        apply(change, *owners)
        applied.append(change)

    def observe_until(*args: Any, **kwargs: Any) -> Any:
        if applied:  # all of it is applied, and verified now
            interrupt()
        return look(*args, **kwargs)

    monkeypatch.setattr(patching, "apply_change", apply_until)
    monkeypatch.setattr(patching, "observe_tokenizer", observe_until)
    with pytest.raises(KeyboardInterrupt):
        patch_tokenizer(tokenizer, model)
    assert len(applied) == done <= planned
    assert settings_of(tokenizer, model) == before


# ---- padding side


def test_padding_side_is_put_back(instruct: Any) -> None:
    with padding_side(instruct, "left") as same:
        assert same is instruct
        assert instruct.padding_side == "left"
    assert instruct.padding_side == "right"
    with pytest.raises(KeyError), padding_side(instruct, "left"):
        raise KeyError
    assert instruct.padding_side == "right"
    with pytest.raises(PadfixError, match="'centre'; it is 'left'"), padding_side(instruct, "centre"):
        pass
