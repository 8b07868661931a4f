#!/usr/bin/env bash
# datasets 5.2.0, pyarrow 26.0.1: a text that looks like a time is a timestamp after load_dataset("json").
#
# Valid input: a JSON-lines file of tool calls whose arguments hold times with an offset, as calendars give them.
# One expects: the text that stands in the file, since JSON has no times, so that a template writes the same call.
# What happens: the reader makes timestamps of the texts, deep inside messages too. The offset is applied and dropped
# (10:00+02:00 becomes 08:00), and what a template then writes of a datetime is not the argument. One row with a text
# that is no time keeps all of them as texts, so the same row reads otherwise in another file.
# Seen:
#   in the file:      2024-05-01T10:00:00+02:00
#   loaded:           datetime.datetime(2024, 5, 1, 8, 0)
#   beside 'tomorrow': '2024-05-01T10:00:00+02:00'
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
HF_HUB_OFFLINE=1 HF_HOME="$work/home" HF_DATASETS_DISABLE_PROGRESS_BARS=1 env/bin/python - <<'PY'
import datetime
import json
from datasets import load_dataset


def row(when):
    call = {"type": "function", "function": {"name": "book", "arguments": {"when": when}}}
    return {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]}


def load(name, rows):
    with open(name, "w") as file:
        file.writelines(json.dumps(one) + "\n" for one in rows)
    loaded = load_dataset("json", data_files=name, split="train")[0]
    return loaded["messages"][0]["tool_calls"][0]["function"]["arguments"]["when"]


when = "2024-05-01T10:00:00+02:00"
alone, beside = load("alone.jsonl", [row(when)]), load("beside.jsonl", [row(when), row("tomorrow")])
print("in the file:      ", when)
print("loaded:           ", repr(alone))
print("beside 'tomorrow':", repr(beside))
assert alone == datetime.datetime(2024, 5, 1, 8, 0) and beside == when, "changed"
PY
