"""Which packages are installed, and in which versions."""

from __future__ import annotations

from llama_padfix.core.version import installed_versions
from llama_padfix.doctor.facts import EnvironmentFacts

_OTHERS = "transformers tokenizers trl peft datasets accelerate bitsandbytes numpy pyarrow jinja2 flash-attn unsloth"
PACKAGES = ("torch", *_OTHERS.split())


def observe_environment() -> EnvironmentFacts:
    """Return the installed versions of the packages that fine-tuning stands on; imports none of them."""
    return EnvironmentFacts(installed_versions(PACKAGES))
