"""A fresh process encodes Arrow tables and lists of rows without pandas, which pyarrow's own conversions import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa

ROOT = Path(__file__).parent.parent.parent
CODE = r"""
import sys, traceback
import pyarrow as pa
from tokenizers import pre_tokenizers
from llama_padfix import ChatEncoder
from tests.support.byte_tokenizer import make_byte_tokenizer

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            traceback.print_stack()
            raise SystemExit("pandas was imported")

sys.meta_path.insert(0, Refused())
TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
marks = ["<s>", "<user>", "<assistant>", "<end>"]
tokenizer = make_byte_tokenizer(marks, "<end>", template=TEMPLATE, bos="<s>")
tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
table = pa.ipc.open_stream(pa.memory_map(sys.argv[1])).read_all()
rows = table.select(["messages"]).to_pylist()
for engine in ("cached", "tokenizers"):
    encoder = ChatEncoder(tokenizer, engine=engine, on_error="drop")
    encoded = encoder.encode_table(table, carry=["id"])
    of_rows = ChatEncoder(tokenizer, engine=engine, on_error="drop")(rows)
    assert encoded["input_ids"].to_pylist() == of_rows["input_ids"]
    print(encoder._learned.engine.name, *encoder.counts.unread_columns, *encoded["id"].to_pylist()[4:8])
print(len(ChatEncoder(tokenizer).encode_table(table.select(["text"]))))
"""


def test_tables_and_rows_are_encoded_without_pandas(tmp_path: Path) -> None:
    chats, notes = [], []
    for number in range(60):
        asked = {"role": "user", "content": f"What is {number} and ü?\n\n  x", "mood": "calm"}
        chats.append([asked, {"role": "assistant", "content": f"It is {number}. " * 5}])
        notes.append(None if number % 2 else "x")
    chats[5][0]["role"] = "stranger"  # no plain row
    chats[6] = []
    message = pa.struct([(name, pa.string()) for name in ("role", "content", "mood")])
    columns = {
        "messages": pa.array(chats, pa.list_(message)),
        "id": pa.array(range(60)),
        "note": pa.array(notes),
        "text": pa.array([f"Text {number}." for number in range(60)]),
    }
    table, path = pa.table(columns), tmp_path / "rows.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    done = subprocess.run([sys.executable, "-c", CODE, str(path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "cached note text messages[].mood 4 7 8 9",  # without the stranger and the empty chat
        "tokenizers note text messages[].mood 4 7 8 9",
        "60",
    ]
