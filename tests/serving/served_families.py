"""The model families of which a copy is compared with the training, and what engines then still do otherwise.

    python -m tests.serving.served_families              prints each family before and after
    python -m tests.serving.served_families --write      puts the table into docs/serving.md

With the npm packages of docs/dependencies.md in LLAMA_PADFIX_NODE_MODULES, transformers.js is run too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from llama_padfix import ServingReport, check_serving, export_for_serving
from tests.serving.table import write_into
from tests.support.served import read_template, save_folder

MARK = "python -m tests.serving.served_families --write"
ENGINES = ("minijinja", "tgi", "llama.cpp", "transformers.js")
_MISTRAL = """\
{%- set today = strftime_now("%Y-%m-%d") %}
{{- bos_token }}
{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = "Today is " + today + "." %}
    {%- set turns = messages %}
{%- endif %}
{{- "[SYSTEM_PROMPT]" + system + "[/SYSTEM_PROMPT]" }}
{%- set asked = turns | selectattr("role", "equalto", "user") | list %}
{%- for message in turns %}
    {%- if message["role"] == "user" %}
        {%- if tools and message == asked[-1] %}
            {{- "[AVAILABLE_TOOLS][" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, value in tool.items() if key != "return" %}
                    {{- '"' + key + '": ' + value | tojson }}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- endif %}
            {%- endfor %}
            {{- "][/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST]" + message["content"] + "[/INST]" }}
    {%- elif message.tool_calls is defined %}
        {{- "[TOOL_CALLS][" }}
        {%- for call in message.tool_calls %}
            {%- set written = call.function | tojson %}
            {{- written[:-1] + ', "id": "' + call.id[-9:] + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- endif %}
        {%- endfor %}
        {{- "]" + eos_token }}
    {%- elif message["role"] == "assistant" %}
        {{- message["content"] + eos_token }}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS]{"content": ' + message.content | string + ', "call_id": "' }}
        {{- message.tool_call_id[-9:] + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("no such role") }}
    {%- endif %}
{%- endfor %}
"""
_PHI = """\
{%- for message in messages -%}
    {{- '<|' + message['role'] + '|>' + (message['content'] or '') -}}
    {%- if message['role'] == 'system' and tools -%}
        {{- '<|tool|>' + (tools | tojson) + '<|/tool|>' -}}
    {%- endif -%}
    {%- for call in message.tool_calls or [] -%}
        {{- '<|tool_call|>' + (call['function'] | tojson) + '<|/tool_call|>' -}}
    {%- endfor -%}
    {{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- else -%}{{- eos_token -}}{%- endif -%}
"""


def sources() -> dict[str, str]:
    """Return the chat templates by family: TRL's, and for Mistral and Phi-4 ones written in their style."""
    names = {"Llama 3": "llama3", "Llama 3.1": "llama3_1", "Llama 3.2": "llama3_2", "Qwen3": "qwen3"}
    shipped = {family: read_template(name) for family, name in {**names, "Gemma 3": "gemma3"}.items()}
    return {**shipped, "Mistral": _MISTRAL, "Phi-4": _PHI}


def compare_family(source: str, folder: Path) -> tuple[ServingReport, ServingReport]:
    """Return the comparisons of a saved folder, as transformers 5 writes it, and of its copy."""
    saved = save_folder(folder / "saved", source, everywhere=False)
    return check_serving(saved, engines=ENGINES), export_for_serving(saved, folder / "copy", engines=ENGINES)


def make_table() -> str:
    """Return the table in Markdown: points that differ before and after, and the causes that stay."""
    lines: list[str] = []
    for family, source in sources().items():
        with tempfile.TemporaryDirectory() as folder:
            before, after = compare_family(source, Path(folder))
        names = [engine.name for engine in after.engines if not engine.missing]
        if not lines:
            lines = [f"| family | points | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
        counts = {engine.name: engine.differing for engine in before.engines}
        cells = [
            f"{counts[engine.name]} → {engine.differing}{_name_causes(Counter(engine.causes))}"
            for engine in after.engines
            if not engine.missing
        ]
        lines.append(f"| {family} | {after.points} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _name_causes(causes: Counter[str]) -> str:
    named = ", ".join(f"{cause} {count}" for cause, count in causes.most_common())
    return f" ({named})" if named else ""


def main(arguments: list[str] | None = None) -> int:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    table = make_table()
    if parser.parse_args(arguments).write:
        write_into(MARK, table)
    else:
        sys.stdout.write(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
