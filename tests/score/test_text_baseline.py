"""The text-only baseline: words that tell everything, nothing, and only within the training speakers' sentences."""

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from sermtl.fileio.tables import write_list, write_table
from sermtl.score import plain_models
from sermtl.score.plain_models import words_alone


def made(tmp_path, text_of):
    """Four speakers of eight utterances, a fold a speaker; the texts as ``text_of`` speaker, number and emotion."""
    rows = [(f"s{s}-{n}", s, n, ("ang", "sad")[n % 2]) for s in range(4) for n in range(8)]
    write_table(tmp_path / "utt2emo", {utt: emotion for utt, _, _, emotion in rows})
    write_table(tmp_path / "text", {utt: text_of(s, n, emotion) for utt, s, n, emotion in rows})
    root = tmp_path / "folds" / "speaker"
    for fold in range(4):
        write_list(root / f"s{fold}" / "train", [utt for utt, s, n, _ in rows if s != fold and n > 1])
        write_list(root / f"s{fold}" / "dev", [utt for utt, s, n, _ in rows if s != fold and n <= 1])
        write_list(root / f"s{fold}" / "test", [utt for utt, s, _, _ in rows if s == fold])
    (root / "folds").write_text("".join(f"s{fold}\n" for fold in range(4)))
    return tmp_path


@pytest.mark.parametrize(
    "text_of, wa",
    [
        (lambda s, n, emotion: f"I AM {emotion.upper()}", 1.0),
        (lambda s, n, emotion: "THE SAME", 0.5),
        (lambda s, n, emotion: f"WORD{s}{n}", 0.5),  # each word once: nothing to learn for others
        (lambda s, n, emotion: "今日" + ("怒" if emotion == "ang" else "悲"), 1.0),  # no blanks between words
        (lambda s, n, emotion: "ONE" if n < 2 else "", None),  # three quarters have no transcript
    ],
)
def test_words_give_away_what_they_tell(tmp_path, text_of, wa):
    assert words_alone(made(tmp_path, text_of), "speaker", tmp_path) == wa


def test_it_is_computed_once_and_again_when_a_list_changes(tmp_path, monkeypatch):
    data = made(tmp_path, lambda s, n, emotion: f"{emotion.upper()} {n}")
    first = words_alone(data, "speaker", tmp_path)
    with monkeypatch.context() as patch:
        patch.delattr(plain_models, "make_pipeline")
        assert words_alone(data, "speaker", tmp_path) == first == 1.0
    write_table(data / "text", {f"s{s}-{n}": "SAME WORDS" for s in range(4) for n in range(8)})
    assert words_alone(data, "speaker", tmp_path) == 0.5


def test_it_is_scikit_learns_on_each_fold(tmp_path):
    words = "RED BLUE GREEN".split()
    data = made(tmp_path, lambda s, n, emotion: " ".join(words[: 1 + (s * n + len(emotion) + n % 2) % 3]))
    emotions = dict(line.split() for line in (data / "utt2emo").read_text().splitlines())
    texts = dict(line.split(" ", 1) for line in (data / "text").read_text().splitlines())
    right = 0
    for fold in range(4):
        lists = [(data / f"folds/speaker/s{fold}" / part).read_text().split() for part in ("train", "dev", "test")]
        counts = CountVectorizer(lowercase=False)
        fitted = counts.fit_transform([texts[utt] for utt in lists[0] + lists[1]])
        model = LogisticRegression().fit(fitted, [emotions[utt] for utt in lists[0] + lists[1]])
        guesses = model.predict(counts.transform([texts[utt] for utt in lists[2]]))
        right += sum(emotions[utt] == guess for utt, guess in zip(lists[2], guesses, strict=True))
    assert words_alone(data, "speaker", tmp_path) == right / 32
