"""Arrow arrays as numpy arrays and back, over the same memory and without pandas.

pyarrow's own conversions (`pyarrow.array`, `pyarrow.scalar`, `to_numpy`) import pandas where it is installed, which
takes a fresh process 0.3 CPU seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from llama_padfix.core.types import LongArray

_FEW = 100  # rows, which take as long one by one as `take` takes for a table of thousands


def to_numpy(array: pa.Array, null: int | bool = 0) -> Any:  # of the array's own dtype
    """Return the values of an Arrow array of numbers or booleans, shape (values,), with `null` for each null."""
    import numpy as np
    import pyarrow.types as kinds

    is_bool, bits = kinds.is_boolean(array.type), array.offset % 8
    dtype = np.dtype(np.uint8 if is_bool else array.type.to_pandas_dtype())
    buffer = array.buffers()[1]
    if not len(array) or buffer is None:
        return np.zeros(len(array), bool if is_bool else dtype)
    if is_bool:
        packed = np.frombuffer(buffer, dtype, (bits + len(array) + 7) // 8, array.offset // 8)
        values = np.unpackbits(packed, count=bits + len(array), bitorder="little")[bits:].view(bool)
    else:
        values = np.frombuffer(buffer, dtype, len(array), array.offset * dtype.itemsize)
    return np.where(to_numpy(array.is_null()), values.dtype.type(null), values) if array.null_count else values


def from_numpy(values: npt.NDArray[Any]) -> pa.Array:  # of numbers
    """Return an Arrow array over the memory of a numpy array of numbers, shape (values,)."""
    import numpy as np
    import pyarrow

    buffers = [None, pyarrow.py_buffer(np.ascontiguousarray(values))]
    return pyarrow.Array.from_buffers(pyarrow.from_numpy_dtype(values.dtype), len(values), buffers)


def temporary_pool() -> pa.MemoryPool:
    """Return the memory pool for arrays of up to 32 MB that live for one call.

    It is that of the C library: memory that numpy's arrays freed is used again. The pages of a pool of Arrow's own are
    new to the process, and the first use of each takes the kernel longer than the work on what it holds. Larger arrays
    the C library gives new pages each time, and Arrow's pool does not.
    """
    import pyarrow

    return pyarrow.system_memory_pool()


def take(values: pa.Array | pa.Table, places: LongArray) -> Any:  # of the type of `values`
    """Return the items of an array, or the rows of a table, at some places, in the memory of `temporary_pool`."""
    from pyarrow import compute

    return compute.take(values, from_numpy(places), memory_pool=temporary_pool())


def from_texts(texts: Sequence[str]) -> pa.Array:
    """Return an Arrow array of strings."""
    import numpy as np
    import pyarrow

    encoded = [text.encode() for text in texts]
    bounds = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    buffers = [None, pyarrow.py_buffer(bounds), pyarrow.py_buffer(b"".join(encoded))]
    return pyarrow.Array.from_buffers(pyarrow.string(), len(encoded), buffers)


def pick_rows(table: pa.Table, places: Sequence[int] | LongArray) -> pa.Table:
    """Return the rows of a table at some places; few are not copied, as `take` joins the chunks of each column first.

    Raises:
        pyarrow.ArrowNotImplementedError: There are many, of columns of views.
    """
    import numpy as np
    import pyarrow

    if table.column_names and 0 < len(places) <= _FEW:
        return pyarrow.concat_tables([table.slice(place, 1) for place in places])
    return take(table, np.asarray(places, np.int64))
