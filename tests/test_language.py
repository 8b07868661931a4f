"""What is written for people uses the words of the glossary, and none that it rules out."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"
# A name in backquotes or of several parts, such as heal_folder, is not a word.
_WORD = re.compile(r"(?<![\w`.])[A-Za-z]+(?![\w`(])")


def read_banned(glossary: str) -> frozenset[str]:
    """Return the words of the glossary's last table, first column."""
    table = glossary.partition("## Words that are not used")[2]
    rows = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)[1:]
    return frozenset(word.strip() for row in rows for word in row.split(","))


def read_words(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and each word of a text, of Python only those of comments and strings."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        parts = list(enumerate(text.splitlines(), 1))
    else:
        kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        parts = [(token.start[0], token.string) for token in tokens if token.type in kinds]
    for line, part in parts:
        for word in _WORD.findall(part):
            yield line, word.lower()


def test_no_word_that_the_glossary_rules_out() -> None:
    banned = read_banned(GLOSSARY.read_text(encoding="utf-8"))
    assert len(banned) > 40 and {"hears", "optimiser", "licence"} <= banned
    texts = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "NOTICE")]
    texts += [path for path in (ROOT / "docs").rglob("*.md") if path != GLOSSARY]
    texts += [*(ROOT / "llama_padfix").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}:{n} {word}" for path in texts for n, word in read_words(path) if word in banned
    ]
    assert found == []


def test_a_word_is_found_in_comments_and_strings_and_not_in_names(tmp_path: Path) -> None:
    source = tmp_path / "x.py"
    source.write_text('heal = wants.mend  # it hears\nprint("labelled", "heal_folder `heal` heal(x)")\n')
    words = {word for _, word in read_words(source)}
    assert {"hears", "labelled"} <= words and not {"mend", "wants", "heal"} & words
