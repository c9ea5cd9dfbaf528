"""Stored outputs of the convolutional encoder: what they are, and that training on them is training on the audio."""

import json
import shutil

import kaldiio
import numpy as np
import pytest
import torch
import yaml
from small_corpus import RAW_GEOMETRY, make_small_corpus, run_program

from sermtl.audio import read
from sermtl.bin import decode as decoding
from sermtl.bin import dump as dumping
from sermtl.bin import train as training
from sermtl.config import TrainConfig
from sermtl.data import stored_features
from sermtl.data.fold_data import load_fold
from sermtl.data.stored_features import ConvFeatures, dump_name
from sermtl.errors import UserError
from sermtl.fileio.tables import read_table, write_table
from sermtl.inference.predict import Speech2Emotion
from sermtl.model.upstreams.load import load_upstream
from sermtl.seeding import derive_seed

CPU = torch.device("cpu")
QUIET = {f"{name}_dropout": 0.0 for name in ("hidden", "attention", "activation", "feat_proj", "final")}
QUIET |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
FROZEN = {"num_workers": 0, "freeze_feature_encoder": True, "epochs": 3, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The small corpus with a frozen upstream without dropout or masks, and its convolutional outputs."""
    corpus = make_small_corpus(tmp_path_factory.mktemp("corpus"), dev_ratio=0.2)
    (corpus.root / "raw_geometry.yaml").write_text(yaml.safe_dump(RAW_GEOMETRY | QUIET), encoding="utf-8")
    wavs = read_table(corpus.data / "wav.scp")
    seconds = {utt: f"{len(read.read_audio(path)) / 16000:.6f}" for utt, path in wavs.items()}
    write_table(corpus.data / "utt2dur", seconds)
    assert dump(corpus, out_of(corpus)) == [0, 0, 0]
    return corpus


def settings(corpus, **values):
    return TrainConfig(
        upstream=str(corpus.root / "raw_geometry.yaml"), feats_type="conv", freeze_feature_encoder=True, **values
    )


def out_of(corpus, **values):
    return corpus.dump / dump_name(settings(corpus, **values))


def dump(corpus, out, nj=2, upstream=None, seed=0, **options):
    words = ["--data", corpus.data, "--out", out, "--feats_type", "conv", "--nj", nj, "--seed", seed]
    words += ["--upstream", upstream or corpus.root / "raw_geometry.yaml"]
    words += [word for name, value in options.items() for word in (f"--{name}", value)]
    codes = [run_program(dumping.main, "part", *words, "--job", job) for job in range(1, nj + 1)]
    return [*codes, run_program(dumping.main, "merge", *words)]


def train(corpus, exp, feats_type, **values):
    config = exp / "train.yaml"
    exp.mkdir(exist_ok=True)
    upstream = str(corpus.root / "raw_geometry.yaml")
    config.write_text(yaml.safe_dump({"upstream": upstream, "feats_type": feats_type} | FROZEN | values))
    return run_program(training.main, "--config", config, *corpus.arguments(exp))


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """The same training on audio, on stored outputs, and on those with utterances laid end to end, all decoded."""
    exps = {name: tmp_path_factory.mktemp(name) for name in ("raw", "conv", "packed")}
    decode = corpus.root / "decode.yaml"
    decode.write_text("batch_size: 4\n")
    for name, exp in exps.items():
        layout = {"layout": "packed" if name == "packed" else "padded"}
        assert train(corpus, exp, "raw" if name == "raw" else "conv", **layout) == 0
        assert run_program(decoding.main, "--config", decode, *corpus.arguments(exp)) == 0
    return exps


def test_kaldiio_reads_what_transformers_computes_of_each_utterance_alone(corpus):
    torch.manual_seed(derive_seed(0, "weights"))
    model = load_upstream(str(corpus.root / "raw_geometry.yaml")).model.eval()
    stored = kaldiio.load_scp(str(out_of(corpus) / "feats.scp"))
    frames = read_table(out_of(corpus) / "utt2num_frames")
    wavs = read_table(corpus.data / "wav.scp")
    assert list(stored) == list(wavs) == list(frames)
    for utterance, path in wavs.items():
        wav_S = torch.from_numpy(read.read_audio(path).astype(np.float32))
        wav_S = (wav_S - wav_S.mean()) / (wav_S.var(correction=0) + 1e-7 * 2.0**30).sqrt()
        with torch.no_grad():
            theirs_TC = model.feature_extractor(wav_S[None])[0].T.numpy()
        assert stored[utterance].dtype == np.float32 and len(stored[utterance]) == int(frames[utterance])
        np.testing.assert_allclose(stored[utterance], theirs_TC, atol=1e-5)


@pytest.mark.parametrize("fast", ["conv", "packed"])
def test_training_on_stored_outputs_is_training_on_the_audio(trained, fast):
    raw, quick = ([json.loads(line) for line in (trained[n] / "s0/history.jsonl").open()] for n in ("raw", fast))
    for ours, plain in zip(quick, raw, strict=True):
        for part in ("train", "dev"):
            for name in ("loss_ser", "loss_asr", "loss_sid"):
                assert ours[part][name] == pytest.approx(plain[part][name], rel=1e-4)
            assert [ours[part][name] for name in ("wa", "ua", "wer")] == [plain[part][n] for n in ("wa", "ua", "wer")]


def test_the_batches_are_those_of_the_audio(corpus):
    """Utterances of as many frames, but not as many samples, are sorted as their audio is."""
    fold = (corpus.data, corpus.folds_dir / "s0", corpus.dump, corpus.tokens / "s0")
    stored = load_fold(*fold, settings(corpus), dump_name(settings(corpus))).examples["train"]
    of_audio = load_fold(*fold, TrainConfig()).examples["train"]
    assert [example.size for example in stored] == [example.size for example in of_audio]
    assert [example.length for example in stored] != [example.length for example in of_audio]


def posteriors(exp):
    table = read_table(exp / "s0" / "decode_test" / "emo_post")
    return {utterance: [float(value) for value in line.split()] for utterance, line in table.items()}


@pytest.mark.parametrize("fast", ["conv", "packed"])
def test_decoding_gives_the_same(trained, fast):
    raw, ours = (posteriors(trained[name]) for name in ("raw", fast))
    assert raw.keys() == ours.keys()
    np.testing.assert_allclose(list(ours.values()), list(raw.values()), atol=1e-4)
    texts = [read_table(trained[name] / "s0" / "decode_test" / "text") for name in ("raw", fast)]
    assert texts[0] == texts[1]


def test_the_model_predicts_from_audio(trained, corpus):
    model = Speech2Emotion.from_pretrained(trained["conv"] / "s0")
    wavs = read_table(corpus.data / "wav.scp")
    for utterance, expected in posteriors(trained["conv"]).items():
        result = model(read.read_audio(wavs[utterance]), 16000)
        np.testing.assert_allclose(list(result.scores.values()), expected, atol=1e-4)


def test_the_encoder_keeps_its_weights(trained, corpus):
    """Decoding finds the dump by the digest of the trained model's encoder."""
    before = ConvFeatures(str(corpus.root / "raw_geometry.yaml"), 0, CPU).digest
    model = Speech2Emotion.from_pretrained(trained["raw"] / "s0").models[0]
    assert stored_features.conv_digest(model.model.upstream) == before


def test_a_whole_dump_is_kept_and_a_killed_one_goes_on(corpus, capsys):
    out = out_of(corpus)
    kept = (out / "parts" / "1.ark").stat().st_mtime_ns
    shutil.move(out / "parts" / "2.ark", out / "parts" / "2.gone")
    assert dump(corpus, out) == [0, 0, 0]
    assert f"nothing changed: {out}/parts/1.ark" in capsys.readouterr().out
    assert (out / "parts" / "1.ark").stat().st_mtime_ns == kept
    assert (out / "parts" / "2.ark").read_bytes() == (out / "parts" / "2.gone").read_bytes()
    (out / "parts" / "2.gone").unlink()


def test_another_upstreams_dump_is_refused(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path / "exp", "conv", seed=1) == 2
    message = capsys.readouterr().err
    assert "conv/" in message and "1 of other upstreams are there" in message and "--stage 2" in message
    assert dump(corpus, out_of(corpus), seed=1)[0] == 2
    assert "this upstream's outputs belong in" in capsys.readouterr().err


def test_perturbed_copies_are_stored_too(corpus, tmp_path):
    out = out_of(corpus)
    assert dump(corpus, out.with_name(f"{out.name}_sp0.9"), speed=0.9) == [0, 0, 0]
    assert train(corpus, tmp_path / "exp", "conv", speed_perturb=[0.9, 1.0], epochs=1) == 0


def test_a_disk_too_small_is_reported_before_anything_is_written(corpus, tmp_path, monkeypatch, capsys):
    out = tmp_path / out_of(corpus).name
    needed = ConvFeatures(str(corpus.root / "raw_geometry.yaml"), 0, CPU).bytes_of(corpus.data, 1.0)
    assert needed == pytest.approx(sum(p.stat().st_size for p in out_of(corpus).glob("parts/*.ark")), rel=0.2)
    monkeypatch.setattr(stored_features.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    assert dump(corpus, out)[0] == 2
    message = capsys.readouterr().err
    assert f"needs {needed / 1e9:.2f} GB more" in message and "0.00 GB free" in message
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_an_upstream_over_log_mel_features_is_refused(corpus, capsys):
    assert dump(corpus, corpus.dump / "conv" / "x", upstream="small")[0] == 2
    assert "small reads log-mel features" in capsys.readouterr().err


def test_an_encoder_that_is_trained_is_refused():
    with pytest.raises(UserError, match="freeze_feature_encoder=true"):
        TrainConfig(feats_type="conv", freeze_feature_encoder=False)


def test_an_utterance_that_does_not_fit_the_memory_is_reported(corpus, monkeypatch):
    features = ConvFeatures(str(corpus.root / "raw_geometry.yaml"), 0, CPU)

    def full(*_):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(features.upstream, "convolve", full)
    with pytest.raises(UserError, match="out of memory with an utterance of 2.0 s"):
        features(np.zeros(32000, dtype=np.int16))


def test_an_utterance_shorter_than_a_frame_has_one(corpus):
    features = ConvFeatures(str(corpus.root / "raw_geometry.yaml"), 0, CPU)
    assert features(np.ones(3, dtype=np.int16)).shape == (1, RAW_GEOMETRY["conv_dim"][-1])
