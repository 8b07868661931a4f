"""The dimensions of a template with their options, and the texts that follow from them alone."""

from __future__ import annotations

from tests.conformance.grammar.parts import Condition, Part, Recipe, literal, quote

# The options. The first of each dimension is the plain one, to which the shrinker goes back.

DIMENSIONS: dict[str, tuple[str, ...]] = {
    "header": (
        "chatml",
        "two tokens",
        "role tokens",
        "words",
        "from",
        "colon",
        "text tag",
        "turn",
        "inst",
        "inst words",
    ),
    "role": ("literal", "variable", "renamed", "capitalized"),
    "stop": ("<E>\\n", "<E>", "<E1><E>", "<E1>\\n<E>\\n", "\\n<E>\\n", " <E> ", "<E>\\n\\n", "[end]\\n", "never"),
    "ask": ("shared", "own", "none", "newline", "last of shared"),
    "closing": (
        "always",
        "when followed",
        "not the last",
        "before the next",
        "another token at the end",
        "only the last",
    ),
    "between": ("nothing", "before", "after"),
    "gap": (
        "same",
        "space before the prompt",
        "line more in the prompt",
        "prompt ends earlier",
        "newline more in the prompt",
        "opened thought",
        "first words",
        "empty thought",
        "history holds the end",
    ),
    "thought": (
        "none",
        "field",
        "field behind the last question",
        "field of the last message",
        "cut from earlier content",
        "empty block at the end",
        "block always",
    ),
    "calls": ("none", "json", "json or text", "tagged arguments", "python arguments", "quoted arguments"),
    "call stop": ("as answers", "own"),
    "results": (
        "own turn",
        "own turn as json",
        "in a user turn",
        "inside the turn",
        "inside by nextitem",
        "inside by a look ahead",
        "inside with the name",
    ),
    "runs": ("apart", "joined"),
    "tools": ("none", "listed"),
    "generation": ("none", "marked"),
    "spacing": ("tight", "indented"),
    "channels": ("none", "channels"),
    "system": ("as any", "default", "decoy", "sliced", "into the question"),
    "start": ("nothing", "bos_token", "literal"),
    "loop": ("messages", "range", "set", "slice"),
    "assemble": ("data", "quoted", "~", "+", "%", "format", "join", "namespace", "macro", "set"),
    "content": ("as it is", "trim", "strip()", "rstrip()", "set and trim", "parts"),
    "empty": ("written", "guarded", "left out when last"),
    "prompt": ("if", "after a question", "inline", "in the loop", "not after an answer", "ignored", "always"),
    "eos": ("the stop token", "another", "by name"),
    "vocabulary": ("bytes", "merges", "thought tokens"),
}
PLAIN: Recipe = {name: options[0] for name, options in DIMENSIONS.items()}
CONTROLS = (
    *(
        "<S>",
        "<T>",
        "<H>",
        "<U>",
        "<A>",
        "<Y>",
        "<R>",
        "<turn>",
        "<text>",
        "<E>",
        "<E1>",
        "<Q>",
        "<K>",
        "<B>",
        "<other>",
    ),
    *("[INST]", "[/INST]", "[SYS]", "[/SYS]", "[TOOL]", "[/TOOL]"),
    *("<call>", "</call>", "<result>", "</result>", "<C>", "<M>", "<D>"),
)
SOFT = ("<think>", "</think>")
DEFAULT_SYSTEM = "Be kind."
FIRST_WORDS = "Here are my steps:\n"


def normalize(recipe: Recipe) -> Recipe:
    """Return the recipe with the options that cannot stand beside others set to the plain ones."""
    made = dict(recipe)

    def plain(*names: str) -> None:
        for name in names:
            made[name] = PLAIN[name]

    if made["channels"] != "none":
        plain("header", "role", "gap", "content", "empty", "thought")
        made["thought"] = recipe["thought"] if recipe["thought"].startswith("field") else "none"
        made["calls"] = "none" if made["calls"] == "none" else "json"
    if made["calls"] == "none":
        plain("call stop", "results")
    if made["stop"] == "never":
        plain("ask", "closing", "call stop")
        made["ask"] = "newline" if recipe["ask"] == "newline" else "none"
    if made["ask"] == "last of shared" and not made["stop"].startswith("<E1>"):
        plain("ask")
    if made["header"].startswith("inst"):  # the closer of a question opens the answer
        plain("role", "ask", "between", "runs")
        made["gap"] = "prompt ends earlier"
        made["closing"] = "always" if made["closing"] == "before the next" else made["closing"]
        made["results"] = "own turn" if made["results"] == "in a user turn" else made["results"]
    if made["runs"] == "joined":
        plain("calls", "call stop", "results", "between", "channels", "closing", "empty")
        made["thought"] = "field" if made["thought"] == "field" else "none"
    if made["content"] == "parts":
        plain("calls", "call stop", "results", "empty", "system")
        made["thought"] = "field" if made["thought"].startswith("field") else "none"
    if made["assemble"] not in ("data", "quoted"):
        plain("generation")
    if made["assemble"] == "data":
        plain("spacing")
    if made["closing"] in ("another token at the end", "only the last"):
        plain("call stop")
    if "<E>" not in made["stop"] and made["eos"] == "by name":
        plain("eos")
    if made["results"].startswith("inside"):
        plain("closing", "call stop", "between", "prompt")
        made["prompt"] = "after a question"
    if made["between"] != "nothing" or made["closing"] == "before the next":
        made["gap"] = "same" if made["gap"] == "space before the prompt" else made["gap"]
    if made["prompt"] == "ignored" and not made["header"].startswith("inst"):
        plain("gap")
    if made["prompt"] == "always" and made["closing"] != "another token at the end":
        plain("closing")
    if made["header"] == "role tokens" and made["role"] != "literal":
        plain("role")
    if made["header"] in ("words", "colon"):
        plain("role")
    if (
        made["gap"] == "prompt ends earlier"
        and made["header"][:4] != "inst"
        and header(made, "assistant") == header(made, "assistant").rstrip()
    ):
        plain("gap")
    if made["gap"] == "line more in the prompt" and made["header"] not in ("chatml", "two tokens", "words", "from"):
        plain("gap")
    if made["prompt"] == "ignored" and (made["channels"] != "none" or made["thought"] == "block always"):
        plain("prompt")  # without a prompt the header ends where the texts of messages begin
    if made["empty"] == "left out when last" and made["calls"] != "none":
        plain("empty")
    if made["loop"] == "range" and made["results"] == "inside by nextitem":
        plain("loop")
    if made["system"] == "into the question" and made["results"] == "in a user turn":
        plain("system")
    return made


# Headers and closers


def name_of(recipe: Recipe, role: str) -> str:
    """Return what the template calls a role in its headers."""
    if recipe["role"] == "capitalized":
        return role.capitalize()
    return "model" if recipe["role"] == "renamed" and role == "assistant" else role


def header(recipe: Recipe, role: str) -> str:
    """Return the text that opens a message of a role."""
    name = name_of(recipe, role)
    if recipe["channels"] != "none":
        return f"<S>{name}" + ("" if role == "assistant" else "<M>")
    return {
        "chatml": f"<S>{name}\n",
        "two tokens": f"<T>{name}<H>\n\n",
        "role tokens": {"user": "<U>", "assistant": "<A>", "system": "<Y>", "tool": "<R>"}[role],
        "words": "### " + {"user": "Instruction", "assistant": "Response"}.get(role, role.title()) + ":\n",
        "from": f"From: {name}\n\n ",
        "colon": role.upper() + ": ",
        "text tag": f"<{name}>\n",
        "turn": f"<turn>{name}:<text>",
        "inst": {"user": "[INST] ", "assistant": " ", "system": "[SYS]", "tool": "[TOOL]"}[role],
        "inst words": {"user": "Q: ", "assistant": " ", "system": "Note: ", "tool": "Result: "}[role],
    }[recipe["header"]]


def header_part(recipe: Recipe, role: str, when: Condition | None = None) -> Part:
    whole = header(recipe, role)
    if recipe["role"] == "literal":
        return literal(whole, when=when)
    name = name_of(recipe, role)
    before, _, behind = whole.partition(name)
    variable = {"renamed": "role", "capitalized": "(m.role | capitalize)"}.get(recipe["role"], "m.role")
    return Part(f"{quote(before)} ~ {variable} ~ {quote(behind)}", lambda place: whole, when=when)


def closer(recipe: Recipe, role: str) -> str:
    """Return the text that closes a message of a role."""
    if recipe["stop"] == "never":
        shared = ""
    else:
        shared = recipe["stop"].replace("\\n", "\n")
    if role == "assistant":
        return shared
    if recipe["header"] == "inst":
        return {"user": " [/INST]", "system": "[/SYS]\n\n", "tool": "[/TOOL]"}[role]
    if recipe["header"] == "inst words":
        return "\n\n" if role == "system" else "\nA:"
    tail = shared[len(shared.rstrip()) :]
    return {"shared": shared, "own": "<Q>\n", "none": "", "newline": "\n", "last of shared": "<E>" + tail}[
        recipe["ask"]
    ]


def prompt(recipe: Recipe) -> str:
    """Return the generation prompt."""
    whole = header(recipe, "assistant")
    more = {
        "newline more in the prompt": "\n",
        "opened thought": "<think>\n",
        "first words": FIRST_WORDS,
        "empty thought": "<think>\n\n</think>\n\n",
    }.get(recipe["gap"], "")
    if recipe["gap"] == "space before the prompt":
        whole = "\n" + whole
    elif recipe["gap"] == "line more in the prompt":
        at = len(whole) - 1 if whole.endswith((" ", "\n")) else len(whole)
        whole = whole[:at] + "\nTo: user" + whole[at:]
    elif recipe["gap"] == "prompt ends earlier":
        whole = whole.rstrip()
    elif recipe["gap"] == "history holds the end":
        whole += "<think></think>"
    if recipe["between"] != "nothing":
        whole = "\n\n" + whole
    return whole + more
