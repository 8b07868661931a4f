"""Builds llama-server's chat layer from the source package of llama-cpp-python: `make chat-layer`.

    python tests/serving/compiled/build.py FOLDER

Needs g++ and the package index; two to four minutes. Writes FOLDER/layer, for `tests/serving/record_llama_cpp.py` and
`LLAMA_PADFIX_CHAT_LAYER=FOLDER/layer pytest tests/serving/test_llama_cpp.py`. Weights and kernels are not compiled.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PACKAGE = "llama-cpp-python==0.3.36"  # llama.cpp 0.5.0
FILES = ("peg-parser", "json", "json-schema", "json-schema-to-grammar", "unicode", "trie", "log", "common")


def unpack(folder: Path) -> Path:
    """Return llama.cpp's sources in a folder, downloaded."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "--dest", str(folder), PACKAGE], check=True)
    [archive] = folder.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as held:
        held.extractall(folder, filter="data")
    [root] = folder.glob("llama_cpp_python-*/vendor/llama.cpp")
    return root


def main(folder: Path) -> None:
    root = unpack(folder)
    common = root / "common"
    sources = [*common.glob("chat*.cpp"), *common.glob("parsers/*.cpp"), *common.glob("jinja/*.cpp")]
    sources += [*(common / f"{name}.cpp" for name in FILES), Path(__file__).with_name("layer.cpp")]
    headers = [f"-I{path}" for path in (common, root / "include", root / "ggml/include", root / "vendor")]

    def compile_one(source: Path) -> str:
        made = folder / f"{source.stem}.{len(source.parts)}.o"
        subprocess.run(["g++", "-std=c++17", "-O0", "-w", "-c", *headers, str(source), "-o", str(made)], check=True)
        return str(made)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    # What loads models is never called, and stays unresolved.
    link = ["g++", "-no-pie", *objects, "-Wl,--unresolved-symbols=ignore-all", "-lpthread"]
    subprocess.run([*link, "-o", str(folder / "layer")], check=True)
    sys.stdout.write(f"{folder / 'layer'}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
