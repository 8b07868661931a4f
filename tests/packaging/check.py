"""Build sdist and wheel, check both, and use the wheel in an environment that holds nothing else.

    python tests/packaging/check.py [--unsloth]

Exits with 1 and says what is wrong. Needs the packages build, twine and check-wheel-contents.
"""

from __future__ import annotations

import argparse
import email
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("train", "pictures", "qlora", "fast", "cli", "serving", "demo", "all")
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
ELSEWHERE = {"unsloth", "test"}  # with versions of its own; what `make test` installs

# What a user sees who installed nothing but the wheel: each missing package gives one line that says what to type.
ALONE = """
import sys
import llama_padfix
assert not {"torch", "transformers", "numpy", "datasets"} & set(sys.modules), "importing loads something heavy"
from llama_padfix import (
    PadfixError, build_trainer, choose_precision, diagnose, find_markers, load, patch_tokenizer, to_messages
)
from transformers import PreTrainedTokenizerFast
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

assert to_messages({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]})
vocabulary = {token: place for place, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
backend.add_special_tokens(["<s>", "</s>", "<pad>", "<turn>"])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
tokenizer.chat_template = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant: {% endif %}"
)
plan = patch_tokenizer(tokenizer)
assert tokenizer.pad_token == "<pad>", plan
row = llama_padfix.ChatEncoder(tokenizer)({"messages": [
    {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
]})
trained = [i for i, label in zip(row["input_ids"], row["labels"]) if label != -100]
assert tokenizer.decode(trained) == "Hello</s>", tokenizer.decode(trained)
diagnose(tokenizer).raise_for_errors()
for ask, package in (
    (choose_precision, "torch"),
    (lambda: load("somewhere/something"), "torch"),
    (lambda: llama_padfix.prepare(tokenizer), "torch"),
    (lambda: build_trainer(None, tokenizer, []), "trl"),
):
    try:
        ask()
    except PadfixError as error:
        assert f"pip install {package}" in str(error) or 'pip install \"llama-padfix[' in str(error), error
    else:
        raise AssertionError(f"nothing said that {package} is missing")
print("used alone")
"""


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command and return what it printed; end with what it said where it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:6])} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def main() -> None:
    """Build, check, install, use."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--unsloth", action="store_true", help="resolve that extra too, which fetches some 500 MB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="packaging-") as place:
        folder = Path(place)
        run(sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(ROOT))
        [wheel], [sdist] = folder.glob("dist/*.whl"), folder.glob("dist/*.tar.gz")
        run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
        run(sys.executable, "-m", "check_wheel_contents", str(wheel))
        require_files(wheel, sdist)
        run(sys.executable, "-m", "venv", str(folder / "alone"))
        python = str(folder / "alone" / "bin" / "python")
        pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        run(*pip, "--constraint", str(ROOT / "constraints.txt"), str(wheel))
        print(run(python, "-c", ALONE, cwd=folder).strip())
        resolve = (*pip, "--dry-run", "--constraint", str(ROOT / "constraints.txt"))
        resolve_everywhere(folder)
        with ThreadPoolExecutor(2) as pool:
            for extra, _ in zip(EXTRAS, pool.map(lambda e: run(*resolve, f"{wheel}[{e}]"), EXTRAS), strict=True):
                print(f"extra {extra}: can be installed alone")
        if options.unsloth:  # without the constraints, whose transformers, trl and datasets are too new for it
            run(*pip, "--dry-run", f"{wheel}[unsloth]")
            print("extra unsloth: can be installed alone")


def resolve_everywhere(folder: Path) -> None:
    """Resolve what `make demo` and `make test` install, with the versions of the constraints, on each Python."""
    for python in PYTHONS:
        for extra in ("demo", "test"):
            listed = ("--quiet", "--extra", extra, "--constraint", str(ROOT / "constraints.txt"))
            out = str(folder / f"{python}-{extra}.txt")
            uv = (sys.executable, "-m", "uv", "pip", "compile", str(ROOT / "pyproject.toml"))
            run(*uv, *listed, "--python-version", python, "--output-file", out)
        print(f"Python {python}: the extras demo and test resolve")


def require_files(wheel: Path, sdist: Path) -> None:
    """Check that the wheel holds the types' marker, templates and data, and the sdist what builds and tests it."""
    with zipfile.ZipFile(wheel) as archived:
        held = archived.namelist()
        [about] = [name for name in held if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archived.read(about))
    offered = set(metadata.get_all("Provides-Extra", []))
    if offered != {*EXTRAS, *ELSEWHERE}:
        sys.exit(f"the wheel offers the extras {sorted(offered)}, and {sorted({*EXTRAS, *ELSEWHERE})} are checked")
    needed = ("__init__.pyi", "py.typed", "demo/templates/llama3_1.jinja", "view/page/data.js")
    missing = [name for file in needed if (name := f"llama_padfix/{file}") not in held]
    missing += [] if any(name.startswith("llama_padfix/data/") for name in held) else ["llama_padfix/data/"]
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    beside = ("LICENSE", "NOTICE", "SECURITY.md", "CITATION.cff", "llms.txt", "Makefile", "constraints.txt")
    missing += [name for name in beside if name not in sources]
    if missing:
        sys.exit(f"missing from the package: {', '.join(missing)}")
    print(f"{wheel.name}: {len(held)} files; {sdist.name}: {len(sources)} files")


if __name__ == "__main__":
    main()
