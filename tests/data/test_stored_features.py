"""Stored outputs of the frozen part of an upstream: what they are, and that training on them is training on audio."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import torch
import yaml
from small_corpus import RAW_GEOMETRY, SmallCorpus, make_small_corpus, run_program
from upstreams import every_state, hidden_states

from sermtl.audio import read
from sermtl.bin import decode as decoding
from sermtl.bin import dump as dumping
from sermtl.bin import train as training
from sermtl.config import TrainConfig
from sermtl.data import stored_features
from sermtl.data.fold_data import load_fold
from sermtl.data.names import dump_name, stored_form, upstream_digest
from sermtl.data.stored_features import StoredFeatures
from sermtl.fileio.tables import read_table, write_table
from sermtl.inference.predict import Speech2Emotion
from sermtl.model.front_end import FrontEnd
from sermtl.model.upstreams.load import load_upstream
from sermtl.seeding import derive_seed

CPU = torch.device("cpu")
QUIET = {f"{name}_dropout": 0.0 for name in ("hidden", "attention", "activation", "feat_proj", "final")}
QUIET |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
WHISPER = {
    "model_type": "whisper", "d_model": 16, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 16,
    "num_mel_bins": 80, "max_source_positions": 12, "normalize": False,
}  # fmt: skip
"""A window is 0.24 s, so that longer utterances are encoded in two."""
GEOMETRIES = {"wav2vec2": RAW_GEOMETRY | QUIET | {"num_hidden_layers": 3}, "whisper": WHISPER}
ALL = {"freeze": "all", "beta": 0.0}
FORMS = {
    "front": {"freeze": "conv"},
    "1": {"freeze": "1", "layers": "mix", "head_learning_rate": 2e-2},
    "states": ALL | {"layers": "2", "ctc_layers": "mix", "projection": 8, "beta": 0.1},
    "states of attention": ALL | {"layers": "mix", "pooling": "attention", "alpha": 0.0},
    "pooled mean": ALL | {"layers": "mix", "alpha": 0.0, "pooled_norm": "train"},
    "pooled mean_std": ALL | {"layers": "mix", "alpha": 0.0, "pooling": "mean_std", "projection": 8, "beta": 0.5},
    "1 of speakers": {
        "freeze": "1",
        "beta": 0.0,
        "spk_norm": "erase+standardise",
        "spk_statistics": "mean_std",
        "enrol": "0",
    },
    "pooled of speakers": ALL | {"layers": "mix", "alpha": 0.0, "spk_norm": "erase+standardise", "enrol": "0"},
}
"""Of each stored form, settings that it serves."""
LOSSES = ("loss_ser", "loss_asr", "loss_sid")


@dataclass(frozen=True)
class Stored:
    """The small corpus with a geometry, and settings under which something of it is stored."""

    corpus: SmallCorpus
    geometry: str
    form: str

    @property
    def upstream(self) -> str:
        return str(self.corpus.root / f"{self.geometry}_geometry.yaml")

    def values(self, **more):
        return {"upstream": self.upstream, "feats_type": "stored"} | FORMS[self.form] | more

    def settings(self, **more):
        return TrainConfig(**self.values(**more))

    def out(self, **more):
        return self.corpus.dump / dump_name(self.settings(**more))

    def dump(self, out, nj=2, speed=1.0, **more):
        """The exit statuses of stage 2's programs."""
        words = ["--data", self.corpus.data, "--out", out, "--feats_type", "stored", "--nj", nj, "--speed", speed]
        words += ["--config", self.config(self.corpus.root, **more), "--set"]
        codes = [run_program(dumping.main, "part", *words, "--job", job) for job in range(1, nj + 1)]
        return [*codes, run_program(dumping.main, "merge", *words)]

    def config(self, folder, **more):
        folder.mkdir(exist_ok=True)
        path = folder / "stored.yaml"
        path.write_text(yaml.safe_dump({"num_workers": 0, "epochs": 3, "learning_rate": 1e-2} | self.values(**more)))
        return path

    def train(self, exp, **more):
        return run_program(training.main, "--config", self.config(exp, **more), *self.corpus.arguments(exp))

    def decode(self, exp):
        path = self.corpus.root / "decode.yaml"
        path.write_text("batch_size: 4\n")
        return run_program(decoding.main, "--config", path, *self.corpus.arguments(exp))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    corpus = make_small_corpus(tmp_path_factory.mktemp("corpus"), dev_ratio=0.2)
    for name, values in GEOMETRIES.items():
        (corpus.root / f"{name}_geometry.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    wavs = read_table(corpus.data / "wav.scp")
    seconds = {utt: f"{len(read.read_recording(path)) / 16000:.6f}" for utt, path in wavs.items()}
    write_table(corpus.data / "utt2dur", seconds)
    return corpus


@pytest.fixture(scope="module", params=[(geometry, form) for geometry in GEOMETRIES for form in FORMS], ids="-".join)
def stored(request, corpus):
    """Stage 2's dump of a geometry in a form."""
    stored = Stored(corpus, *request.param)
    assert stored.dump(stored.out()) == [0, 0, 0]
    return stored


@pytest.fixture(scope="module")
def trained(stored, tmp_path_factory):
    """The same training on audio and on what is stored, also of utterances laid end to end, all decoded."""
    ways = {"raw": {"feats_type": "raw"}, "stored": {}}
    if stored.geometry == "wav2vec2" and stored.form in ("front", "1"):
        ways["packed"] = {"layout": "packed"}
    exps = {}
    for name, values in ways.items():
        exps[name] = tmp_path_factory.mktemp(name)
        assert stored.train(exps[name], **values) == 0
        assert stored.decode(exps[name]) == 0
    return exps


@pytest.fixture(scope="module")
def front(corpus):
    """Frames of the front of wav2vec 2.0, dumped."""
    stored = Stored(corpus, "wav2vec2", "front")
    assert stored.dump(stored.out()) == [0, 0, 0]
    return stored


def history(exp):
    return [json.loads(line) for line in (exp / "s0" / "history.jsonl").open()]


def samples_of(corpus):
    return [len(read.read_recording(path)) for path in read_table(corpus.data / "wav.scp").values()]


def posteriors(exp):
    table = read_table(exp / "s0" / "decode_test" / "emo_post")
    return {utterance: [float(value) for value in line.split()] for utterance, line in table.items()}


def test_training_on_what_is_stored_is_training_on_audio(trained):
    plain = history(trained["raw"])
    assert len(plain) == 3 and len({record["train"]["loss_ser"] for record in plain}) == 3
    for name in trained.keys() - {"raw"}:
        for ours, theirs in zip(history(trained[name]), plain, strict=True):
            for part in ("train", "dev"):
                for loss in LOSSES:
                    expected = theirs[part][loss]  # None where no characters are read
                    approximate = None if expected is None else pytest.approx(expected, rel=1e-4)
                    assert ours[part][loss] == approximate, (name, part, loss)
                assert [ours[part][rate] for rate in ("wa", "ua", "wer")] == [
                    theirs[part][rate] for rate in ("wa", "ua", "wer")
                ]


def test_decoding_gives_the_same(trained):
    raw = posteriors(trained["raw"])
    texts = read_table(trained["raw"] / "s0" / "decode_test" / "text")
    for name in trained.keys() - {"raw"}:
        ours = posteriors(trained[name])
        assert raw.keys() == ours.keys()
        np.testing.assert_allclose(list(ours.values()), list(raw.values()), atol=1e-4)
        assert read_table(trained[name] / "s0" / "decode_test" / "text") == texts


def test_the_model_predicts_from_audio(trained, corpus):
    model = Speech2Emotion.from_pretrained(trained["stored"] / "s0")
    wavs = read_table(corpus.data / "wav.scp")
    for utterance, expected in posteriors(trained["stored"]).items():
        result = model(read.read_recording(wavs[utterance]), 16000)
        np.testing.assert_allclose(list(result.scores.values()), expected, atol=1e-4)


@pytest.mark.parametrize("form", ["1 of speakers", "pooled of speakers"])
def test_enrolled_audio_predicts_what_stage_4_decodes(corpus, tmp_path, form):
    """By all other utterances of the test speaker; no two of its utterances have the same enrolment."""
    stored = Stored(corpus, "wav2vec2", form)
    stored.dump(stored.out())
    assert stored.train(tmp_path, enrol="all", epochs=1, spk_shrink=0.01) == 0 and stored.decode(tmp_path) == 0
    model = Speech2Emotion.from_pretrained(tmp_path / "s0")
    wavs, expected = read_table(corpus.data / "wav.scp"), posteriors(tmp_path)
    before = [list(model(read.read_recording(wavs[utt]), 16000).scores.values()) for utt in expected]
    assert len(expected) > 2 and np.abs(np.array(before) - list(expected.values())).max() > 1e-3
    for utt, scores in expected.items():
        model.enrol([read.read_recording(wavs[other]) for other in expected if other != utt], 16000)
        np.testing.assert_allclose(
            list(model(read.read_recording(wavs[utt]), 16000).scores.values()), scores, atol=1e-4
        )
    assert list(model.enrol([], 16000)(read.read_recording(wavs[utt]), 16000).scores.values()) == before[-1]
    curve = read_table(tmp_path / "s0" / "decode_test" / "enrol" / "all")
    assert curve == read_table(tmp_path / "s0" / "decode_test" / "utt2emo")


def test_what_is_frozen_keeps_its_weights(trained, stored):
    """Those of the seed, which the dump's name holds."""
    torch.manual_seed(derive_seed(0, "weights"))
    fresh = load_upstream(stored.upstream)
    frozen = stored.settings().freeze
    fresh.freeze(int(frozen) if frozen.isdecimal() else frozen)
    kept = {name: value for name, value in fresh.named_parameters() if not value.requires_grad}
    for exp in trained.values():
        ours = dict(Speech2Emotion.from_pretrained(exp / "s0").models[0].model.upstream.named_parameters())
        shared = kept.keys() & ours.keys()  # layers above the highest state that is read are gone
        assert len(shared) >= 4
        assert all(torch.equal(ours[name], kept[name]) for name in shared)
        learned = [name for name in ours.keys() - kept.keys() if not torch.equal(ours[name], fresh.get_parameter(name))]
        assert bool(learned) == (frozen != "all")


def test_kaldiio_reads_what_the_upstream_makes_of_each_utterance_alone(stored):
    torch.manual_seed(derive_seed(0, "weights"))
    upstream = every_state(load_upstream(stored.upstream).eval())
    form = stored_form(stored.settings())
    arrays = kaldiio.load_scp(str(stored.out() / "feats.scp"))
    frames = read_table(stored.out() / "utt2num_frames")
    wavs = read_table(stored.corpus.data / "wav.scp")
    assert list(arrays) == list(wavs) == list(frames)
    waveform = FrontEnd("raw", upstream.normalize, "", upstream.geometry).waveform
    for utterance, path in wavs.items():
        wav_1S = torch.from_numpy(waveform(read.read_recording(path)))[None]
        length_1 = torch.tensor([wav_1S.shape[1]])
        with torch.no_grad():
            if stored.geometry == "wav2vec2":
                states = hidden_states(upstream.model, wav_1S)
                front_1TC = upstream.model.feature_extractor(wav_1S).transpose(1, 2)
            else:  # windows, which transformers has not: test_whisper.py compares them with its layers
                states, front_1TC = upstream(wav_1S, length_1)[0], upstream.front(wav_1S, length_1)[0]
            expected = {
                "front": front_1TC[0],
                "1": states[1][0],
                "states mix": torch.cat(states, 2)[0],
                "pooled mean": torch.cat(states).mean(1),
                "pooled mean_std": torch.cat(
                    [torch.cat(states).mean(1), (torch.cat(states).var(1, correction=0) + 1e-5).sqrt()], 1
                ),
            }[form]
        assert arrays[utterance].dtype == np.float32 and len(arrays[utterance]) == int(frames[utterance])
        np.testing.assert_allclose(arrays[utterance], expected.numpy(), atol=1e-4)


def test_the_size_is_reported_before_it_is_made(stored, capsys):
    needed = StoredFeatures(stored.settings(), CPU).bytes_of(samples_of(stored.corpus))
    assert needed == pytest.approx(sum(p.stat().st_size for p in stored.out().glob("parts/*.ark")), rel=0.2)
    shutil.rmtree(stored.out())
    assert stored.dump(stored.out()) == [0, 0, 0]
    printed = capsys.readouterr().out
    words = {
        "front": "frames of the front", "1": "frames of hidden state 1", "states": "frames of hidden states 0, 1, 2, 3",
        "states of attention": "frames of hidden states 0, 1, 2, 3",
        "1 of speakers": "frames of hidden state 1",
        "pooled mean": "means of 4 hidden states, one vector each an utterance",
        "pooled of speakers": "means of 4 hidden states, one vector each an utterance",
        "pooled mean_std": "means and deviations of 4 hidden states, one vector each an utterance",
    }[stored.form]  # fmt: skip
    assert f"storing {words}: {needed / 1e6:.1f} MB in {stored.out()}" in printed
    assert ("utterances are longer than the upstream takes at once" in printed) == (stored.geometry == "whisper")


def test_the_batches_are_those_of_the_audio(front):
    """Utterances of as many frames, but not as many samples, are sorted as their audio is."""
    corpus = front.corpus
    fold = (corpus.data, corpus.folds_dir / "s0", corpus.dump, corpus.tokens / "s0")
    stored = load_fold(*fold, front.settings(), dump_name(front.settings())).examples["train"]
    of_audio = load_fold(*fold, TrainConfig()).examples["train"]
    assert [example.size for example in stored] == [example.size for example in of_audio]
    assert [example.length for example in stored] != [example.length for example in of_audio]


def test_the_smallest_form_from_which_training_is_exact_is_chosen():
    def form(**values):
        return stored_form(TrainConfig(feats_type="stored", **values))

    assert form(freeze="conv") == form(freeze="conv", layers="2", alpha=0) == "front"
    assert form(freeze="2", layers="mix") == form(freeze="2", alpha=0, pooling="mean_std") == "2"
    assert form(**ALL) == form(**ALL, ctc_layers="last") == "states last"
    assert form(**ALL, layers="3", ctc_layers="2") == "states 2 3"
    assert form(**ALL, layers="3", ctc_layers="mix") == form(**ALL, layers="mix") == "states mix"
    assert form(**ALL, layers="3", ctc_layers="2", alpha=0, pooling="attention") == "states 3"
    assert form(**ALL, alpha=0) == form(**ALL, alpha=0, layers="mix", projection=4, pooled_norm="train")
    assert form(**ALL, alpha=0) == "pooled mean" and form(**ALL, alpha=0, pooling="mean_std") == "pooled mean_std"


def test_a_dump_is_shared_by_all_that_can_share_it(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "model"
    load_upstream("tiny").model.save_pretrained(folder)

    def name(upstream=folder, **values):
        return dump_name(TrainConfig(upstream=str(upstream), feats_type="stored", **ALL, alpha=0.0, **values))

    assert name() == name(
        seed=1, layers="0", projection=4, pooled_norm="train", learning_rate=1.0, speed_perturb=(0.9,)
    )
    assert len({name(), name(pooling="mean_std"), name("tiny"), name("tiny", seed=1)}) == 4
    before = name()
    moved = folder.rename(tmp_path / "moved")
    upstream_digest.cache_clear()
    assert name(moved) == before
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    upstream_digest.cache_clear()
    assert name(moved) != before


def test_a_state_has_one_name_however_it_is_called(tmp_path):
    """A second dump of the same frames would take the disk and the time again."""
    folder = tmp_path / "model"
    load_upstream("tiny").model.save_pretrained(folder)
    (tmp_path / "whisper.yaml").write_text(yaml.safe_dump(WHISPER))
    (tmp_path / "default.yaml").write_text("hidden_size: 24\n")

    def name(upstream, layers, ctc_layers=""):
        values = ALL | {"layers": layers, "ctc_layers": ctc_layers}
        return dump_name(TrainConfig(upstream=str(upstream), feats_type="stored", **values))

    for upstream, last in ((folder, "2"), ("tiny", "2"), (tmp_path / "whisper.yaml", "3")):
        assert name(upstream, "last") == name(upstream, last) == name(upstream, last, "last")
        assert name(upstream, "1", "last") == name(upstream, last, "1") != name(upstream, "last")
        assert name(upstream, "mix") == name(upstream, "last", "mix") == name(upstream, "mix", "0")
        assert len({name(upstream, layers) for layers in ("0", "1", "last", "mix")}) == 4
    assert name(tmp_path / "default.yaml", "last") != name(tmp_path / "default.yaml", "12")  # not known without a model


def test_the_digest_of_weights_is_remembered_and_loads_no_model(tmp_path):
    folder = tmp_path / "model"
    load_upstream("tiny").model.save_pretrained(folder)
    program = (
        "import sys; from sermtl.config import TrainConfig; from sermtl.data import names\n"
        "if sys.argv[2] == 'again': names.sha256 = None\n"
        "config = TrainConfig(upstream=sys.argv[1], feats_type='stored', freeze='conv')\n"
        "print(names.dump_name(config), 'torch' in sys.modules or 'transformers' in sys.modules)"
    )
    names = []
    for word in ("first", "again"):
        names += subprocess.run(
            [sys.executable, "-c", program, str(folder), word], capture_output=True, text=True, check=True,
            env={"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parents[2])},
        ).stdout.splitlines()  # fmt: skip
    assert names[0] == names[1] and names[0].endswith(" False")


def test_a_whole_dump_is_kept_and_a_killed_one_goes_on(front, capsys):
    out = front.out()
    kept = (out / "parts" / "1.ark").stat().st_mtime_ns
    shutil.move(out / "parts" / "2.ark", out / "parts" / "2.gone")
    assert front.dump(out) == [0, 0, 0]
    assert f"nothing changed: {out}/parts/1.ark" in capsys.readouterr().out
    assert (out / "parts" / "1.ark").stat().st_mtime_ns == kept
    assert (out / "parts" / "2.ark").read_bytes() == (out / "parts" / "2.gone").read_bytes()
    (out / "parts" / "2.gone").unlink()


def test_another_upstreams_dump_is_refused(front, tmp_path, capsys):
    assert front.train(tmp_path / "exp", seed=1) == 2
    message = capsys.readouterr().err
    assert "stored/" in message and "of other upstreams or forms are there" in message and "--stage 2" in message
    assert front.dump(front.out(), seed=1)[0] == 2
    assert f"this upstream's outputs belong in {front.out(seed=1)}" in capsys.readouterr().err


def test_perturbed_copies_are_stored_too(front, tmp_path):
    out = front.out()
    assert front.dump(out.with_name(f"{out.name}_sp0.9"), speed=0.9) == [0, 0, 0]
    assert front.train(tmp_path / "exp", speed_perturb=[0.9, 1.0], epochs=1) == 0


def test_a_disk_too_small_is_reported_before_anything_is_written(front, tmp_path, monkeypatch, capsys):
    out = tmp_path / front.out().name
    needed = StoredFeatures(front.settings(), CPU).bytes_of(samples_of(front.corpus))
    monkeypatch.setattr(stored_features.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    assert front.dump(out)[0] == 2
    message = capsys.readouterr().err
    assert f"needs {needed / 1e9:.2f} GB more" in message and "0.00 GB free" in message
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_an_upstream_over_log_mel_features_is_refused(front, capsys):
    assert front.dump(front.out(upstream="small"), upstream="small")[0] == 2
    assert "small reads log-mel features" in capsys.readouterr().err


@pytest.mark.parametrize(
    "values, words",
    [
        ({"freeze": "3"}, ["freeze is 3", "has 3 layers", "give all, or fewer"]),
        ({"freeze": "2", "layers": "1"}, ["error: layers is 1", "hidden states 2 to 3"]),
        ({"freeze": "2", "layers": "4"}, ["error: layers is 4", "hidden states 2 to 3"]),
        ({"freeze": "2", "ctc_layers": "4"}, ["error: ctc_layers is 4", "hidden states 2 to 3"]),
    ],
)
def test_layers_that_cannot_be_stored_or_read_are_refused(front, values, words, capsys):
    assert front.dump(front.out(**values), **values)[0] == 2
    message = capsys.readouterr().err
    assert [word for word in words if word not in message] == [], message


def test_an_utterance_that_does_not_fit_the_memory_is_reported(front, monkeypatch):
    features = StoredFeatures(front.settings(), CPU)

    def full(*_):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(features.upstream, "front", full)
    with pytest.raises(stored_features.UserError, match="u2: out of memory with an utterance of 2.0 s"):
        features({"u2": np.zeros(32000, dtype=np.int16)})


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("form", ["front", "1", "pooled mean_std", "states"])
@pytest.mark.parametrize("fits", [3, 1])
def test_several_utterances_at_once_are_stored_as_each_alone(corpus, monkeypatch, geometry, form, fits):
    features = StoredFeatures(Stored(corpus, geometry, form).settings(), CPU)
    random, whole = np.random.default_rng(0), features.upstream.front
    sizes = {"a": 9000, "b": 100, "c": 20000}
    wavs = {key: random.integers(-9000, 9000, size).astype(np.int16) for key, size in sizes.items()}

    def small(inputs, lengths_B):
        if len(inputs) > fits:
            raise torch.OutOfMemoryError("no memory left")
        return whole(inputs, lengths_B)

    alone = {key: features({key: samples})[key] for key, samples in wavs.items()}
    monkeypatch.setattr(features.upstream, "front", small)
    together = features(wavs)
    assert list(together) == list(wavs)
    for key, values in together.items():
        assert values.shape == alone[key].shape
        np.testing.assert_allclose(values, alone[key], atol=1e-4)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("form, shape", [("front", None), ("1", (1, 16)), ("pooled mean_std", (4, 32))])
def test_an_utterance_shorter_than_a_frame_has_one(corpus, geometry, form, shape):
    features = StoredFeatures(Stored(corpus, geometry, form).settings(), CPU)
    assert features({"u": np.ones(3, dtype=np.int16)})["u"].shape == (shape or (1, features.upstream.front_size))
