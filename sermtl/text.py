"""Transcripts: normalisation as pure functions, and the tokenizers of the CTC head."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from num2words import num2words

from sermtl.errors import UserError

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
BOUNDARY = "|"
# The vocabulary of facebook/wav2vec2-base-960h in its order, kept here because a library's tokenizer has
# been seen to map the space to <unk>.
ENGLISH_TOKENS = (*SPECIALS, BOUNDARY, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
BPE_MODEL = "bpe.model"

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


def _keep_english(text: str) -> str:
    return re.sub(r"[^A-Z' ]", "", text)


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
    text = _keep_english(text) if lang == "en" else _keep_letters(text)
    return " ".join(word for word in text.split() if word.strip("'"))


def is_english(texts: Iterable[str]) -> bool:
    """Whether every letter of the texts is one of A to Z (either case) after NFKC, tags left out."""
    return all(
        char.isascii() or not char.isalpha()
        for text in texts
        for char in unicodedata.normalize("NFKC", drop_tags(text)).translate(_QUOTES)
    )


class Tokenizer(Protocol):
    """What the CTC head needs to know of a token list."""

    tokens: list[str]

    def encode(self, text: str) -> list[int]:
        """Ids of a normalised transcript, without blanks."""

    def decode(self, ids: Sequence[int]) -> str:
        """Words of ids from which CTC's repeats are already collapsed; blanks may be left."""


class CharTokenizer:
    """Characters with ``|`` between words.

    Raises:
        UserError: The tokens do not begin with the four specials and ``|``, or one stands twice.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = list(tokens)
        if self.tokens[:5] != [*SPECIALS, BOUNDARY] or len(set(self.tokens)) < len(self.tokens):
            raise UserError(
                f"a token list begins with {' '.join(SPECIALS)} {BOUNDARY} and has no token twice; this one "
                f"begins with {' '.join(self.tokens[:5])}; make it again with sermtl.bin.tokens"
            )
        self._ids = {token: number for number, token in enumerate(self.tokens)}

    def encode(self, text: str) -> list[int]:
        """Ids of a normalised transcript; a character outside the list gives ``<unk>``."""
        unknown = self._ids["<unk>"]
        return [self._ids.get(char, unknown) for char in BOUNDARY.join(text.split())]

    def decode(self, ids: Sequence[int]) -> str:
        """Words of collapsed ids; the specials are left out."""
        chars = (self.tokens[number] for number in ids if number >= len(SPECIALS))
        return " ".join("".join(chars).replace(BOUNDARY, " ").split())


class BpeTokenizer:
    """Subwords of a sentencepiece model whose ids 0 to 3 are the specials.

    Args:
        model: The serialised sentencepiece model.

    Raises:
        UserError: The bytes are no such model.
    """

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self._pieces: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except (RuntimeError, TypeError) as error:
            raise UserError("not a sentencepiece model; make it again with sermtl.bin.tokens") from error
        self.tokens = [self._pieces.IdToPiece(number) for number in range(self._pieces.GetPieceSize())]
        if self.tokens[:4] != list(SPECIALS):
            raise UserError(f"the sentencepiece model does not begin with {' '.join(SPECIALS)}")

    def encode(self, text: str) -> list[int]:
        """Ids of a normalised transcript."""
        return list(self._pieces.EncodeAsIds(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Words of collapsed ids; the specials are left out."""
        pieces = "".join(self.tokens[number] for number in ids if number >= len(SPECIALS))
        return " ".join(pieces.replace("\u2581", " ").split())


def char_tokens(texts: Iterable[str], lang: str) -> list[str]:
    """Token list for normalised texts: the fixed 32 for English, else specials, ``|``, sorted characters."""
    if lang == "en":
        return list(ENGLISH_TOKENS)
    characters = {char for text in texts for char in text} - {" "}
    return [*SPECIALS, BOUNDARY, *sorted(characters)]


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load the tokenizer of a fold from its directory or its ``tokens.txt``.

    Raises:
        UserError: ``tokens.txt`` is missing or no token list, or disagrees with the ``bpe.model`` beside it.
    """
    path = Path(path)
    file = path / "tokens.txt" if path.is_dir() else path
    try:
        tokens = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the token list {file} ({error}); stage 2 makes it") from error
    model = file.with_name(BPE_MODEL)
    try:
        if not model.exists():
            return CharTokenizer(tokens)
        bpe = BpeTokenizer(model.read_bytes())
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    if bpe.tokens != tokens:
        raise UserError(f"{file} does not list the pieces of {model}; make both again with stage 2")
    return bpe
