"""Questions to one server as JSON: within limits of time and size, and to no other address."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.text import parse_json, printable

KEY_VARIABLE = "LLAMA_PADFIX_API_KEY"
"""Holds the key that the server asks for, where it asks for one."""

_LARGEST = 64 * 2**20  # bytes of an answer


class ServerError(Exception):
    """The server answered with an error; the message is its own, `status` the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Ask no address but the one that was given."""

    def redirect_request(self, *given: Any, **more: Any) -> None:
        return None


class Server:
    """One server by its address.

    Args:
        url: Its address, with or without "/v1" at the end.
        seconds: How long an answer may take.

    Raises:
        PadfixError: The address is none of HTTP.
    """

    def __init__(self, url: str, *, seconds: float = 120.0) -> None:
        try:
            parts = urlsplit(url if isinstance(url, str) else "")
        except ValueError:  # a bracket of an address of six numbers that does not close
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PadfixError(f"url={describe(url)} is no address of a server. Pass one such as http://127.0.0.1:8080")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._seconds = seconds
        self._opener = urllib.request.build_opener(_NoRedirects())

    def ask(self, path: str, question: object = None) -> Any:  # whatever JSON holds
        """Return the answer to a GET, or to a POST of `question`.

        Raises:
            ServerError: the server answered with an error.
            PadfixError: there is no server, or its answer is no JSON.
        """
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        data = None if question is None else json.dumps(question).encode("ascii")
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
            with self._opener.open(request, timeout=self._seconds) as answer:
                text = answer.read(_LARGEST + 1)
        except urllib.error.HTTPError as error:
            raise ServerError(_read_message(error), error.code) from None
        except (OSError, ValueError) as error:
            reason = printable(getattr(error, "reason", error))
            raise PadfixError(
                f"{self.url} does not answer ({reason}). Start the server, or fix its address."
            ) from None
        try:
            if len(text) > _LARGEST:
                raise ValueError("it is longer than any answer")
            return parse_json(text)
        except ValueError as error:
            raise PadfixError(f"{self.url}{path} answers with no JSON ({printable(error)}).") from None


def _read_message(error: urllib.error.HTTPError) -> str:
    """Return the message of an error in the form of OpenAI, llama-server or FastAPI; else the status."""
    try:
        held = parse_json(error.read(_LARGEST))
    except (OSError, ValueError):
        held = None
    while isinstance(held, dict):
        held = next((held[name] for name in ("error", "message", "detail") if held.get(name)), None)
    return printable(held) if held else f"HTTP {error.code}"
