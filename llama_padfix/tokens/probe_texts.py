"""Texts that are hard to tokenize: a fast engine must give the same ids for them before it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

_TOKENS = 48  # added tokens that are written among other characters; each one is written beside the others

_SCRIPTS = (
    (
        "The quick brown fox jumps over 13 lazy dogs; Straße, façade, naïve, Ærøskøbing, Łódź, İstanbul, ı, ǅ, ﬁ,"
        " ſ, ß, ẞ"
    ),
    (
        "Ὀδυσσεύς Καλημέρα; Привет, мир! Ёжик їжак; ש\u05b8\u05c1לו\u05b9ם עו\u05b9ל\u05b8ם; ا\u064eلس\u064e"
        "\u0651ل\u064eام\u064f ع\u064eل\u064eي\u0652ك\u064fم\u0652 ۱۲۳ ١٢٣; नमस\u094dत\u0947 १२३ क\u094dषत\u094dर"
        "\u093fय; ব\u09be\u0982ল\u09be; ਪ\u0a70ਜ\u0a3eਬ\u0a40; ગ\u0ac1જર\u0abeત\u0ac0; தம\u0bbfழ\u0bcd; త\u0c46ల"
        "\u0c41గ\u0c41; ಕನ\u0ccdನಡ; മലയ\u0d3eള\u0d02; ස\u0dd2\u0d82හල; ภาษาไทยไม\u0e48ม\u0e35วรรค; ພາສາລາວ; བ"
        "\u0f7cད་ས\u0f90ད།; မ\u103cန\u103aမ\u102c; ភ\u17b6ស\u17b6ខ\u17d2ម\u17c2រ; አማርኛ; ᏣᎳᎩ; ᓀᐦᐃᔭᐍᐏᐣ; ქართული; Հա"
        "յերեն; монгол ᠮᠣᠩᠭᠣᠯ"
    ),
    (
        "漢字仮名交じり文。ひらがなカタカナﾊﾝｶｸ、全角ＡＢＣ１２３；简体中文，繁體中文：“引号”《书名》—— 한국어 띄"
        "어쓰기 ㄱㄴㄷ 각 각; Tiếng Việt có dấu; 𐍈 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚 𠜎𠜱 𒀀 𓀀"
    ),
    (
        "e\u0301 e\u0301\u0323 n\u0303 Z\u0351\u036b\u0343\u036a\u0302 \u0301start a\u0300\u0301\u0302b A\u030a Å"
        " Å q\u0307\u0323 q\u0323\u0307 한 한 क़ क\u093c Ω Ω ﬃ ½ ① ⁵ Ⅳ ㎒ ٠۱१"
    ),
    (
        "👩\u200d👩\u200d👧\u200d👦👍🏽🏳\ufe0f\u200d🌈🇩🇪🇫🇷🇯 ☺\ufe0f☺\ufe0e 1\ufe0f\u20e3#\ufe0f\u20e3 🧑🏿\u200d"
        "🚀 ❤\ufe0f\u200d🔥 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f ©®™ ←→⇒ ∀x∈ℝ: √2≈1.414"
        "21 ½⅔ €£¥₿ x²+y³ H₂O"
    ),
    (
        "a\u200bb\u200cc\u200dd\u2060e\ufefff\xadg\u200e\u200fh\u202aRTL\u202c \u2066i\u2069 \ufe0f\ufe0e \u034f "
        "ᅟᅠ \u180e \u2028line\u2029para"
    ),
    "\x00\x01\x02\x07\x08\x0b\x0c\x0e\x1b[31mred\x1b[0m\x1f\x7f\x80\x85next\x9f \x00\x00 a\x00b\x1c\x1d\x1e",
    "\ue000\ue001\uf8ff \U000f0000\U0010fffd \ufffe\uffff \ufdd0 \U0001fffe �� \u0378 \U000e0001",
)
_SPACES = (
    " a  b   c    d     e" + " " * 17 + "f" + " " * 130 + "g",
    "\t\tx\t y \t\n\t z\t\n\n\n   \n  w\n" + "\n" * 40 + " \n \n  \n" + "\t" * 33 + "end ",
    "\r\n\r\nline\r\n  next\r\r\n\n\r last\r",
    (
        "\xa0nbsp\xa0\xa0two\u2003em\u2009thin\u3000ideographic\u1680\u205f\u202f \xa0 \u3000\n\u3000 \x85 \u2028"
        " \x0b \x0c x"
    ),
    "   ",
    "\n",
    " ",
    "",
    "\n \n",
    "x ",
    " x",
)
_WORDS = (
    (
        "I'm you're he's we'll they'd I've don't DON'T CAN'T WE'RE I'M HE'LL 's 'S 't 'T 're 'RE 've 'VE 'm 'M 'l"
        "l 'LL 'd 'D 'ſ 'ſt 's's'' '''''' ''s ’s ’t ‘quoted’ o'clock rock'n'roll '90s 'tis x's1 's_ 'sS 'rE 'lL a"
        "'B'c \"'s\""
    ),
    (
        "0 1 12 123 1234 12345 123456 1234567 3.14159 1,000,000 0x1F 1e-10 2024-07-26 12:34:56 v1.2.3 ½3 12ab34 a"
        "1b2 ٣٤٥٦٧ １２３４ "
    ),
    "7" * 61 + " 9" * 20,
    (
        "!!!??? ... --- === *** ### $$$ %%% @@@ ~~~ ``` ((())) [[[]]] {{{}}} <<<>>> /* */ // -- -> => <= >= != =="
        " && || :: ;; ,, .,;:!?"
    ),
    "!" * 100 + "\n\n?!\n.\n,\r\n;\r a.\n b!\n\n c?  \n d",
    "a" * 3000,
    "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamtengesellschaft" * 8,
    "ab" * 700 + "漢" * 300 + "é" * 300 + "👍" * 120 + "-=" * 200,
    ("CamelCase snake_case SCREAMING_CASE kebab-case mIxEd iPhone XMLHttpRequest __init__ _x __ a_b_1 A1B2C3 tHE"),
    "Ab aB ABc ABcD ÀÉ àÉ ÉCOLE École ДОМ Дом ﬀ ŉ ᾳ ᾼ ʼn ǆ ǅ Ǆ ª º",
)
_CODE = (
    (
        "def f(x: int = 0, *args, **kwargs) -> dict[str, list[int]]:\n    '''Doc.'''\n    if x != 0 and not (x >>"
        " 2) & 0xFF:\n        return {f'{k!r:>{10}}': [v] for k, v in kwargs.items()}  # noqa: E501\n\n\n\tpass\r"
        "\n"
    ),
    (
        '#include <stdio.h>\nint main(void){printf("%d\\n", 1<<3);return 0;}/*c*/\n\n<p class="x">&amp;&nbsp;'
        "</p><!-- -->\n"
    ),
    (
        '{"key": ["va\\"lue", null, true, -1.5e+10, "\\u00e9\\n"], "nested": {"a": {}}}\n- item: |\n  '
        "  text\n  other: ~\n"
    ),
    (
        "https://user:pw@example.org:8080/a/b%20c/?q=1&r=%E2%82%AC#frag mailto:a.b+c@d.co.uk C:\\Users\\x\\n.txt "
        "./../~/.bashrc SELECT * FROM t WHERE a='b''c'; $HOME ${x:-y} `ls -la` \\frac{a}{b} $$\\sum_{i=0}^{n}$$ |"
        " a | b |\n|---|---|\n"
    ),
    (
        "aGVsbG8gd29ybGQ= 3f2504e0-4f89-11d3-9a0c-0305e82c3301 deadBEEF0123456789abcdef== \\x00\\u1234 \\\\n ////"
        " \\\\\\\\"
    ),
)
# Control tokens of several families, whole and broken: to most vocabularies they are text.
_CONTROL = (
    (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are.<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\n Hi <|eot_id|>\n<|eom_id|><|end_of_text|><|python_tag|><|finetune_right_pad_id|><|r"
        "eserved_special_token_0|>"
    ),
    (
        "<|im_start|>assistant\n<think>\n\n</think>\n\n<tool_call>\n{}\n</tool_call><|im_end|>\n<|endoftext|><|en"
        "d|><|user|> <s>[INST] x [/INST] </s><bos><start_of_turn>user\ny<end_of_turn>\n<pad><unk><mask>[CLS][SEP]"
        "[PAD][UNK][MASK]<extra_id_0><0x0A>"
    ),
    (
        "<|eot_id <|eot_id| |eot_id|> eot_id|> <| eot_id |> <|eot_id|><|eot_id|> <|eot_id|>x<|EOT_ID|> < |eot_id|"
        "> <|<|eot_id|>|> <|eot_id|>|> <|eot\u200b_id|> <|start_header_id<|eot_id|> _header_id|> ader_id|>\n\n <|"
        "reserved_special_token_ <|reserved_special_token_247|> 247|>"
    ),
    ("\n<|eot_id|> \n <|eot_id|>\t<|eot_id|>\r\n\u3000<|eot_id|>é<|eot_id|>\u0301<|eot_id|>'s<|eot_id|>s1<|eot_id|>"),
)


def make_probe_texts(added_tokens: Iterable[str]) -> list[str]:
    """Return about 200 texts of many scripts and formats, alone and joined, and with a tokenizer's added tokens.

    About 120,000 characters for Llama 3; the same for the same tokens.
    """
    lines = [*_SCRIPTS, *_SPACES, *_WORDS, *_CODE, *_CONTROL]
    tokens = sorted(set(added_tokens))
    around = []
    for token in tokens[:: max(len(tokens) // _TOKENS, 1)]:
        half = token[: len(token) // 2]
        around += [
            f"{token}{token} {token}\n{token}x{token}'s {token[:-1]} {token[1:]} ",
            f"é{token}é 1{token}1_{token}_ \t{token}\t\n ",
            f" a {token} b\n\n{token}\n\nc.{token}.d {token.upper()} {token.lower()} {half}{token}{half}",
        ]
    joined = ["".join(lines), "\n".join(reversed(lines)), " ".join(around), " ".join(tokens), "".join(tokens)]
    return [*lines, *(one + two for one, two in pairwise(lines)), *around, *joined]


@cache
def hash_probe_texts() -> str:
    """Return the SHA-256 of the probe texts, for two added tokens."""
    return hashlib.sha256("\0".join(make_probe_texts(["<a>", "<b>"])).encode()).hexdigest()
