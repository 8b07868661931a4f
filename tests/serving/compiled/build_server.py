"""Builds llama-server from the source package of llama-cpp-python: `make llama-server`.

    python -m tests.serving.compiled.build_server FOLDER

Needs cmake, g++ and the package index; 5 to 20 minutes, as speed of the program does not matter. Writes
FOLDER/build/bin/llama-server, for `LLAMA_PADFIX_LLAMA_SERVER=... pytest -m slow tests/serving/test_llama_server.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.serving.compiled.build import unpack

_SWITCHES = {
    "CMAKE_BUILD_TYPE": "Release",
    "CMAKE_CXX_FLAGS_RELEASE": "-O1",
    "GGML_NATIVE": "OFF",
    "GGML_OPENMP": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
}


def main(folder: Path) -> None:
    build = folder / "build"
    switches = [f"-D{name}={value}" for name, value in _SWITCHES.items()]
    subprocess.run(["cmake", "-S", str(unpack(folder)), "-B", str(build), *switches], check=True)
    subprocess.run(["cmake", "--build", str(build), "--target", "llama-server", "-j", "2"], check=True)
    sys.stdout.write(f"{build / 'bin' / 'llama-server'}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
