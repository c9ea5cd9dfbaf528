"""Write the token list of each fold: characters (of English the fixed 32) or subwords of its training text."""

import argparse
from pathlib import Path

from sermtl.errors import UserError, command
from sermtl.fileio.files import atomic_write, write_text
from sermtl.fileio.stamp import NAME, Stamp, inputs
from sermtl.fileio.tables import read_list, read_table
from sermtl.text.tokenizer import BOUNDARY, BPE_MODEL, SPECIALS, BpeTokenizer, char_tokens, train_bpe

CODE_VERSION = 1
"""Raised when the same text would give other tokens."""
INPUTS = ("data:text", "data:lang", "fold:train")


def write_tokens(out: Path, text: dict[str, str], train: Path, token_type: str, nbpe: int, lang: str) -> list[str]:
    """Write one fold's ``tokens.txt``, with ``bpe.model`` beside it for subwords; returns the tokens."""
    listed = read_list(train)
    for utt in listed:
        if utt not in text:
            raise UserError(f"{train}: {utt} is not in the data directory's text; make the folds again (stage 1)")
    texts = [text[utt] for utt in listed]
    if token_type == "bpe":
        model = train_bpe(texts, nbpe, train)
        tokens = BpeTokenizer(model).tokens
        with atomic_write(out / BPE_MODEL, "wb") as file:
            file.write(model)
    else:
        (out / BPE_MODEL).unlink(missing_ok=True)
        tokens = char_tokens(texts, lang)
    write_text(out / "tokens.txt", "".join(f"{token}\n" for token in tokens))
    return tokens


def read_lang(data: Path) -> str:
    """Language code of a data directory; `UserError` where there is none."""
    try:
        lang = (data / "lang").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {data / 'lang'}; stage 1 writes it: one line, en or another code") from error
    if not lang:
        raise UserError(f"{data / 'lang'} is empty; write a language code such as en into it")
    return lang


@command
def main() -> None:
    """Write the token lists of the folds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data directory")
    parser.add_argument("--folds_dir", type=Path, required=True, help="folds of a protocol")
    parser.add_argument("--folds", required=True, help='fold names, "01F 02M"')
    parser.add_argument("--token_type", choices=("char", "bpe"), default="char")
    parser.add_argument("--nbpe", type=int, default=100, help="tokens of --token_type bpe, specials included")
    parser.add_argument("--out", type=Path, required=True, help="directory for one folder per fold")
    args = parser.parse_args()
    lang = read_lang(args.data)
    text = read_table(args.data / "text")
    for fold in args.folds.split():
        train = args.folds_dir / fold / "train"
        roots = {"data": args.data, "fold": args.folds_dir / fold}
        settings = {"token_type": args.token_type, "nbpe": args.nbpe if args.token_type == "bpe" else None}
        made = Stamp(args.out / fold / NAME, CODE_VERSION, settings, inputs(roots, *INPUTS))
        if not made.changed():
            print(f"nothing changed: {args.out / fold}")
            continue
        made.begin()
        tokens = write_tokens(args.out / fold, text, train, args.token_type, args.nbpe, lang)
        plain = sum(token not in (*SPECIALS, BOUNDARY) for token in tokens)
        made.finish(path for name in ("tokens.txt", BPE_MODEL) if (path := args.out / fold / name).is_file())
        print(f"{args.out / fold}: {len(tokens)} tokens ({plain} of text, {args.token_type}, {lang})")


if __name__ == "__main__":
    raise SystemExit(main())
