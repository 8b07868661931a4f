"""Encode conversations with Ray Data: one encoder, sent to every worker.

Run: python examples/scale_out/ray_data.py rows.parquet out/   (RAY_ADDRESS names a cluster; without, this machine)
"""

import argparse

import pyarrow
import ray
from transformers import AutoTokenizer

from llama_padfix import ChatEncoder, patch_tokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("rows", help="parquet with a column `messages`: a file, a folder, or a bucket")
parser.add_argument("output", help="folder or bucket for parquet with input_ids and labels")
parser.add_argument("--tokenizer", default="meta-llama/Llama-3.1-8B-Instruct", help="a folder, or a name on the hub")
parser.add_argument(
    "--carry", nargs="*", default=[], help="columns to keep beside the ids, such as one that names rows"
)
parser.add_argument("--length", type=int, default=2048, help="longest row, in tokens")
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--block", type=int, default=20_000, help="rows a task, encoded again if its worker dies")
parser.add_argument("--shard", type=int, default=100_000, help="most rows a file: 100,000 of 640 tokens are 500 MB")
options = parser.parse_args()


class Encode:
    """What a worker process keeps: the encoder is unpickled once, not for every block."""

    def __init__(self, encoder: ChatEncoder) -> None:
        self.encoder = encoder

    def __call__(self, block: pyarrow.Table) -> pyarrow.Table:
        """Encode one block; rows that cannot be trained leave no place."""
        encoded: pyarrow.Table = self.encoder.encode_table(block, carry=options.carry)
        return encoded


# Made once and sent: every worker has the same settings and, for a template that prints it, the same date.
tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
patch_tokenizer(tokenizer)
encoder = ChatEncoder(tokenizer, max_length=options.length)

rows = ray.data.read_parquet(options.rows).repartition(target_num_rows_per_block=options.block)
encoded = rows.map_batches(
    Encode,
    fn_constructor_args=[encoder],
    batch_format="pyarrow",
    # From one worker up: workers on every CPU would leave none to read and write with.
    compute=ray.data.ActorPoolStrategy(min_size=1, max_size=options.workers),
)
encoded.write_parquet(options.output, max_rows_per_file=options.shard)
