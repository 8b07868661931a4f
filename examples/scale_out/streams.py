"""Encode a stream in the workers of a dataloader, so that a run that was stopped goes on where it was.

Run: python examples/scale_out/streams.py rows/ out/   (again after a stop; RANK and WORLD_SIZE part the machines)
"""

import argparse
import functools
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datasets import load_dataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import AutoTokenizer

from llama_padfix import ChatEncoder, patch_tokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("rows", type=Path, help="folder of parquet files with a column `messages`: each file is a shard")
parser.add_argument("output", type=Path, help="folder for parquet with input_ids and labels")
parser.add_argument("--tokenizer", default="meta-llama/Llama-3.1-8B-Instruct", help="a folder, or a name on the hub")
parser.add_argument(
    "--carry", nargs="*", default=[], help="columns to keep beside the ids, such as one that names rows"
)
parser.add_argument("--length", type=int, default=2048, help="longest row, in tokens")
parser.add_argument("--batch", type=int, default=1000, help="rows a batch")
parser.add_argument("--workers", type=int, default=2, help="the same number when the run is taken up again")
options = parser.parse_args()
rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class Resumable(IterableDataset[Any]):
    """Batches with the place behind them: a dataloader reads ahead, so only the batch knows how far it is itself."""

    def __init__(self, stream: Any, places: dict[str, Any]) -> None:
        self.stream = stream
        self.places = places

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any], pyarrow.Table]]:
        info = get_worker_info()
        worker = str(info.id if info is not None else 0)
        if worker in self.places:
            self.stream.load_state_dict(self.places[worker])
        rows = iter(self.stream)
        while batch := list(itertools.islice(rows, options.batch)):
            yield worker, self.stream.state_dict(), pyarrow.concat_tables(batch)


tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
patch_tokenizer(tokenizer)
encoder = ChatEncoder(tokenizer, max_length=options.length)

files = sorted(map(str, options.rows.glob("*.parquet")))
stream = load_dataset("parquet", data_files=files, split="train", streaming=True)
part = split_dataset_by_node(stream, rank=rank, world_size=world_size)
encode = functools.partial(encoder.encode_table, carry=options.carry)
encoded = part.with_format("arrow").map(encode, batched=True, batch_size=options.batch)

# Each file says in its metadata where every worker goes on behind it, so rows and places cannot disagree.
options.output.mkdir(parents=True, exist_ok=True)
written = sorted(options.output.glob(f"part-{rank:03}-*.parquet"))
places = json.loads(pyarrow.parquet.read_schema(written[-1]).metadata[b"places"]) if written else {}
batches = DataLoader(Resumable(encoded, places), batch_size=None, num_workers=options.workers)
for number, (worker, place, table) in enumerate(batches, start=len(written)):
    places[worker] = place
    partial = options.output / f"partial-{rank:03}"
    pyarrow.parquet.write_table(table.replace_schema_metadata({"places": json.dumps(places)}), partial)
    partial.rename(options.output / f"part-{rank:03}-{number:06}.parquet")  # there as a whole, or not at all
