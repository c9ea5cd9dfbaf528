"""The token lists of the CTC head: characters, or subwords of sentencepiece."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sermtl.errors import UserError

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
BOUNDARY = "|"
# The vocabulary of facebook/wav2vec2-base-960h in its order, kept here because a library's tokenizer has
# been seen to map the space to <unk>.
ENGLISH_TOKENS = (*SPECIALS, BOUNDARY, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
BPE_MODEL = "bpe.model"


class Tokenizer:
    """What the CTC head needs of a token list."""

    tokens: list[str]
    boundary = BOUNDARY
    """Stands between words."""

    def encode(self, text: str) -> list[int]:
        """Ids of a normalised transcript, without blanks."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        """Words of ids from which CTC's repeats are already collapsed; the specials (blanks) are left out."""
        tokens = "".join(self.tokens[number] for number in ids if number >= len(SPECIALS))
        return " ".join(tokens.replace(self.boundary, " ").split())


class CharTokenizer(Tokenizer):
    """Characters with ``|`` between words; `UserError` where the tokens are no such list."""

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


class BpeTokenizer(Tokenizer):
    """Subwords of a serialised sentencepiece model whose ids 0 to 3 are the specials; `UserError` for other bytes."""

    boundary = "\u2581"

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


def char_tokens(texts: Iterable[str], lang: str) -> list[str]:
    """Token list for normalised texts: the fixed 32 for English, else specials, ``|``, sorted characters."""
    if lang == "en":
        return list(ENGLISH_TOKENS)
    return [*SPECIALS, BOUNDARY, *sorted(set().union(*texts) - {" "})]


def train_bpe(texts: Iterable[str], nbpe: int, where: Path) -> bytes:
    """Train a sentencepiece model of ``nbpe`` pieces, ids 0 to 3 the specials; `UserError` for too little text."""
    import sentencepiece

    model, pieces = io.BytesIO(), dict[str, Any]()
    for number, (name, piece) in enumerate(zip(("pad", "bos", "eos", "unk"), SPECIALS, strict=True)):
        pieces |= {f"{name}_id": number, f"{name}_piece": piece}
    sentences = [text for text in texts if text]
    if not sentences:
        raise UserError(f"{where}: no transcript to train subwords on; use --token_type char with alpha 0")
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=nbpe,
            character_coverage=1.0,
            # The text is normalised already; sentencepiece's own rules would change it again.
            normalization_rule_name="identity",
            **pieces,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).rpartition("] ")[2] or str(error)
        raise UserError(f"{where}: no {nbpe} subwords from this text ({reason}); change --nbpe") from error
    return model.getvalue()


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a fold's directory or ``tokens.txt``; `UserError` for none, or where ``bpe.model`` differs."""
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
