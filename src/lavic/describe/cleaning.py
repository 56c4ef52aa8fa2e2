"""What a teacher said becomes a description: no half sentence, no mention of the title."""

from __future__ import annotations

import re
import unicodedata

# Shorter titles are names of kinds ("T-Shirt", "Ceramic mug"), which a description cannot do without; they are
# only taken out in quotation marks.
MIN_TITLE_WORDS = 3

# A mark that closes a sentence, what may close behind it, and then a space or the end. "3.5 cm" and "e.g. red" are
# no ends: a digit follows at once, or a small letter.
_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s+[^a-z\s]|\s*$)|[。！？]+[”’」』）]*")
_OPEN, _CLOSE = "\"'“‘«(\\[", "\"'”’»)\\]"
_ARTICLE = r"(?P<article>\b(?:the|an?|this)\s+)?"
_CALLED = r"(?P<called>\b(?:called|named|titled|entitled|labell?ed)\s+)?"
# Behind these words something has to stand: "with its name on it", not "with on it".
_NEEDS_MORE = re.compile(
    r"\b(?:with|of|for|by|from|to|in|on|as|and|or|is|says?|saying|reads?|reading|shows?|showing|displays?|spells?)\s*$",
    re.IGNORECASE,
)
# Marks that a teacher writes one for another: "Burt’s" for "Burt's", an en dash for a hyphen.
_ALIKE = ("'’‘ʼ`´", '"“”„', "-‐‑–—−")
# What a byte-wise tokenizer makes of a character that the token limit cut through.
_HALF_CHARACTER = "\ufffd"


def clean(text: str, title: str, *, cut_off: bool, keep_title: bool = False) -> str:
    """The description in a teacher's answer; "" if nothing is left.

    Args:
        text: as decoded.
        title: of the product.
        cut_off: whether the token limit ended the text.
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").strip()
    if cut_off:
        text = without_half_sentence(text)
    if not keep_title:
        text = without_title(text, unicodedata.normalize("NFC", title))
    return text.strip()


def without_half_sentence(text: str) -> str:
    """The text up to its last whole sentence; "" where there is none."""
    ends = [match.end() for match in _END.finditer(text.rstrip(_HALF_CHARACTER))]
    return text[: ends[-1]] if ends else ""


def without_title(text: str, title: str) -> str:
    """The text without the title: taken out where it is quoted or in brackets, else called "the product"."""
    words = title.split()
    if not any(any(character.isalnum() for character in word) for word in words):
        return text
    pattern = r"\s+".join(map(_pattern, words))
    # `, "Aurora Steel Kettle",` and ` (Aurora Steel Kettle)`: what is between the marks goes with them.
    quoted = re.compile(
        rf"(?P<comma>,?)(?P<space>\s*){_ARTICLE}{_CALLED}(?P<open>[{_OPEN}])\s*{pattern}\s*(?P<inner>[,.]?)[{_CLOSE}](?P<after>,?)",
        re.IGNORECASE,
    )
    changed = quoted.sub(_without_quotation, text)
    if len(words) >= MIN_TITLE_WORDS:
        bare = re.compile(rf"(?<!\w){_ARTICLE}{_CALLED}{pattern}(?!\w)", re.IGNORECASE)
        changed = bare.sub(lambda match: "" if match["called"] else _the_product(match), changed)
    return text if changed == text else _tidy(changed)


def _pattern(word: str) -> str:
    """What finds a word, with any quotation mark or dash for its own."""
    return "".join(
        next((f"[{re.escape(marks)}]" for marks in _ALIKE if mark in marks), re.escape(mark)) for mark in word
    )


def _without_quotation(match: re.Match[str]) -> str:
    # Of the two commas around an insertion none stays; of a lone one, that one does. A full stop inside stays.
    end = match["inner"] if match["inner"] == "." else ""
    end += match["after"] if match["after"] and not match["comma"] else ""
    before = match.string[: match.start()]
    if match["open"] in "([":
        return end
    if match["article"] or _begins(before):
        return match["comma"] + match["space"] + _the_product(match) + end
    if not match["comma"] and _NEEDS_MORE.search(before):
        return match["space"] + "its name" + end
    return end


def _the_product(match: re.Match[str]) -> str:
    return "The product" if _begins(match.string[: match.start()]) else "the product"


def _begins(before: str) -> bool:
    """Whether a sentence begins behind a text."""
    return not before.strip() or before.rstrip()[-1] in ".!?…" or before.rstrip(" ")[-1] == "\n"


def _tidy(text: str) -> str:
    """Spaces and marks that stood around what was taken out."""
    text = re.sub(r"[ \t]{2,}", " ", text)
    text = re.sub(r"[ \t]+([,.;:!?])", r"\1", text)
    text = re.sub(r"[,:;]+(?=[,.;!?])", "", text)
    return re.sub(r"^[\s,;:.]+", "", text)
