"""Text normalisation, token lists, tokenizers."""

from __future__ import annotations

import re
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sermtl.bin import tokens as tokens_program
from sermtl.errors import UserError
from sermtl.fileio.tables import write_list, write_table
from sermtl.text.normalise import is_english, normalise
from sermtl.text.tokenizer import ENGLISH_TOKENS, CharTokenizer, char_tokens, load_tokenizer

# Text as transcripts have it: mostly letters, with tags, quotes, dashes, digits and foreign signs among them.
PIECES = st.sampled_from([*"[]{}'-& 5\t\u2019\u2014\u00a0", "++", "007", "2nd", "1,000", "3.5", "٣"])
LINES = st.lists(st.one_of(PIECES, st.text(max_size=8), st.from_regex(r"[A-Za-z]{1,6}", fullmatch=True))).map("".join)
LANGUAGES = st.sampled_from(["en", "de", "ru", "und"])
FAST = settings(max_examples=300)


@given(LINES, LANGUAGES)
@FAST
def test_normalising_again_changes_nothing(line: str, lang: str) -> None:
    once = normalise(line, lang)
    assert normalise(once, lang) == once


@given(LINES)
@FAST
def test_english_has_its_alphabet_and_single_spaces(line: str) -> None:
    assert re.fullmatch(r"([A-Z']*[A-Z][A-Z']*( [A-Z']*[A-Z][A-Z']*)*)?", normalise(line))


@given(LINES, LANGUAGES)
@FAST
def test_no_language_has_stray_spaces_or_signs(line: str, lang: str) -> None:
    words = normalise(line, lang)
    assert words == " ".join(words.split())
    assert all(char in "' " or unicodedata.category(char)[0] in "LMN" for char in words)
    assert not any(char.islower() and char.upper() != char for char in words)


@given(st.text("abcxyz ", max_size=20), st.text("abcxyz '-", max_size=9), st.text("abcxyz ", max_size=20))
@FAST
def test_tags_never_become_words(before: str, inside: str, after: str) -> None:
    for tag in (f"[{inside}]", f"{{{inside}}}", f"++{inside}++"):
        assert normalise(before + tag + after) == normalise(f"{before} {after}")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("Excuse me.", "EXCUSE ME"),
        ("It\u2019s five o'clock", "IT'S FIVE O'CLOCK"),
        ("[LAUGHTER]", ""),
        ("[LAUGHTER Yes. {LG so", "YES SO"),
        ("(laughter) Yes (I think) (Laughs).", "YES I THINK"),
        ("the 1,000th naïve café", "THE ONE THOUSANDTH NAIVE CAFE"),
        ("½ cup, 2½ cups, ¾", "ONE HALF CUP TWO AND ONE HALF CUPS THREE QUARTERS"),
        ("{LG} Well-- [BREATHING] I ++GARBAGE++ know", "WELL I KNOW"),
        ("wait[LAUGHTER]what", "WAIT WHAT"),
        ("[a] kept [b]", "KEPT"),
        ("21 & 2nd, 1,960; 3.5!", "TWENTY ONE AND SECOND ONE THOUSAND NINE HUNDRED AND SIXTY THREE POINT FIVE"),
        ("flight 007", "FLIGHT ZERO ZERO SEVEN"),
        ("a ' b '' c", "A B C"),
        ("Well-what? Well...what", "WELL WHAT WELLWHAT"),
        ("well - known\u2014fact", "WELL KNOWN FACT"),
        ("  .  ", ""),
        ("ＡＢ\u00a0１２", "AB TWELVE"),
    ],
)
def test_english_examples(raw: str, words: str) -> None:
    assert normalise(raw) == words


@pytest.mark.parametrize(
    ("raw", "lang", "words"),
    [
        ("Für Tüten 5 & 21.", "de", "FÜR TÜTEN FÜNF UND EINUNDZWANZIG"),
        ("Ёлка, ёж 2!", "ru", "ЁЛКА ЁЖ ДВА"),
        ("a\u0308ndern", "de", "ÄNDERN"),
        ("{LG} öfter\u2019s", "und", "ÖFTER'S"),
        ("हिन्दी 3", "und", "हिन्दी 3"),
    ],
)
def test_other_languages_keep_their_letters(raw: str, lang: str, words: str) -> None:
    assert normalise(raw, lang) == words


def test_long_digit_strings_cost_no_time_and_raise_nothing() -> None:
    assert normalise("9" * 5000).split() == ["NINE"] * 5000


def test_is_english() -> None:
    assert is_english(["It\u2019s 5 o'clock \u2014 ok?", "ＡＢ", "[ä] tag"])
    assert not is_english(["fine", "für"])
    assert not is_english(["да"])


def test_the_32_tokens_are_those_of_the_published_model() -> None:
    # vocab.json of wav2vec2-base-960h, by id.
    published = "<pad> <s> </s> <unk> | E T A O N I H S R D L U M W C F G Y P B V K ' X J Q Z"
    assert list(ENGLISH_TOKENS) == published.split()


@given(LINES)
@FAST
def test_characters_come_back(line: str) -> None:
    tokenizer = CharTokenizer(ENGLISH_TOKENS)
    words = normalise(line)
    ids = tokenizer.encode(words)
    assert len(ids) == len(words) and all(4 <= number < 32 for number in ids)
    assert tokenizer.decode([0, *ids, 0]) == words


def test_an_unknown_character_is_unknown_and_no_space_is() -> None:
    tokenizer = CharTokenizer(char_tokens(["AB A"], "de"))
    assert tokenizer.tokens == ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B"]
    assert tokenizer.encode("A ÄB") == [5, 4, 3, 6]
    assert tokenizer.decode([5, 4, 3, 6, 4]) == "A B"


def test_a_damaged_token_list_is_named(tmp_path: Path) -> None:
    for content in ("", "<pad>\n|\nA\n", "<pad>\n<s>\n</s>\n<unk>\n|\nA\nA\n"):
        (tmp_path / "tokens.txt").write_text(content)
        with pytest.raises(UserError, match=r"tokens\.txt"):
            load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="stage 2"):
        load_tokenizer(tmp_path / "nowhere")


TEXTS = {"a-1": "FÜR DICH", "a-2": "", "b-1": "ЁЖ UND ICH", "c-1": "QXZ"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_table(tmp_path / "data/text", TEXTS)
    (tmp_path / "data/lang").write_text("de\n")
    write_list(tmp_path / "folds/b/train", ["a-1", "a-2", "c-1"])
    write_list(tmp_path / "folds/c/train", ["a-1", "a-2", "b-1"])
    return tmp_path


def run_tokens(root: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    words = ["--data", "data", "--folds_dir", "folds", "--folds", "b c", "--out", "tokens", *options]
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["tokens", *words])
    return tokens_program.main()


def test_characters_are_those_of_the_training_text(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_tokens(data, monkeypatch) == 0
    specials = ["<pad>", "<s>", "</s>", "<unk>", "|"]
    assert (data / "tokens/b/tokens.txt").read_text().split("\n") == [*specials, *sorted("FÜRDICHQXZ"), ""]
    assert load_tokenizer(data / "tokens/c").tokens == [*specials, *sorted(set("FÜRDICHЁЖUNDICH"))]


def test_english_gets_the_fixed_tokens(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "data/lang").write_text("en\n")
    assert run_tokens(data, monkeypatch) == 0
    assert load_tokenizer(data / "tokens/b/tokens.txt").tokens == list(ENGLISH_TOKENS)


def test_subwords_of_the_training_text(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_tokens(data, monkeypatch, "--token_type", "bpe", "--nbpe", "16") == 0
    tokenizer = load_tokenizer(data / "tokens/b")
    assert tokenizer.tokens[:4] == ["<pad>", "<s>", "</s>", "<unk>"] and len(tokenizer.tokens) == 16
    assert tokenizer.tokens == (data / "tokens/b/tokens.txt").read_text().splitlines()
    assert tokenizer.decode([0, *tokenizer.encode("FÜR DICH"), 0]) == "FÜR DICH"
    assert not set("".join(tokenizer.tokens[4:])) & set("ЁЖUN")
    # Characters again: the subword model must not be left beside them.
    assert run_tokens(data, monkeypatch) == 0
    assert isinstance(load_tokenizer(data / "tokens/b"), CharTokenizer)


def test_too_many_subwords_and_no_text_are_reported(
    data: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_tokens(data, monkeypatch, "--token_type", "bpe", "--nbpe", "5000") == 2
    assert "--nbpe" in capfd.readouterr().err
    write_table(data / "data/text", dict.fromkeys(TEXTS, ""))
    assert run_tokens(data, monkeypatch, "--token_type", "bpe", "--nbpe", "16") == 2
    assert "alpha 0" in capfd.readouterr().err
    write_list(data / "folds/b/train", ["a-1", "zz"])
    assert run_tokens(data, monkeypatch) == 2
    assert "folds/b/train: zz" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("raw", "lang", "words"),
    [
        ("1.000 Euro", "de", "EINTAUSEND EURO"),
        ("3,50 Euro", "de", "DREI KOMMA FÜNF EURO"),
        ("am 3. Mai um 7:30", "de", "AM DRITTEN MAI UM SIEBEN UHR DREISSIG"),
        ("um 7:30 Uhr, 1:05 Uhr, 13:00", "de", "UM SIEBEN UHR DREISSIG EIN UHR FÜNF DREIZEHN UHR"),
        ("um 7.30 Uhr, 8.00 Uhr, 3.50 Meter", "de", "UM SIEBEN UHR DREISSIG ACHT UHR DREI KOMMA FÜNF METER"),
        ("GROẞ und Straße", "de", "GROSS UND STRASSE"),
        ("20 % von 1.250,75", "de", "ZWANZIG PROZENT VON EINTAUSENDZWEIHUNDERTFÜNFZIG KOMMA SIEBEN FÜNF"),
        ("der 2. Versuch im 3. Stock, 1. April", "de", "DER ZWEITE VERSUCH IM DRITTEN STOCK ERSTER APRIL"),
        ("am 3.5. und der 12.10.2020", "de", "AM DRITTEN FÜNFTEN UND DER ZWÖLFTE ZEHNTE ZWEITAUSENDZWANZIG"),
        ("am 3.5.1999", "de", "AM DRITTEN FÜNFTEN NEUNZEHNHUNDERTNEUNUNDNEUNZIG"),
        ("in 1999, not 1,999", "en", "IN NINETEEN NINETY NINE NOT ONE THOUSAND NINE HUNDRED AND NINETY NINE"),
        ("Ich habe 3. Dann 1.000.000.", "de", "ICH HABE DREI DANN EINE MILLION"),
        ("3/4, 2-3, 3:2", "de", "DREI VIER ZWEI DREI DREI ZWEI"),
        ("at 7:30, 7:05 and 7:00", "en", "AT SEVEN THIRTY SEVEN OH FIVE AND SEVEN O'CLOCK"),
        (
            "1,250.75 or 20% on May 3rd",
            "en",
            "ONE THOUSAND TWO HUNDRED AND FIFTY POINT SEVEN FIVE OR TWENTY PERCENT ON MAY THIRD",
        ),
        ("3-4 of 1/2", "en", "THREE FOUR OF ONE TWO"),
        ("1.000 et 3,5 %", "fr", "MILLE ET TROIS VIRGULE CINQ POUR CENT"),
        ("3/4 a.b 7:30 1.000,5", "und", "3 4 AB 7 30 1 000 5"),
    ],
)
def test_numbers_times_and_dates_by_language(raw: str, lang: str, words: str) -> None:
    assert normalise(raw, lang) == words
    assert normalise(words, lang) == words
