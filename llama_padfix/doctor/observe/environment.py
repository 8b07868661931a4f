"""Which packages are installed, and in which versions."""

from __future__ import annotations

from importlib import metadata

from llama_padfix.doctor.facts import EnvironmentFacts

__all__ = ["observe_environment"]

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "bitsandbytes",
    "numpy",
    "pyarrow",
    "jinja2",
    "flash-attn",
    "unsloth",
)


def observe_environment() -> EnvironmentFacts:
    """Return the installed versions of the packages that fine-tuning stands on; imports none of them."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return EnvironmentFacts(versions)
