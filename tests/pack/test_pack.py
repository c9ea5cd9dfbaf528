"""Packs: what they hold, that plain transformers say the same, and what is refused."""

from __future__ import annotations

import ast
import fnmatch
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from datadirs import contents
from safetensors.torch import load_file
from small_corpus import RAW_GEOMETRY, make_small_corpus, run_program, speech
from small_model import FAMILIES, copy_of, save_model, upstream_of

from sermtl import Speech2Emotion
from sermtl.bin import decode as decode_program
from sermtl.bin import pack as program
from sermtl.bin import predict as predict_program
from sermtl.bin import score as score_program
from sermtl.bin import train as train_program
from sermtl.errors import UserError
from sermtl.inference.pretrained import read_manifest
from sermtl.model.multitask import collapse
from sermtl.model.trained_model import load_model
from sermtl.pack.transformers_export import CLASSIFIER, RECOGNISER, export_transformers, write_tokenizer
from sermtl.pack.write_pack import _without_folder
from sermtl.text.tokenizer import BpeTokenizer

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'sermtl[onnx]'")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A corpus, and for each kind of features an experiment whose fold s0 is trained, decoded and scored."""
    corpus = make_small_corpus(tmp_path_factory.mktemp("corpus"))
    upstream_of(RAW_GEOMETRY).model.save_pretrained(corpus.root / "encoder")  # pretrained, as for a user
    for feats_type in ("raw", "fbank"):
        make_scored(corpus, feats_type, corpus.root / "exp" / feats_type)
    return corpus


def make_scored(corpus, feats_type, exp, **settings):
    words = corpus.arguments(exp)
    pretrained = {"upstream": str(corpus.root / "encoder"), "precision": "float32"} if feats_type == "raw" else {}
    config = corpus.config(feats_type, epochs=1, **pretrained, **settings)
    assert run_program(train_program.main, "--config", config, *words) == 0
    assert run_program(decode_program.main, "--config", "conf/decode.yaml", *words) == 0
    words = ["--data", corpus.data, "--folds_dir", corpus.folds_dir, "--folds", corpus.fold, "--exp", exp]
    assert run_program(score_program.main, "folds", *words) == 0
    pool = ["--exp", exp, "--folds_file", corpus.folds_dir / "folds"]
    assert run_program(score_program.main, "pool", *pool) == 0


def pack_of(corpus, exp, *words):
    assert run_program(program.main, *corpus.arguments(exp), *words) == 0
    return exp / corpus.fold / "pack"


@pytest.fixture(scope="module")
def packs(scored, tmp_path_factory):
    """Packs with ONNX files, moved away from their experiments."""
    root = tmp_path_factory.mktemp("packs")
    for feats_type in ("raw", "fbank"):
        words = ["--onnx", "true", "--model_license", "cc-by-4.0"]
        shutil.move(pack_of(scored, scored.root / "exp" / feats_type, *words), root / feats_type)
    return root


def same_texts(model, directory, recordings):
    """The transcripts that sermtl and both pipelines of transformers agree on, as they do on the scores."""
    # As a user of transformers would write it.
    from transformers import pipeline

    classifier = pipeline("audio-classification", model=str(directory / CLASSIFIER), top_k=None)
    recogniser = pipeline("automatic-speech-recognition", model=str(directory / RECOGNISER))
    results = [model(samples_S, 16000) for samples_S in recordings]
    for result, samples_S in zip(results, recordings, strict=True):
        floats_S = samples_S.astype(np.float32) / 32768
        scores = {entry["label"]: entry["score"] for entry in classifier(floats_S)}
        assert scores == pytest.approx(result.scores, abs=1e-4)
        assert recogniser(floats_S)["text"] == result.text
    return [result.text for result in results]


# What a pack is


def test_a_pack_needs_neither_the_experiment_nor_the_corpus(scored, packs):
    for feats_type in ("raw", "fbank"):
        fold = Speech2Emotion.from_pretrained(scored.root / "exp" / feats_type / "s0")
        pack = Speech2Emotion.from_pretrained(packs / feats_type)
        assert pack(speech(1), 16000).scores == fold(speech(1), 16000).scores
        assert pack(speech(1), 16000).text == fold(speech(1), 16000).text


def test_a_pack_and_its_onnx_file_carry_the_temperature(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    corpus = make_small_corpus(tmp_path, dev_ratio=0.2)
    heads, logits = [], []
    for calibrate in (False, True):
        exp = tmp_path / f"exp{calibrate}"
        make_scored(corpus, "fbank", exp, calibrate=calibrate)
        pack = pack_of(corpus, exp, "--onnx", "true")
        heads.append(load_file(exp / "s0" / "model.safetensors")["emotion_head.weight"].numpy())
        of_pack = list(Speech2Emotion.from_pretrained(pack)(speech(1), 16000).scores.values())
        inputs = {"waveform": speech(1)[None].astype(np.float32) / 32768, "lengths": np.array([len(speech(1))])}
        of_onnx = onnxruntime.InferenceSession(pack / "onnx/model.onnx").run(["posteriors"], inputs)[0][0]
        logits.append([np.log(posteriors) - np.mean(np.log(posteriors)) for posteriors in (of_pack, of_onnx)])
    temperature = float((heads[0] / heads[1]).mean())
    assert abs(temperature - 1) > 0.1
    for plain, calibrated in zip(*logits, strict=True):
        np.testing.assert_allclose(calibrated * temperature, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("feats_type", ["raw", "fbank"])
def test_nothing_in_a_pack_names_the_place_where_it_was_made(scored, packs, feats_type):
    place = str(scored.root).encode()
    assert [name for name, content in contents(packs / feats_type).items() if place in content] == []
    name = "encoder" if feats_type == "raw" else "fbank_geometry.yaml"
    assert f"- upstream: {name}\n" in (packs / feats_type / "README.md").read_text()
    for scores in ("scores.json", "scores_all_folds.json"):
        assert json.loads((packs / feats_type / scores).read_text())["settings"]["upstream"] == name


def test_a_model_of_the_hub_keeps_its_owner():
    settings = {"upstream": "facebook/wav2vec2-base", "upstream_digest": None, "upstream_commit": "a" * 40}
    assert _without_folder(settings) == settings


def test_two_trainings_with_the_same_settings_give_the_same_bytes(scored):
    first = scored.root / "exp" / "raw"
    again = scored.root / "again" / "under another tag"
    make_scored(scored, "raw", again)
    files = [contents(pack_of(scored, exp, "--onnx", "true")) for exp in (first, again)]
    assert files[0].keys() == files[1].keys() and "onnx/model.onnx" in files[0]
    assert [name for name in files[0] if files[0][name] != files[1][name]] == []


def test_the_card_describes_the_scores(packs):
    card = (packs / "raw" / "README.md").read_text()
    scores = json.loads((packs / "raw" / "scores.json").read_text())
    for needed in (
        "license: cc-by-4.0", "protocol `speaker`, fold `s0`", "Speaker-independent", f"{scores['ser']['wa']:.3f} [",
        "Intended use and limits", "Licences", "Citation", "audio-classification", "epochs: 1", "language: en",
    ):  # fmt: skip
        assert needed in card, needed
    assert "cannot express" in (packs / "fbank" / "README.md").read_text()


def test_the_card_shows_the_audit_and_what_all_folds_score(scored, packs):
    pack = packs / "raw"
    card, audit = (pack / "README.md").read_text(), json.loads((pack / "audit.json").read_text())
    assert audit == json.loads((scored.folds_dir / "s0" / "audit.json").read_text())
    for part in ("train", "test"):
        line = f"- {part}: {audit[f'utterances_{part}']} utterances of {audit[f'speakers_{part}']} speakers\n"
        assert audit[f"utterances_{part}"] > 0 and line in card
    assert f"- {audit['test_utterances_transcript_seen_share']:.0%} of the test transcripts also occur" in card
    pooled = json.loads((pack / "scores_all_folds.json").read_text())
    assert pooled == json.loads((scored.root / "exp/raw/scores.json").read_text()) | {"settings": pooled["settings"]}
    assert f"over 1 of 3 folds, pooled: WA {pooled['ser']['wa']:.3f}" in card


def test_a_speaker_dependent_protocol_is_reported(scored, tmp_path):
    exp = copy_of(scored.root / "exp" / "raw", tmp_path / "exp")
    path = exp / "s0" / "score_test" / "scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"speaker_dependent": True}))
    assert "**Speaker-dependent**" in (pack_of(scored, exp) / "README.md").read_text()


def test_licences_are_kept_when_a_pack_is_made_again(scored, tmp_path):
    exp = copy_of(scored.root / "exp" / "fbank", tmp_path / "exp")
    pack_of(scored, exp, "--model_license", "cc-by-4.0", "--data_license", "on request")
    card = (pack_of(scored, exp, "--onnx", "true") / "README.md").read_text()
    assert "license: cc-by-4.0\n" in card and "- training data (small): on request\n" in card
    card = (pack_of(scored, exp, "--model_license", "mit") / "README.md").read_text()
    assert "- model weights: mit\n- training data (small): on request\n" in card


def test_what_is_missing_for_a_pack_is_named_with_its_stage(scored, tmp_path, capsys):
    exp = copy_of(scored.root / "exp" / "fbank", tmp_path / "exp")
    weights = exp / "s0" / "model.safetensors"
    weights.write_bytes((scored.root / "exp" / "raw" / "s0" / "model.safetensors").read_bytes())
    assert run_program(program.main, *scored.arguments(exp)) == 2
    assert "trained again since it was scored" in capsys.readouterr().err
    (exp / "s0" / "score_test" / "scores.json").unlink()
    assert run_program(program.main, *scored.arguments(exp)) == 2
    assert "--stage 5" in capsys.readouterr().err
    assert not list(exp.glob("s0/.pack*")) and not (exp / "s0" / "pack").exists()


def test_a_folder_named_pack_is_not_replaced(scored, tmp_path, capsys):
    exp = copy_of(scored.root / "exp" / "raw", tmp_path / "exp", "pack")
    (exp / "s0" / "pack").mkdir()
    (exp / "s0" / "pack" / "thesis.txt").write_text("mine")
    assert run_program(program.main, *scored.arguments(exp)) == 2
    assert "is no pack" in capsys.readouterr().err and (exp / "s0" / "pack" / "thesis.txt").exists()


def test_a_pack_on_the_hub_is_fetched_without_what_sermtl_does_not_read(packs, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def snapshot_download(name, allow_patterns):
        assert name == "somebody/their-model"
        for file in (packs / "raw").rglob("*"):
            relative = str(file.relative_to(packs / "raw"))
            if file.is_file() and any(fnmatch.fnmatch(relative, pattern) for pattern in allow_patterns):
                (cache / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, cache / relative)
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    fetched = Speech2Emotion.from_pretrained("somebody/their-model")
    assert fetched(speech(2), 16000) == Speech2Emotion.from_pretrained(packs / "raw")(speech(2), 16000)
    assert contents(cache).keys() == {"pack.json", "model.json", "model.safetensors", "tokens/tokens.txt"}


def example_with(page, word):
    """The only example in Python of a page with this word."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return found


def run_example(page, packs, tmp_path, monkeypatch, capsys):
    """The lines that a page's only example of sermtl prints, run where ``speech.wav`` lies."""
    example = example_with(page, "from sermtl")
    soundfile.write(tmp_path / "speech.wav", speech(1, 30000), 16000)
    monkeypatch.chdir(tmp_path)
    example = re.sub(r"exp/<tag>/<fold>(/pack)?", str(packs / "raw"), example)
    exec(compile(example, "example", "exec"), {})
    return capsys.readouterr().out.splitlines()


def test_the_documented_example_runs(packs, recipe, tmp_path, monkeypatch, capsys):
    lines = run_example(recipe / "docs" / "using-models.md", packs, tmp_path, monkeypatch, capsys)
    assert lines[0].split()[0] in ("ang", "hap", "neu", "sad") and lines[1] == "(16,) 1.875"
    assert " to 1.9 s: " in lines[-2]
    assert lines[-1] == f"speech.wav {lines[0].split()[0]}"


def test_the_three_lines_of_the_readme_run(packs, recipe, tmp_path, monkeypatch, capsys):
    (line,) = run_example(recipe / "README.md", packs, tmp_path, monkeypatch, capsys)
    result = Speech2Emotion.from_pretrained(packs / "raw")(speech(1, 30000), 16000)
    assert line == f"{result.emotion} {result.scores} {result.text}"


# Plain transformers


@pytest.mark.parametrize("page", ["docs/using-models.md", "raw/README.md"])
def test_the_example_without_sermtl_runs_in_a_fresh_process(packs, recipe, tmp_path, page):
    """Where nothing of sermtl has made torchaudio importable yet."""
    example = example_with((recipe if page.startswith("docs") else packs) / page, "import pipeline")
    samples_S = speech(1, 30000)
    soundfile.write(tmp_path / "speech.wav", samples_S, 16000)
    (tmp_path / "PACK").symlink_to(packs / "raw")
    words = [sys.executable, "-c", example]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    classified, recognised = map(ast.literal_eval, done.stdout.splitlines())
    result = Speech2Emotion.from_pretrained(packs / "raw")(samples_S, 16000)
    assert {entry["label"]: entry["score"] for entry in classified} == pytest.approx(result.scores, abs=1e-4)
    assert recognised["text"] == result.text


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_say_the_same(tmp_path, family):
    model = Speech2Emotion.from_pretrained(save_model(tmp_path / "model", geometry=FAMILIES[family]))
    export_transformers(model.models[0], tmp_path)
    texts = same_texts(model, tmp_path, [speech(seed, size) for seed, size in enumerate((1600, 9000, 16000, 40000))])
    assert len(set(texts)) > 1


def test_the_folders_of_a_pack_are_those_models(packs):
    same_texts(Speech2Emotion.from_pretrained(packs / "raw"), packs / "raw", [speech(3)])


@pytest.mark.parametrize("kind", ["characters", "subwords"])
def test_the_exported_tokenizer_reads_any_path_as_sermtl_does(tmp_path, kind):
    import io
    from dataclasses import replace

    import sentencepiece
    from transformers import AutoTokenizer

    trained = load_model(save_model(tmp_path / "model"), torch.device("cpu"))
    if kind == "subwords":
        pieces = io.BytesIO()
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(["HELLO YOU THERE", "WHY DO YOU YELL", "HELLO WHY"] * 20), model_writer=pieces,
            vocab_size=30, model_type="bpe", pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="<pad>",
            minloglevel=2,
        )  # fmt: skip
        trained = replace(trained, tokenizer=BpeTokenizer(pieces.getvalue()))
    write_tokenizer(trained, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    random = np.random.default_rng(0)
    for _ in range(300):
        path_T = random.choice([0, 0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 20], random.integers(0, 40))
        assert tokenizer.decode(path_T, skip_special_tokens=False) == trained.tokenizer.decode(collapse(path_T))


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "a pack of format 2; this sermtl reads up to 1"),
        ({"format": "one"}, "a pack of format 'one'"),
        ({"files": {"../../etc/passwd": {"sha256": "0"}}}, "a path out of the pack"),
        ({"files": {"/etc/passwd": {"sha256": "0"}}}, "a path out of the pack"),
        ({"files": {}}, "lists no model.json"),
        ({"files": 3}, "damaged"),
    ],
)
def test_manifests_that_are_refused(packs, tmp_path, change, message):
    pack = copy_of(packs / "raw", tmp_path / "pack")
    manifest = json.loads((pack / "pack.json").read_text())
    (pack / "pack.json").write_text(json.dumps(manifest | change))
    with pytest.raises(UserError, match=re.escape(message)):
        Speech2Emotion.from_pretrained(pack)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "tokens/tokens.txt"])
@pytest.mark.parametrize("spoil", ["missing", "damaged"])
def test_a_missing_or_damaged_file_is_named(packs, tmp_path, name, spoil, capsys):
    pack = copy_of(packs / "fbank", tmp_path / "pack")
    content = bytearray((pack / name).read_bytes())
    (pack / name).unlink()
    if spoil == "damaged":
        content[-3] ^= 1
        (pack / name).write_bytes(content)
    assert run_program(predict_program.main, "--model", pack, packs) == 2
    audio = tmp_path / "a.wav"
    soundfile.write(audio, speech(0), 16000)
    assert run_program(predict_program.main, "--model", pack, audio) == 2
    assert f"{name} is {spoil}" in capsys.readouterr().err


def test_weights_in_pickles_are_not_read(packs, tmp_path):
    pack = copy_of(packs / "fbank", tmp_path / "pack")
    torch.save({"weight": torch.zeros(1)}, pack / "model.safetensors")
    (pack / "pack.json").unlink()
    with pytest.raises(UserError, match="damaged"):
        Speech2Emotion.from_pretrained(pack)


def test_check_finds_what_loading_would_not_read(packs, tmp_path, capsys):
    pack = copy_of(packs / "raw", tmp_path / "pack")
    assert run_program(program.main, "--check", pack) == 0
    (pack / "onnx" / "model.onnx").write_bytes(b"")
    assert run_program(program.main, "--check", pack) == 2
    assert "onnx/model.onnx is damaged" in capsys.readouterr().err
    pack = copy_of(packs / "fbank", tmp_path / "other")
    (pack / "extra.py").write_text("")
    assert run_program(program.main, "--check", pack) == 2
    assert "does not list: extra.py" in capsys.readouterr().err
    assert set(read_manifest(pack)) >= {"format", "labels", "files", "made_with"}
