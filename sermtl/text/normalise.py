"""Normalisation of transcripts, as pure functions."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable

from num2words import num2words

_QUOTES = str.maketrans(dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc", "'"))
_TAG = re.compile(r"\[.*?\]|\{.*?\}|\+\+.*?\+\+", re.DOTALL)
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)\b", re.IGNORECASE)
_DASH = re.compile(r"[-\u2010-\u2015\u2212\u2e3a\u2e3b\ufe58\s]")
_AND = {
    "en": "and",
    "de": "und",
    "fr": "et",
    "es": "y",
    "it": "e",
    "pt": "e",
    "nl": "en",
    "pl": "i",
    "ru": "и",
    "uk": "і",
}


def drop_tags(text: str) -> str:
    """Put a space in the place of every ``[...]``, ``{...}`` and ``++...++``, shortest match first."""
    return _TAG.sub(" ", text)


@functools.lru_cache(maxsize=4096)
def _spell(digits: str, lang: str, ordinal: bool) -> str | None:
    """One number in words; None where no number words are known for the language."""
    # Telephone numbers and "007" are read digit by digit; some converters of num2words hang on long ones.
    whole = digits.partition(".")[0]
    if len(digits) > 9 or (len(whole) > 1 and int(whole[0]) == 0):
        parts = [_spell(digit, lang, False) for digit in digits if digit != "."]
        return None if None in parts else " ".join(part or "" for part in parts)
    try:
        value = float(digits) if "." in digits else int(digits)
        return str(num2words(value, lang=lang, to="ordinal" if ordinal else "cardinal"))
    except NotImplementedError:
        return None


def spell_numbers(text: str, lang: str = "en") -> str:
    """Write digits (and English ordinals such as ``2nd``) and ``&`` as words, set apart by spaces.

    A language that num2words does not know keeps its digits, and ``&`` where its word is not known here.
    """

    def cardinal(match: re.Match[str]) -> str:
        words = _spell(match.group().replace(",", ""), lang, False)
        return match.group() if words is None else f" {words} "

    def ordinal(match: re.Match[str]) -> str:
        return f" {_spell(match.group(1), lang, True)} "

    if lang == "en":
        text = _ORDINAL.sub(ordinal, text)
    text = _NUMBER.sub(cardinal, text)
    return text.replace("&", f" {_AND[lang]} ") if lang in _AND else text


def _keep_letters(text: str) -> str:
    # Marks are kept because the vowels of many scripts are marks; digits only live on where no number
    # words are known. Composed again, since deleting a sign can bring a mark beside a letter.
    kept = (char for char in text if char in "' " or unicodedata.category(char)[0] in "LM" or char.isdigit())
    return unicodedata.normalize("NFKC", "".join(kept))


def normalise(text: str, lang: str = "en") -> str:
    """Normalise a transcript; a pure and idempotent function.

    In this order: NFKC, curly quotes straight, tags dropped, digits and ``&`` spelled out, dashes to
    spaces, upper case, everything deleted but letters, apostrophe and space, lone apostrophes dropped,
    spaces collapsed and stripped.

    Args:
        text: The transcript as the corpus has it.
        lang: ``en`` leaves A to Z; any other code leaves letters of every script.

    Returns:
        Words with one space between them; may be empty.
    """
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    text = spell_numbers(drop_tags(text), lang)
    text = _DASH.sub(" ", text).upper()
    text = re.sub(r"[^A-Z' ]", "", text) if lang == "en" else _keep_letters(text)
    return " ".join(word for word in text.split() if word.strip("'"))


def is_english(texts: Iterable[str]) -> bool:
    """Whether every letter of the texts is one of A to Z (either case) after NFKC, tags left out."""
    return all(
        char.isascii() or not char.isalpha()
        for text in texts
        for char in unicodedata.normalize("NFKC", drop_tags(text)).translate(_QUOTES)
    )
