"""Print the peak memory of encoding few and many rows into shards: python benchmarks/rows_memory.py [ROWS].

Each size is a process of its own that maps its rows from a file, as `load_dataset` does; ROWS is a million by default,
of about 90 tokens each, in shards of 50 MB. Exits 1 where many rows take more than 1.3 times the memory of few.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
sys.path.insert(0, str(Path(__file__).parent / "throughput"))

import measure

FEW, MOST = 20_000, 1.3


def write_rows(rows: int, file: Path) -> None:
    """Write conversations that differ in a number."""
    import pyarrow

    message = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    schema = pyarrow.schema([("messages", pyarrow.list_(message))])
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        for start in range(0, rows, 10_000):
            numbers = range(start, min(start + 10_000, rows))
            writer.write_table(pyarrow.Table.from_pylist([{"messages": talk(place)} for place in numbers], schema))


def talk(place: int) -> list[dict[str, str]]:
    """Return a short conversation."""
    question = f"Tell me in one sentence what the number {place} is good for, and where it stands."
    answer = f"{place} stands between {place - 1} and {place + 1}, and counts what is there."
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def encode(file: Path) -> dict[str, Any]:
    """Encode the rows of a file into shards beside it."""
    from datasets import Dataset

    from llama_padfix import ChatEncoder, encode_dataset
    from llama_padfix.demo.reference import build_tokenizer

    encoder = ChatEncoder(build_tokenizer("3.1-instruct"), engine="fastokens")
    with measure.Work() as work:
        encoded = encode_dataset(encoder, Dataset.from_file(str(file)), progress=False, max_shard_size="50MB")
    return {"rows": len(encoded), "shards": len(encoded.cache_files), "peak": work.peak, "cpu": work.cpu}


def main() -> int:
    """Print a line a size; 1 where many rows take much more than few."""
    if sys.argv[1:2] == ["--encode"]:
        told = encode(Path(sys.argv[2]))
        print(*(told[name] for name in ("rows", "shards", "peak", "cpu")))
        return 0
    peaks = []
    for rows in (FEW, int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "rows.arrow")
            write_rows(rows, file)
            command = [sys.executable, __file__, "--encode", str(file)]
            count, shards, peak, cpu = subprocess.check_output(command, text=True).split()[-4:]
        peaks.append(int(peak))
        print(f"{int(count):,} rows in {shards} shards: {int(peak) / 1e6:,.0f} MB, {float(cpu):.1f} CPU s", flush=True)
    print(f"{peaks[1] / peaks[0]:.2f} times the memory")
    return int(peaks[1] > MOST * peaks[0])


if __name__ == "__main__":
    sys.exit(main())
