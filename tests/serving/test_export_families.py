"""Copies of the named families: what is left in each engine is named, and JSON is written alike."""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama_padfix import export_for_serving
from llama_padfix.serving.causes import CAUSES
from llama_padfix.serving.engines.engine import EngineMissingError
from llama_padfix.serving.engines.javascript.bridge import open_bridge
from llama_padfix.serving.engines.minijinja import MiniJinjaRenderer, load_minijinja
from llama_padfix.serving.engines.transformers_js import PACKAGES, JavaScriptClient
from llama_padfix.serving.export.beyond_files import BEYOND
from llama_padfix.serving.export.json_macro import MACRO, write_as_macro
from llama_padfix.serving.rendering.chat import Chat
from llama_padfix.serving.rendering.content_format import reads_parts
from llama_padfix.serving.rendering.render import render_chat
from tests.serving.record_llama_cpp import Layer
from tests.serving.served_families import compare_family, sources
from tests.support.served import save_folder

LAYER = os.environ.get("LLAMA_PADFIX_CHAT_LAYER", "")
needs_minijinja = pytest.mark.skipif(
    importlib.util.find_spec("minijinja") is None, reason='minijinja is missing: pip install "llama-padfix[serving]"'
)
GONE = {"date", "template", "escaped JSON", "iterable null", "does not run", "BOS", "unknown"}
"""Causes that no copy of these families keeps."""


@needs_minijinja
@pytest.mark.parametrize("family", sources())
def test_a_copy_keeps_no_difference_that_it_does_not_name(tmp_path: Path, family: str) -> None:
    before, after = compare_family(sources()[family], tmp_path)
    left = {(engine.name, cause) for engine in after.engines for cause in engine.causes}
    assert not {cause for _, cause in left} & GONE
    assert left == {tuple(line.split(", ")[0].split(": ")) for line in after.beyond_files}
    counts = {engine.name: engine.differing for engine in before.engines}
    assert all(engine.differing <= counts[engine.name] for engine in after.engines)
    [minijinja] = [engine for engine in after.engines if engine.name == "minijinja"]
    assert set(minijinja.causes) <= {"white space"}, "control blanks, which Rust does not trim"
    assert all(engine.missing or engine.stop_ids or not engine.stop_source for engine in after.engines)
    assert not [finding for finding in after.findings if finding.code in ("SRV002", "SRV003")]


def test_every_cause_that_may_stay_is_known() -> None:
    assert set(BEYOND) <= set(CAUSES)
    assert {"date", "template", "unknown"} == set(CAUSES) - set(BEYOND), "a copy has none of these"


@needs_minijinja
def test_the_macro_is_no_loop_over_content_for_vllm(tmp_path: Path) -> None:
    source = sources()["Llama 3.2"]
    assert "write_json(message.content" in write_as_macro(source) and not reads_parts(write_as_macro(source))
    folder = save_folder(tmp_path / "saved", source, everywhere=False)
    report = export_for_serving(folder, tmp_path / "copy", engines=["vllm", "minijinja"])
    assert any("JSON is written by a macro" in change for change in report.changes)


def make_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if depth < 3 and kind < 0.25:
        names = ("a", "items", "length", "keys", "k <x>", "é")
        return {rng.choice(names): make_value(rng, depth + 1) for _ in range(rng.randint(0, 3))}
    if depth < 3 and kind < 0.45:
        return [make_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    texts = ("", "it's <b> & \\u003c", "\\\\ \\n\n\t\b\x1f\x7f", "x\u2028é🙂", '"q"', "\\\\u0027", "\\\\\\'")
    return rng.choice((1, 0, -5, 2**60, 1.0, 0.5, 1e-7, 1e22, -0.5, 1e16, 123.25, 1e-10, True, False, None, *texts))


Render = Callable[[Chat], str | None]


def assert_written_alike(render: Render, exempt: Callable[[str], bool] = lambda text: False) -> None:
    rng = random.Random(0)
    for form in ("tojson", "tojson(indent=4)"):
        source = f"{{{{ tools[0].function.parameters | {form} }}}}{{{{ messages[0].content }}}}"
        for _ in range(150):
            function = {"name": "f", "description": "d", "parameters": {"p": make_value(rng)}}
            tools = [{"type": "function", "function": function}]
            chat = Chat([{"role": "user", "content": "Hi"}], tools, source=source)
            expected = render_chat(chat)
            if not exempt(expected):
                assert render(replace(chat, source=write_as_macro(source))) == expected


def test_the_macro_writes_json_as_transformers() -> None:
    assert_written_alike(render_chat)


@needs_minijinja
@pytest.mark.parametrize("trim_blocks", [True, False])
def test_the_macro_writes_json_alike_in_minijinja(trim_blocks: bool) -> None:
    assert_written_alike(MiniJinjaRenderer(load_minijinja(), (), trim_blocks=trim_blocks).render)


@pytest.mark.skipif(not LAYER, reason="LLAMA_PADFIX_CHAT_LAYER names no layer: make chat-layer")
def test_the_macro_writes_json_alike_in_llama_cpp() -> None:
    with Layer(LAYER) as layer:
        assert_written_alike(lambda chat: layer.render(chat).get("prompt"))


def test_the_macro_writes_json_alike_in_javascript_but_for_its_numbers() -> None:
    try:
        bridge = open_bridge(PACKAGES, never_in=Path("/nowhere"))
    except EngineMissingError as error:
        pytest.skip(str(error))
    lost = ("1.0", "1152921504606846976", "1e+16")
    try:
        assert_written_alike(
            JavaScriptClient(bridge, Path("/nowhere"), {}).render, lambda text: any(number in text for number in lost)
        )
    finally:
        bridge.close()


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("{{ a['x'].y | tojson(indent=2) }}", "{{ write_json(a['x'].y , '\\n', '  ') }}"),
        ("{{ 'x' + (t['f'] | tojson) }}", "{{ 'x' + (write_json(t['f'] )) }}"),
        ("{{ ': ' + c['a']|tojson + 'x' }}", "{{ ': ' + write_json(c['a']) + 'x' }}"),
        ("{{ f(a, b)|list|tojson()[:-1] }}", "{{ write_json(f(a, b)|list)[:-1] }}"),
        ("{% if x in y|tojson %}{% endif %}", "{% if x in write_json(y) %}{% endif %}"),
        ("{{ a - b|tojson }}", "{{ a - write_json(b) }}"),
    ],
)
def test_the_operand_of_tojson_is_found(source: str, written: str) -> None:
    assert write_as_macro(source) == MACRO + written
    assert write_as_macro(written) == written, "a template that has the macro stays as it is"


@pytest.mark.parametrize(
    "source", ["{{ -x|tojson }}", "{{ x|tojson(sort_keys=true) }}", "{{ x|map('tojson') }}", "{{ tojson }} tojson"]
)
def test_another_form_of_tojson_stays(source: str) -> None:
    assert write_as_macro(source) == source
