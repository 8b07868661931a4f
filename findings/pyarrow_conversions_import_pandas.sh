#!/usr/bin/env bash
# pyarrow 26.0.1, pandas 3.1.1, numpy 2.4.6: conversions that name no pandas import it, where it is installed.
#
# Valid input: integers as a list, a numpy array, and an Arrow array; each call in a process of its own.
# One expects: pandas, which is an optional package of pyarrow, is imported by to_pandas() and from_pandas().
# What happens: to make an array of a list or of numpy's, or a scalar, or an array numpy's, imports all of pandas, which
# takes a cold process some tenths of a second. to_pylist() and from_buffers() do not. Compute functions differ by what
# they are given: an Arrow array does not import it, a Python list does.
# Seen:
#   pa.array([1, 2]): pandas imported
#   pa.array(np.arange(3)): pandas imported
#   pa.scalar(1): pandas imported
#   made.to_numpy(): pandas imported
#   made.take([0]): pandas imported
#   made.take(made): nothing
#   made.to_pylist(): nothing
#   from_buffers: nothing
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
env/bin/python -W ignore - <<'PY'
import subprocess
import sys

BUFFERS = "pa.Array.from_buffers(pa.int64(), 3, [None, pa.py_buffer(np.arange(3))])"
CALLS = {
    "pa.array([1, 2])": True,
    "pa.array(np.arange(3))": True,
    "pa.scalar(1)": True,
    "made.to_numpy()": True,
    "made.take([0])": True,
    "made.take(made)": False,
    "made.to_pylist()": False,
    "from_buffers": False,
}
for call, expected in CALLS.items():
    code = f"import sys, numpy as np, pyarrow as pa; made = {BUFFERS}; assert 'pandas' not in sys.modules; "
    code += f"{'made' if call == 'from_buffers' else call}; print('pandas' in sys.modules)"
    imported = subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "True"
    print(f"{call}: {'pandas imported' if imported else 'nothing'}")
    assert imported == expected, "changed"
PY
