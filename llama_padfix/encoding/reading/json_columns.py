"""Arrow columns that hold JSON text (`datasets.Json`, the Arrow type `arrow.json`), decoded into Python rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llama_padfix.encoding.reading.json_values import parse_written

if TYPE_CHECKING:
    import pyarrow as pa

    Decode = Callable[[Any], Any]  # of the values of a field

_NAME = b"ARROW:extension:name"  # where pyarrow does not know the type, the field says it


def decode_rows(table: pa.Table) -> list[dict[str, Any]] | None:  # values of any kind
    """Return the rows of a table with its JSON text decoded; None where no field holds any."""
    decoders = {field.name: decode for field in table.schema if (decode := _find_decoder(field)) is not None}
    if not decoders:
        return None
    rows: list[dict[str, Any]] = table.to_pylist()
    for row in rows:
        for name, decode in decoders.items():
            row[name] = decode(row[name])
    return rows


def _find_decoder(field: pa.Field) -> Decode | None:
    """Return what decodes the values of a field; None where there is nothing to decode."""
    import pyarrow.types as kinds

    kind = field.type
    if getattr(kind, "extension_name", "") == "arrow.json" or (field.metadata or {}).get(_NAME) == b"arrow.json":
        return parse_written
    if kinds.is_struct(kind):
        fields = [kind.field(place) for place in range(kind.num_fields)]
        decoders = {inner.name: decode for inner in fields if (decode := _find_decoder(inner)) is not None}
        if decoders:
            return lambda value: (
                value and {name: decoders[name](item) if name in decoders else item for name, item in value.items()}
            )
    elif kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        decode = _find_decoder(kind.value_field)
        if decode is not None:
            return lambda value: value and [decode(item) for item in value]
    return None
