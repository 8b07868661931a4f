"""Encode conversations with Spark: `mapInArrow` hands Arrow batches to the encoder, which every executor gets once.

Run: python examples/scale_out/spark.py rows.parquet out/   (or spark-submit; needs Java 17 or newer)
"""

import argparse
from collections.abc import Iterable, Iterator

import pyarrow
from pyspark.accumulators import AccumulatorParam
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, IntegerType, StructField, StructType
from transformers import AutoTokenizer

from llama_padfix import ChatEncoder, Counts, patch_tokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("rows", help="parquet with a column `messages`: a file, a folder, or a bucket")
parser.add_argument("output", help="folder or bucket for parquet with input_ids and labels")
parser.add_argument("--tokenizer", default="meta-llama/Llama-3.1-8B-Instruct", help="a folder, or a name on the hub")
parser.add_argument(
    "--carry", nargs="*", default=[], help="columns to keep beside the ids, such as one that names rows"
)
parser.add_argument("--length", type=int, default=2048, help="longest row, in tokens")
parser.add_argument("--shard", type=int, default=100_000, help="most rows a file: 100,000 of 640 tokens are 500 MB")
options = parser.parse_args()


class AddCounts(AccumulatorParam[Counts]):  # type: ignore[misc, unused-ignore]
    """Adds up what became of the rows, over all tasks."""

    def zero(self, value: Counts) -> Counts:
        """Return what nothing adds up to."""
        return Counts()

    def addInPlace(self, value1: Counts, value2: Counts) -> Counts:  # noqa: N802
        """Return the sum."""
        return value1 + value2


# Made once and sent: every worker has the same settings and, for a template that prints it, the same date.
tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
patch_tokenizer(tokenizer)
encoder = ChatEncoder(tokenizer, max_length=options.length)

spark = SparkSession.builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", 1000).getOrCreate()
counts = spark.sparkContext.accumulator(Counts(), AddCounts())


def encode(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[pyarrow.RecordBatch]:
    """Encode one partition, batch by batch; rows that cannot be trained leave no place."""
    for batch in batches:
        table, seen = encoder.encode_chunk(pyarrow.Table.from_batches([batch]), carry=options.carry)
        counts.add(seen)
        yield from table.to_batches()


rows = spark.read.parquet(options.rows)
ids = [StructField(name, ArrayType(IntegerType())) for name in ("input_ids", "labels")]
encoded = rows.mapInArrow(encode, StructType([*ids, *(rows.schema[name] for name in options.carry)]))
shards = encoded.write.mode("overwrite").option("maxRecordsPerFile", options.shard)
shards.parquet(options.output)  # appears as a whole, with _SUCCESS
print(counts.value)
spark.stop()
