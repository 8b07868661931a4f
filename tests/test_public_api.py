"""The public names and their signatures are those of `tests/public_api.txt`: a change there is a change for users.

After a change that is meant (and is in the changelog): python tests/test_public_api.py
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import llama_padfix

SNAPSHOT = Path(__file__).with_name("public_api.txt")


def describe_api() -> str:
    """One line a name: what it is, and how it is called or what it holds."""
    lines = []
    for name in sorted(llama_padfix.__all__):
        if name == "__version__":
            continue
        value = getattr(llama_padfix, name)
        if isinstance(value, type) and issubclass(value, Exception):
            lines.append(f"error {name}({value.__mro__[1].__name__})")
        elif is_dataclass(value) and isinstance(value, type):
            lines.append(f"record {name}({', '.join(field.name for field in fields(value) if field.name[0] != '_')})")
        elif isinstance(value, type):
            parameters = ", ".join(inspect.signature(value).parameters)
            lines.append(f"class {name}({parameters})")
        elif callable(value):
            parameters = ", ".join(
                str(parameter.replace(annotation=inspect.Parameter.empty)).replace("'", '"')
                for parameter in inspect.signature(value).parameters.values()
            )
            lines.append(f"function {name}({parameters})")
        else:
            lines.append(f"value {name} = {value!r}")
    return "\n".join(lines) + "\n"


def test_the_public_names_are_those_that_users_were_told_of() -> None:
    assert describe_api() == SNAPSHOT.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(SNAPSHOT.parents[1]))
    SNAPSHOT.write_text(describe_api(), encoding="utf-8")
