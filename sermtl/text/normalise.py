"""Normalisation of transcripts, as pure functions."""

import functools
import re
import unicodedata
from collections.abc import Iterable

from num2words import num2words

_QUOTES = str.maketrans(dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc", "'"))
_TAG = re.compile(
    r"\[.*?\]|\{.*?\}|\+\+.*?\+\+|(?:[\[{]|\+\+)\w+"
    r"|\((?:laugh|breath|sigh|cough|sob|cry|gasp|sniff|noise|silence|inaudible|unintelligible)\w*\)",
    re.DOTALL | re.IGNORECASE,
)
"""Also a tag that is not closed, with its word, and sounds between parentheses, which hold speech too."""
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?")
_COMMA_NUMBER = re.compile(r"\d{1,3}(?:\.\d{3})+(?!\d)(?:,\d+)?|\d+(?:[.,]\d+)?")
_COMMA = frozenset("bg ca cs da de el es et fi fr hr hu id is it lt lv nl no pl pt ro ru sk sl sr sv tr uk vi".split())
"""Languages whose numbers have points between thousands and a comma before decimals."""
_TIME = re.compile(r"(?<![\d:.,])([01]?\d|2[0-3])(?::|\.(?=\d\d\s*Uhr\b))([0-5]\d)(?![\d:])(?:\s*Uhr\b)?")
_ORDINAL = re.compile(r"(\d{1,3}(?:,\d{3})+|\d+)(?:st|nd|rd|th)\b", re.IGNORECASE)
_FRACTION = re.compile("(\\d?)([\u00bc-\u00be\u2150-\u215e])")
_BEFORE = r"\b(?:(?P<article>der|die|das)|(?P<case>am|im|dem|den|des|vom|zum|zur|beim))\s+"
_MONTHS = "Jan|Feb|März|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez"
_GERMAN_ORDINALS = (
    re.compile(
        rf"(?:{_BEFORE})?(?<![\d.,])(?P<day>[12]?\d|3[01])\.\s?(?P<month>1[0-2]|0?[1-9])\.(?!\d{{1,3}}\b)", re.I
    ),
    re.compile(rf"(?:{_BEFORE})?(?<![\d.,])(?P<day>[12]?\d|3[01])\.(?P<month>)(?=\s+(?:{_MONTHS}))", re.I),
    re.compile(rf"{_BEFORE}(?P<day>\d{{1,3}})\.(?P<month>)(?=\s+\w)", re.I),
)
"""``3.5.``; ``3. Mai``; ``der 3. Versuch``."""
_PERCENT = {
    "en": "percent", "de": "Prozent", "fr": "pour cent", "es": "por ciento", "it": "per cento", "pt": "por cento",
    "nl": "procent", "pl": "procent",
}  # fmt: skip
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[^\w\s']+(?=\d)")
_DASH = re.compile(r"[-\u2010-\u2015\u2212\u2e3a\u2e3b\ufe58\s]")
_AND = {
    "en": "and", "de": "und", "fr": "et", "es": "y", "it": "e", "pt": "e", "nl": "en", "pl": "i", "ru": "и", "uk": "і",
}  # fmt: skip


def drop_tags(text: str) -> str:
    """Put a space in the place of every ``[...]``, ``{...}``, ``++...++`` (shortest match first) and ``(laughter)``."""
    return _TAG.sub(" ", text)


@functools.lru_cache(maxsize=4096)
def _spell(digits: str, lang: str, to: str = "cardinal") -> str | None:
    """One number in words; None where no number words are known for the language."""
    # Telephone numbers and "007" are read digit by digit; some converters of num2words hang on long ones.
    whole = digits.partition(".")[0]
    if len(digits) > 9 or (len(whole) > 1 and int(whole[0]) == 0):
        parts = [_spell(digit, lang) for digit in digits if digit != "."]
        return None if None in parts else " ".join(part or "" for part in parts)
    try:
        value = float(digits) if "." in digits else int(digits)
        return str(num2words(value, lang=lang, to=to))
    except NotImplementedError:
        return None


def spell_numbers(text: str, lang: str = "en") -> str:
    """Write digits, ``%`` behind them and ``&`` as words, set apart by spaces.

    The language decides which sign parts thousands and decimals. English and German have times (``7:30``) and ordinals
    (``2nd``; ``am 3. Mai``, ``im 2. Stock``, ``3.5.2020``) of their own, and 1100 to 1999 are read as years. A language
    that num2words does not know keeps its digits, and signs where their words are not known here.
    """

    def cardinal(match: re.Match[str]) -> str:
        digits = match.group()
        if lang not in _COMMA:
            digits = digits.replace(",", "")
        elif "," in digits or re.fullmatch(r"\d{1,3}(\.\d{3})+", digits):
            digits = digits.replace(".", "").replace(",", ".")
        is_year = lang in ("en", "de") and re.fullmatch(r"1[1-9]\d\d", match.group())
        words = _spell(digits, lang, "year" if is_year else "cardinal")
        return match.group() if words is None else f" {words} "

    def ordinal(match: re.Match[str]) -> str:
        return f" {_spell(match.group(1).replace(',', ''), lang, 'ordinal')} "

    text = re.sub(r"(?<=\d)\s?%", f" {_PERCENT[lang]} ", text) if lang in _PERCENT else text
    if lang == "en":
        text = _TIME.sub(lambda m: f" {m[1]} {_english_minutes(m[2])} ", _ORDINAL.sub(ordinal, text))
    if lang == "de":
        text = _TIME.sub(lambda m: f" {'ein' if int(m[1]) == 1 else m[1]} Uhr {int(m[2]) or ''} ", text)
        for pattern in _GERMAN_ORDINALS:
            text = pattern.sub(_german_ordinal, text)
    text = (_COMMA_NUMBER if lang in _COMMA else _NUMBER).sub(cardinal, text)
    return text.replace("&", f" {_AND[lang]} ") if lang in _AND else text


def _english_fraction(match: re.Match[str]) -> str:
    """One character such as ½ in words, behind a whole number with "and"."""
    above, below = unicodedata.normalize("NFKC", match[2]).split("\u2044")
    name = {"2": "half", "4": "quarter"}.get(below) or _spell(below, "en", "ordinal")
    return f"{match[1]}{' and' if match[1] else ''} {_spell(above, 'en')} {name}{'s' * (above != '1')} "


def _english_minutes(digits: str) -> str:
    return "o'clock" if digits == "00" else f"oh {digits[1]}" if digits[0] == "0" else digits


def _german_ordinal(match: re.Match[str]) -> str:
    """A day (and month) in words; the ending follows the word before: am dritten, der dritte, without one dritter."""
    before = match["case"] or match["article"] or ""
    ending = "n" if match["case"] else "" if match["article"] else "r"
    numbers = [str(int(number)) for number in (match["day"], match["month"]) if number]
    return " ".join([before, *(f"{_spell(number, 'de', 'ordinal')}{ending}" for number in numbers), ""])


def _keep_letters(text: str) -> str:
    # Marks are kept because the vowels of many scripts are marks; digits only live on where no number
    # words are known. Composed again, since deleting a sign can bring a mark beside a letter.
    kept = (char for char in text if char in "' " or unicodedata.category(char)[0] in "LM" or char.isdigit())
    return unicodedata.normalize("NFKC", "".join(kept))


def normalise(text: str, lang: str = "en") -> str:
    """Normalise a transcript; a pure and idempotent function.

    In this order: fractions such as ½ in words (English), NFKC, curly quotes straight, tags dropped, digits and ``&``
    spelled out, dashes and signs between digits that stayed to spaces, upper case (ß becomes SS), accents dropped
    (English), everything deleted but letters, apostrophe and space, lone apostrophes dropped, spaces collapsed and
    stripped; what is left may be empty. ``en`` leaves A to Z, any other ``lang`` letters of every script.
    """
    text = _FRACTION.sub(_english_fraction if lang == "en" else r"\1 \2", text)
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    text = spell_numbers(drop_tags(text), lang)
    text = _BETWEEN_DIGITS.sub(" ", text)
    text = _DASH.sub(" ", text).replace("ẞ", "ß").upper()
    text = re.sub(r"[^A-Z' ]", "", unicodedata.normalize("NFKD", text)) if lang == "en" else _keep_letters(text)
    return " ".join(word for word in text.split() if word.strip("'"))


def is_english(texts: Iterable[str]) -> bool:
    """Whether every letter of the texts is one of A to Z (either case) after NFKC, tags left out."""
    return all(
        char.isascii() or not char.isalpha()
        for text in texts
        for char in unicodedata.normalize("NFKC", drop_tags(text)).translate(_QUOTES)
    )
