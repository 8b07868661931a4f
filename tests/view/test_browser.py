"""The page in a real browser: mouse and keys work, it is self-contained, and nothing in a row runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_padfix import ChatEncoder, MaskView, PadCollator, view_mask
from tests.conftest import fresh_tokenizer
from tests.view.test_mask_view import CHAT, HOSTILE, SHORT, hostile_rows

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
    "--remote-debugging-pipe",
)


class Browser:
    """Chromium, driven through its debugging pipe (file descriptors 3 and 4, messages that end in NUL)."""

    def __init__(self, folder: str) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # By way of high numbers, since the pipes may have got 3 and 4 themselves.
        script = f'exec 250<&{to_browser} 251>&{from_browser}; exec "$0" "$@" 3<&250 4>&251 250<&- 251>&-'
        self.process = subprocess.Popen(
            ["bash", "-c", script, str(CHROMIUM), *FLAGS, f"--user-data-dir={folder}"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest, self._number, self.events = b"", 0, list[dict[str, Any]]()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session: str | None = None
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        session = getattr(self, "session", None)
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._in, 1 << 20)
            assert data, "the browser went away"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def run(self, expression: str) -> Any:
        """What an expression (a promise is awaited) gives in the page, past its Content-Security-Policy."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a page and wait until its script is through."""
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=f"{path.as_uri()}{fragment}")
        ready = "document.readyState === 'complete' && document.documentElement.dataset.ready || ''"
        for _ in range(3000):
            with contextlib.suppress(AssertionError):  # between two pages there is nothing to ask
                if self.run(ready):
                    break
            time.sleep(0.01)
        self.settle()

    def settle(self) -> None:
        """Wait for what the page does in the next frames."""
        self.run("new Promise(done => { let n = 6; const f = () => n-- ? requestAnimationFrame(f) : done(); f(); })")

    def press(self, key: str) -> None:
        arguments: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": ord(key) if len(key) == 1 else 0}
        if len(key) == 1:
            arguments["text"] = key
        if key == "Enter":
            arguments |= {"text": "\r", "windowsVirtualKeyCode": 13}
        if key == "Tab":
            arguments |= {"windowsVirtualKeyCode": 9}
        self.call("Input.dispatchKeyEvent", type="keyDown", **arguments)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.settle()

    def point(self, selector: str, *, click: bool = False) -> None:
        """Move the mouse onto the middle of the first element that fits, and click."""
        box = self.run(
            f"(b => [b.left + b.width / 2, b.top + b.height / 2])({_find(selector)}.getBoundingClientRect())"
        )
        place = {"x": box[0], "y": box[1]}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        if click:
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
        self.settle()

    def text(self, selector: str) -> str:
        return str(self.run(f"{_find(selector)}.textContent"))

    def count(self, selector: str) -> int:
        return int(self.run(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def complaints(self) -> list[str]:
        """What the console holds: errors of the script, and what the policy forbade."""
        self.settle()
        return [
            json.dumps(event["params"])
            for event in self.events
            if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        ]

    def requests(self) -> list[str]:
        sent = (event for event in self.events if event["method"] == "Network.requestWillBeSent")
        return [str(event["params"]["request"]["url"]) for event in sent]

    def screenshot(self, path: Path) -> None:
        import base64

        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self.session = None
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close")
        self.process.wait(30)
        os.close(self._out)
        os.close(self._in)


def _find(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)})"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        started = Browser(folder)
        yield started
        started.close()


@pytest.fixture(scope="module")
def llama() -> Any:
    return fresh_tokenizer("3.1-instruct")


@pytest.fixture(scope="module")
def hostile(llama: Any) -> MaskView:
    return view_mask(hostile_rows(llama), llama, title=HOSTILE[0])


@pytest.fixture(scope="module")
def hostile_page(hostile: MaskView, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile.save(tmp_path_factory.mktemp("hostile") / "page.html")


@pytest.fixture(scope="module")
def faulty(llama: Any) -> MaskView:
    """A padded batch: row 0 trains everything and its padding, row 1 and 2 are right."""
    encoder = ChatEncoder(llama)
    batch = PadCollator(128004, pad_to_multiple_of=64)([encoder(CHAT), encoder(SHORT), encoder(CHAT)])
    batch["labels"][0] = batch["input_ids"][0]
    return view_mask(batch, llama, title="A padded batch")


@pytest.fixture(scope="module")
def page(faulty: MaskView, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faulty.save(tmp_path_factory.mktemp("faulty") / "page.html")


@pytest.fixture(scope="module")
def large(llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 rows of 4,096 tokens; the last token of the last row occurs nowhere else."""
    row = ChatEncoder(llama)(CHAT)
    ids, labels = ((row[name] * 80)[:4096] for name in ("input_ids", "labels"))
    rows = [{"input_ids": ids, "labels": labels}] * 199
    rows.append({"input_ids": [*ids[:-1], 128255], "labels": [*labels[:-1], 128255]})
    return view_mask(rows, llama).save(tmp_path_factory.mktemp("large") / "page.html")


# ---- nothing in a row runs, and nothing is requested


def test_nothing_in_a_hostile_row_runs(browser: Browser, hostile: MaskView, hostile_page: Path) -> None:
    browser.open(hostile_page, "#spaces=1")
    for number in range(len(hostile.rows)):
        browser.run(f"location.hash = '#row={number}&pos=1'")
        browser.settle()
    browser.press("n")
    assert browser.run("document.title") == HOSTILE[0]
    assert browser.complaints() == []
    assert browser.requests() == [hostile_page.as_uri()], "the page itself and nothing else"
    assert browser.count("img, iframe, svg, #rows a, #rows script, [onerror], [onload], [onfocus]") == 0
    browser.open(hostile_page)
    assert "".join(HOSTILE[0].split()) in browser.text("#rows article .tokens").replace("\u23ce", "")


def test_the_policy_would_stop_what_got_in(browser: Browser, hostile_page: Path) -> None:
    browser.open(hostile_page)
    browser.run(
        "(() => { const s = document.createElement('script'), i = document.createElement('img');"
        " try { s.textContent = \"document.title = 'pwned'\"; } catch { /* no trusted script */ }"
        " i.src = 'http://127.0.0.1:9/x.png'; document.body.append(s, i); })()"
    )
    sink = "try { document.body.innerHTML = '<b>x</b>'; 'taken' } catch (error) { error.name }"
    assert browser.run(sink) == "TypeError", "no HTML is made of strings"
    assert browser.run("document.title") == HOSTILE[0]
    assert "Content Security Policy" in " ".join(browser.complaints())


def test_that_test_can_fail(browser: Browser, tmp_path: Path) -> None:
    naive = tmp_path / "naive.html"
    naive.write_text(f"<html data-ready=1><title>x</title><body>{HOSTILE[2]}</body></html>")
    browser.open(naive)
    assert browser.run("document.title") == "pwned"
    assert browser.count("img") == 1


def test_nothing_in_a_notebooks_output_runs(browser: Browser, hostile: MaskView, tmp_path: Path) -> None:
    notebook = tmp_path / "notebook.html"
    body = hostile._repr_html_()
    notebook.write_text(f"<html data-ready=1><meta charset=utf-8><title>x</title><body>{body}</body></html>")
    browser.open(notebook)
    assert browser.run("document.title") == "x"
    assert browser.complaints() == []
    assert HOSTILE[2] in browser.text("body")


# ---- what it shows


def test_every_token_is_drawn_as_it_is(browser: Browser, faulty: MaskView, page: Path) -> None:
    browser.open(page, "#pads=1")
    assert browser.complaints() == []
    tokens = sum(len(row) for row in faulty.rows)
    trained = sum(int(row.trained.sum()) for row in faulty.rows)
    assert browser.count("#rows .t") == tokens
    assert browser.count("#rows .t.x") == trained
    assert browser.count("#rows .t.p") == sum(int(row.padding.sum()) for row in faulty.rows)
    for number, row in enumerate(faulty.rows):
        article = f"document.querySelectorAll('article')[{number}]"
        seen = browser.run(f"[...{article}.querySelectorAll('.t')].map(t => t.className)")
        assert ["x" in names.split() for names in seen] == row.trained.tolist()
        special = [faulty.pieces[token_id].is_special for token_id in row.input_ids.tolist()]
        assert ["s" in names.split() for names in seen] == special
    second = "document.querySelectorAll('article')[1]"
    roles = browser.run(f"[...{second}.querySelectorAll('.turn > b')].map(b => b.textContent)")
    assert roles == ["", "system", "user", "assistant", "padding"]


def test_padding_is_one_box_unless_asked(browser: Browser, faulty: MaskView, page: Path) -> None:
    browser.open(page)
    pads = int(faulty.rows[1].padding.sum())
    last = "[...document.querySelectorAll('article')[1].querySelectorAll('.t')].pop().textContent"
    assert browser.run(last) == f"{pads} × <|finetune_right_pad_id|>"
    browser.point("#pads", click=True)
    assert browser.run(last) == "<|finetune_right_pad_id|>"
    assert browser.run("document.querySelectorAll('article')[1].querySelectorAll('.t.p').length") == pads


def test_characters_line_breaks_and_spaces(browser: Browser, page: Path) -> None:
    browser.open(page)
    row = "document.querySelectorAll('article')[2]"
    assert "What is 龘" in browser.run(f"{row}.textContent").replace("\u207a", "")
    marks = browser.run(f"[...{row}.querySelectorAll('i')].map(i => i.dataset.mark)")
    assert "⏎⏎" in marks and "·" not in marks
    spaces = (
        browser.run(f"({row}.querySelector('.tokens').textContent.match(/ /g) || []).length") - 2
    )  # "14 × <|pad|>"
    browser.point("#spaces", click=True)
    marks = browser.run(f"[...{row}.querySelectorAll('i')].map(i => i.dataset.mark)")
    assert marks.count("·") == spaces > 5


def test_the_findings_stand_above_and_beside_the_row(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.count(".findings .finding") == 2
    assert "LBL005 padding-trained" in browser.text(".findings")
    assert [browser.count(f"article:nth-child({place}) aside li") for place in (1, 2, 3)] == [2, 0, 0]
    assert browser.text("#problem") == "2 in all"


# ---- how it is operated


def test_hovering_tells_id_position_and_role(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("document.getElementById('card').hidden")
    browser.point("article .t.s")
    card = browser.text("#card")
    assert "<|begin_of_text|>" in card and "id128000, a control token" in card and "position0" in card
    browser.point("h1")
    assert browser.run("document.getElementById('card').hidden")
    browser.point("article .turn:nth-child(3) .t:nth-child(2)", click=True)
    browser.point("h1")
    assert "roleuser (turn 3 of 5)" in browser.text("#card"), "a click, or a tap, keeps it"
    browser.press("Escape")
    assert browser.run("document.getElementById('card').hidden")


def test_the_arrow_keys_go_from_token_to_token(browser: Browser, faulty: MaskView, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelectorAll('.tokens')[1].focus()")
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown", "ArrowUp", "ArrowLeft", "End", "Home"):
        browser.press(key)
        seen.append(browser.run("document.activeElement.pos"))
    starts = [start for start, _ in faulty.rows[1].turns]
    assert seen == [0, 1, starts[2], starts[3], starts[2], starts[2] - 1, starts[-1], 0]
    assert "role: none (turn 1 of 5)" in browser.text("#live"), "it is read out"
    assert browser.run("location.hash") == "#row=1&pos=0"


def test_next_problem(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.point("#next-problem", click=True)
    assert browser.text("#problem") == "1 of 2" and "LBL004" in browser.text("#card")
    browser.press("n")
    assert browser.text("#problem") == "2 of 2" and "LBL005" in browser.text("#card")
    browser.press("n")
    assert browser.text("#problem") == "1 of 2"
    browser.press("p")
    assert browser.text("#problem") == "2 of 2"
    browser.run("document.getElementById('keys').click(); document.activeElement.blur()")
    browser.press("n")
    assert browser.text("#problem") == "2 of 2", "single keys can be switched off"


def test_only_rows_with_problems(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.point("#only", click=True)
    assert browser.count("article:not([hidden])") == browser.count("nav li:not([hidden])") == 1
    browser.run("location.hash = '#row=2'")
    browser.settle()
    assert browser.count("article:not([hidden])") == 2, "a row that the address names is shown"


def test_search_in_text_and_by_id(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.press("/")
    assert browser.run("document.activeElement.id") == "query"
    for letter in "DRAGON":
        browser.press(letter)
    browser.press("Enter")
    assert browser.text("#found") == "1 of 2" and browser.text(".on") == " dragon"
    browser.press("Enter")
    assert browser.text("#found") == "2 of 2"
    assert browser.count("#rows .h") == 2
    browser.open(page, "#q=n.%5Cn%5CnTwo")
    assert browser.text("#found") == "1 of 2", "a text over several tokens and lines"
    assert browser.count("article:first-child .h") == 3
    browser.open(page, "#id=128009")
    assert browser.text("#found") == "1 of 9"
    browser.open(page, "#q=%3Cb%3Enowhere")
    assert browser.text("#found") == "0 found"
    browser.open(page, "#q=%E9%BE%98")
    assert browser.text("#found") == "1 of 4", "a character that several tokens make up"


def test_the_address_leads_to_a_token(browser: Browser, page: Path) -> None:
    browser.open(page, "#row=2&pos=40")
    assert "position40" in browser.text("#card")
    assert browser.run("document.querySelector('[aria-current]').textContent").startswith("row 2")
    for odd in ("#row=99", "#row=x&pos=y", "#problem=0", "#problem=99", "#row=1&pos=99999", "#%E0%A4%A", "#q=&id="):
        browser.open(page, odd)
        assert browser.complaints() == [], odd


def test_200_rows_of_4096_tokens(browser: Browser, large: Path) -> None:
    browser.open(large)
    assert browser.complaints() == []
    assert browser.count("article") == 200
    assert browser.count("#rows .t") < 10_000, "only what is near the window is drawn"
    browser.open(large, "#id=128255")
    assert browser.text("#found") == "1 of 1" and browser.text(".on") == "<|reserved_special_token_247|>"
    box = browser.run("(b => [b.top, b.bottom, innerHeight])(document.querySelector('.on').getBoundingClientRect())")
    assert 0 < box[0] < box[1] < box[2], "it is in sight"
    for row in range(0, 200, 20):
        browser.run(f"location.hash = '#row={row}&pos=2000'")
        browser.settle()
    assert browser.count("#rows .t") < 10_000, "what is far away again is let go"


# ---- who can read it


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser: Browser, page: Path, scheme: str) -> None:
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(page)
    names = ["ground", "text", "muted", "panel", "trained", "padding", "error", "warning", "note", "hit", "hit-text"]
    style = "getComputedStyle(document.documentElement)"
    colors = {name: browser.run(f"{style}.getPropertyValue('--{name}').trim()") for name in names}
    browser.call("Emulation.setEmulatedMedia", features=[])
    pairs = [("text", "ground"), ("text", "panel"), ("text", "trained"), ("muted", "ground"), ("muted", "panel")]
    pairs += [
        ("muted", "padding"),
        ("hit-text", "hit"),
        *((level, "ground") for level in ("error", "warning", "note")),
    ]
    ratios = {pair: contrast(colors[pair[0]], colors[pair[1]]) for pair in pairs}
    assert min(ratios.values()) >= 4.5, ratios
    assert (luminance(colors["ground"]) > 0.5) == (scheme == "light")


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_kinds_differ_by_more_than_color(browser: Browser, page: Path) -> None:
    browser.open(page)
    kinds = ["", ".x", ".p", ".s", ".s.x"]
    styles = browser.run(
        "[...document.querySelectorAll('.legend .t')].map(t => (s => [s.borderBottomWidth, s.borderBottomStyle,"
        " s.borderTopWidth, s.fontWeight].join(' '))(getComputedStyle(t)))"
    )
    assert len(styles) == len(kinds) == len(set(styles)), styles


def test_every_control_has_a_name(browser: Browser, page: Path) -> None:
    browser.open(page)
    nameless = browser.run(
        "[...document.querySelectorAll('button, input, select, nav, section, .tokens, article')]"
        ".filter(e => !(e.textContent.trim() || e.ariaLabel || (e.labels && e.labels.length))).map(e => e.outerHTML)"
    )
    assert nameless == []


def test_a_narrow_window_needs_no_sideways_scrolling(browser: Browser, hostile_page: Path) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
    browser.open(hostile_page)
    width = browser.run("document.documentElement.scrollWidth")
    browser.call("Emulation.clearDeviceMetricsOverride")
    assert width <= 400
