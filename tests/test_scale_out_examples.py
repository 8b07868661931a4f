"""The scale-out examples with stand-ins for Ray and Spark: what they ask of them, and the shards that come out.

`make scale-out` runs them on Ray and Spark themselves.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from llama_padfix import ChatEncoder, Counts
from tests.conftest import fresh_tokenizer

FOLDER = Path(__file__).parent.parent / "examples" / "scale_out"
ROWS = [
    {"id": place, "messages": [{"role": "user", "content": f"Q {place}"}, {"role": "assistant", "content": "Yes"}]}
    for place in range(23)
]
BLOCK, SHARD = 10, 4


def write_shards(tables: list[pa.Table], folder: str, most: int) -> None:
    Path(folder).mkdir()
    parts = [table.slice(start, most) for table in tables for start in range(0, len(table), most)]
    for place, part in enumerate(parts):
        pyarrow.parquet.write_table(part, Path(folder, f"part-{place}.parquet"))


class Blocks:
    """A dataset of Ray, or a frame of Spark, of tables in memory."""

    def __init__(self, tables: list[pa.Table]) -> None:
        self.tables = tables
        self.most = 0
        self.schema = {"id": ("id",)}

    def repartition(self, target_num_rows_per_block: int) -> Blocks:
        [table] = self.tables
        size = target_num_rows_per_block
        return Blocks([table.slice(start, size) for start in range(0, len(table), size)])

    def map_batches(self, kind: Any, *, fn_constructor_args: list[Any], batch_format: str, compute: Any) -> Blocks:
        assert (batch_format, compute) == ("pyarrow", {"min_size": 1, "max_size": 2})
        encode = kind(*fn_constructor_args)
        return Blocks([encode(table) for table in self.tables])

    def write_parquet(self, folder: str, max_rows_per_file: int) -> None:
        write_shards(self.tables, folder, max_rows_per_file)

    def mapInArrow(self, encode: Any, schema: list[Any]) -> Blocks:  # noqa: N802
        assert [field[0] for field in schema] == ["input_ids", "labels", "id"]
        batches = [batch for table in self.repartition(BLOCK).tables for batch in table.to_batches()]
        return Blocks([pa.Table.from_batches([made]) for made in encode(iter(batches))])

    @property
    def write(self) -> Blocks:
        return self

    def mode(self, name: str) -> Blocks:
        assert name == "overwrite"
        return self

    def option(self, name: str, value: int) -> Blocks:
        assert name == "maxRecordsPerFile"
        self.most = value
        return self

    def parquet(self, folder: str) -> None:
        write_shards(self.tables, folder, self.most)


def read_blocks(file: str) -> Blocks:
    return Blocks([pyarrow.parquet.read_table(file)])


def make_ray() -> dict[str, Any]:
    ray: Any = ModuleType("ray")
    ray.data = SimpleNamespace(read_parquet=read_blocks, ActorPoolStrategy=dict)
    return {"ray": ray}


def make_spark() -> dict[str, Any]:
    class Param:
        def __class_getitem__(cls, _: Any) -> Any:
            return cls

    class Accumulator:
        def __init__(self, value: Counts, param: Any) -> None:
            self.value, self.param = value, param

        def add(self, seen: Counts) -> None:
            self.value = self.param.addInPlace(self.value, seen)

    session: Any = SimpleNamespace(
        sparkContext=SimpleNamespace(accumulator=Accumulator),
        read=SimpleNamespace(parquet=read_blocks),
        stop=lambda: None,
    )
    builder: Any = SimpleNamespace(getOrCreate=lambda: session)
    builder.config = lambda *_: builder
    modules: dict[str, Any] = {
        name: ModuleType(name) for name in ("pyspark", "pyspark.accumulators", "pyspark.sql", "pyspark.sql.types")
    }
    modules["pyspark.accumulators"].AccumulatorParam = Param
    modules["pyspark.sql"].SparkSession = SimpleNamespace(builder=builder)
    types = {"ArrayType": tuple, "IntegerType": tuple, "StructType": list, "StructField": lambda *field: field}
    types["ArrayType"] = lambda item: (item,)
    vars(modules["pyspark.sql.types"]).update(types)
    return modules


@pytest.mark.parametrize(("script", "make"), [("ray_data.py", make_ray), ("spark.py", make_spark)])
def test_an_example_writes_shards_of_the_rows_of_one_process(
    script: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_: tokenizer)
    for name, module in make().items():
        monkeypatch.setitem(sys.modules, name, module)
    source, out = tmp_path / "rows.parquet", tmp_path / "out"
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), source)
    arguments = [str(source), str(out), "--carry", "id", "--shard", str(SHARD)]
    arguments += ["--block", str(BLOCK)] if script == "ray_data.py" else []
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(FOLDER / script))
    files = sorted(out.iterdir(), key=lambda file: int(file.stem.removeprefix("part-")))
    tables = [pyarrow.parquet.read_table(file) for file in files]
    assert [len(table) for table in tables] == [4, 4, 2, 4, 4, 2, 3]
    rows = [row for table in tables for row in table.to_pylist()]
    columns, counts = ChatEncoder(tokenizer, 2048).encode_rows(ROWS)
    alone = zip(columns["input_ids"], columns["labels"], strict=True)
    assert rows == [{"input_ids": ids, "labels": own, "id": place} for place, (ids, own) in enumerate(alone)]
    if script == "spark.py":
        assert f"{counts.rows} rows: {counts.kept} kept" in capsys.readouterr().out
