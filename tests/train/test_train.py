"""The training program: settings, data, upstreams and dumps that do not fit what was begun."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datadirs import changed
from small_corpus import FBANK_GEOMETRY, SETTINGS, make_small_corpus, run_program
from small_training import make_trainer, make_training_corpus, records, same, train, train_killed, weights

from sermtl.bin import train as program
from sermtl.config import TrainConfig, as_dict
from sermtl.data import names
from sermtl.data.names import experiment_tag
from sermtl.errors import UserError
from sermtl.fileio import files
from sermtl.fileio.ark import DUMP_TABLES
from sermtl.fileio.tables import read_table
from sermtl.model.upstreams.load import load_upstream
from sermtl.seeding import derive_seed
from sermtl.train import fold as train_fold_module
from sermtl.train import settings_file
from sermtl.train.trainer import Trainer
from sermtl.train.update import rate_share


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_training_corpus(tmp_path_factory.mktemp("corpus"))


def test_other_data_is_refused(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path, epochs=1) == 0
    texts = (corpus.data / "text").read_text()
    with changed(corpus.data / "text", re.sub("s1-04 .*", "s1-04 OTHER WORDS", texts)):
        assert train(corpus, tmp_path, epochs=1) == 2
    assert "inputs" in capsys.readouterr().err


def test_what_changes_no_result_may_change_and_epochs_may_be_added(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path, epochs=1) == 0
    assert train(corpus, tmp_path, epochs=1, num_workers=1, save_minutes=3.0) == 0
    assert "trained already" in capsys.readouterr().out
    assert train(corpus, tmp_path, epochs=2) == 0
    assert [record["epoch"] for record in records(tmp_path)] == [1, 2]
    # The learning rates of an epoch that was added are those of the new total.
    train_list = (corpus.folds_dir / "s0" / "train").read_text().split()
    config = TrainConfig(learning_rate=5e-3, epochs=2, **SETTINGS["raw"])
    total = 2 * -(-len(train_list) // config.batch_size)
    assert records(tmp_path)[1]["lr"] == pytest.approx(5e-3 * rate_share(total - 1, total, config))
    assert yaml.safe_load((tmp_path / "s0" / "config.yaml").read_text())["epochs"] == 2


def test_a_training_goes_on_in_the_precision_that_it_began_in(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(settings_file, "choose_precision", lambda *_: "bf16")
    assert train(corpus, tmp_path, epochs=1) == 0
    monkeypatch.undo()
    assert train(corpus, tmp_path, epochs=2) == 0
    log = capsys.readouterr().out
    assert f"computing in bf16, as {tmp_path}/s0" in log and "bf16 True" in log
    settings = yaml.safe_load((tmp_path / "s0" / "config.yaml").read_text())
    assert (settings["precision"], settings["computed_in"]) == ("auto", "bf16")
    assert train(corpus, tmp_path, epochs=2, precision="float32") == 2
    # The other folds of the experiment follow.
    assert train(corpus, tmp_path, fold="s1", epochs=1) == 0
    assert f"computing in bf16, as {tmp_path}/s0" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "s1" / "config.yaml").read_text())["computed_in"] == "bf16"


def test_settings_of_a_training_that_never_began_do_not_stand_in_the_way(corpus, tmp_path, capsys):
    wrong = corpus.root / "wrong.yaml"
    wrong.write_text("hidden_size: wide\n")
    assert train(corpus, tmp_path, upstream=str(wrong)) == 2
    assert "wrong.yaml" in capsys.readouterr().err
    assert train(corpus, tmp_path, epochs=1) == 0


def test_the_best_model_needs_a_dev_set(tmp_path, capsys):
    plain = make_small_corpus(tmp_path / "plain", speakers=2, each=4)
    assert train(plain, tmp_path / "exp", select="best") == 2
    message = capsys.readouterr().err
    assert "select: best needs a dev set" in message and "--dev_ratio" in message
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize("rate", ["ua", "wa"])
def test_the_best_model_is_that_of_the_best_epoch_on_dev(corpus, tmp_path, monkeypatch, rate):
    seen, real = [], Trainer.evaluate

    def evaluate(self, dataset):
        seen.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return real(self, dataset) | {"ua": 0.1, "wa": 0.1} | {rate: [0.2, 0.7, 0.7, 0.5][len(seen) - 1]}

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    assert train(corpus, tmp_path, select="best", select_by=rate, epochs=4) == 0
    # The earlier of two equal ones.
    assert same(weights(tmp_path), seen[1]) and not same(seen[1], seen[2])


def test_the_best_model_deleted_is_reported_when_nothing_makes_it_again(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path, select="best", epochs=1) == 0
    weights = next(tmp_path.rglob("model.safetensors"))
    weights.unlink()
    assert train(corpus, tmp_path, select="best", epochs=1) == 2
    assert "the best epoch's weights, is gone" in capsys.readouterr().err
    for file in [*weights.parent.glob("checkpoint*.pth"), weights.parent / "history.jsonl"]:
        file.unlink()
    assert train(corpus, tmp_path, select="best", epochs=1) == 0 and weights.is_file()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"feats_type": "fbank", "upstream": "tiny"}, ["tiny reads raw", "--feats_type raw"]),
        ({"upstream": "small"}, ["small reads fbank", "--feats_type fbank"]),
        ({"beta": -0.5}, ["beta", "0 or more"]),
        ({"gamma": 1}, ["gamma"]),
        ({"speed_perturb": [1.3]}, ["raw_sp1.3", "stage 2"]),
    ],
)
def test_settings_that_cannot_be_trained_are_reported_at_once(corpus, tmp_path, capsys, settings, words):
    assert train(corpus, tmp_path / "exp", **settings) == 2
    message = capsys.readouterr().err
    assert [word for word in words if word not in message] == [], message
    assert not list((tmp_path).rglob("checkpoint.pth"))


def test_words_that_do_not_fit_are_reported(corpus, tmp_path, capsys):
    words = ["--config", corpus.config(), *corpus.arguments(tmp_path / "exp")]
    for extra, message in ((("--job", 2), "--job 2: there are 1 jobs"), (("--set", "alpha"), "key=value")):
        assert run_program(program.main, *words, *extra) == 2
        assert message in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert run_program(program.main, *words, "--ngpu", 1) == 2
        assert "no GPU" in capsys.readouterr().err
    assert run_program(program.main, "--config", corpus.config(), *corpus.arguments(tmp_path / "exp", "s9")) == 2
    assert "s9" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        {"freeze": "1", "layers": "mix", "pooling": "mean_std"},
        {"freeze": "all", "layers": "mix", "pooled_norm": "train", "beta": 0.0, "freq_masks": 0, "time_masks": 0},
    ],
)
def test_layers_over_log_mel_features_are_frozen_too(corpus, tmp_path, settings):
    """Their first weights are the seed's; there are no published ones to keep."""
    geometry = tmp_path / "fbank.yaml"
    geometry.write_text(yaml.safe_dump(FBANK_GEOMETRY | {"num_hidden_layers": 3}))
    assert train(corpus, tmp_path / "exp", "fbank", upstream=str(geometry), **settings) == 0
    torch.manual_seed(derive_seed(0, "weights"))
    upstream = load_upstream(str(geometry))
    upstream.freeze(int(settings["freeze"]) if settings["freeze"].isdecimal() else settings["freeze"])
    found = weights(tmp_path / "exp")
    kept = {name: torch.equal(found[f"upstream.{name}"], value) for name, value in upstream.named_parameters()}
    learned = {name for name, value in upstream.named_parameters() if value.requires_grad} - {"model.masked_spec_embed"}
    assert bool(learned) == (settings["freeze"] != "all")
    assert {name for name, same in kept.items() if not same} == learned
    assert records(tmp_path / "exp")[-1]["train"]["loss"] > 0


def test_jobs_of_several_folds_each_train_their_own(corpus, tmp_path):
    words = ["--config", corpus.config(epochs=1), *corpus.arguments(tmp_path, "s0", "s2")]
    assert run_program(program.main, *words, "--job", 2) == 0
    assert [path.name for path in Path(tmp_path).iterdir() if path.is_dir()] == ["s2"]


def test_a_job_trains_its_folds_one_after_the_other_as_jobs_of_one_fold_do(corpus, tmp_path, monkeypatch):
    """SIGTERM ends the program between two of them: what is trained is safe."""
    handlers, real = [], train_fold_module.load_fold

    def load_fold(*args):
        handlers.append(signal.getsignal(signal.SIGTERM))
        return real(*args)

    monkeypatch.setattr(train_fold_module, "load_fold", load_fold)
    words = ["--config", corpus.config(epochs=1), *corpus.arguments(tmp_path, "s0", "s1", "s2"), "--jobs", 2]
    assert run_program(program.main, *words, "--job", 1) == 0
    assert sorted(path.name for path in Path(tmp_path).iterdir() if path.is_dir()) == ["s0", "s2"]
    assert handlers == [signal.getsignal(signal.SIGTERM)] * 2
    assert train(corpus, tmp_path / "alone", fold="s2", epochs=1) == 0
    assert same(weights(tmp_path, "s2"), weights(tmp_path / "alone", "s2"))
    for fold, other in (("s0", "s2"), ("s2", "s0")):
        log = (tmp_path / fold / "train.log").read_text()
        assert f"{tmp_path}/{fold}/model" in log and f"{tmp_path}/{other}/model" not in log


def test_upstreams_of_one_name_share_a_tag_and_the_second_is_refused_by_name(tmp_path):
    first, second = (TrainConfig(upstream=f"{place}/wav2vec2-base") for place in ("a", "b"))
    assert experiment_tag("x", "speaker", "train", first, []) == experiment_tag("x", "speaker", "train", second, [])
    settings_file.write_config_once(tmp_path, as_dict(first))
    (tmp_path / "checkpoint.pth").touch()
    with pytest.raises(UserError, match="'a/wav2vec2-base' there, 'b/wav2vec2-base' now") as error:
        settings_file.write_config_once(tmp_path, as_dict(second))
    assert "give another --tag" in str(error.value)


def test_settings_or_weights_replaced_in_an_upstreams_folder_are_another_upstream(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = names.upstream_digest(str(tmp_path))
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(b"other 1")
        names.upstream_digest.cache_clear()
        assert names.upstream_digest(str(tmp_path)) not in (None, before)
        before = names.upstream_digest(str(tmp_path))


def test_another_commit_of_a_model_of_the_hub_is_another_upstream(tmp_path, monkeypatch):
    hub = tmp_path / "models--some--model"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (hub / "refs").mkdir(parents=True)
    commits = []
    for commit in ("a" * 40, "b" * 40):
        (hub / "snapshots" / commit).mkdir(parents=True)
        (hub / "snapshots" / commit / "config.json").write_text('{"model_type": "wav2vec2"}')
        (hub / "refs" / "main").write_text(commit)
        names.hub_snapshot.cache_clear()
        commits.append(names.hub_snapshot("some/model").name)
    assert commits == ["a" * 40, "b" * 40]
    assert names.upstream_digest("some/model") is None
    with pytest.raises(UserError, match="some/other cannot be loaded .*--local-dir DIR.*--upstream DIR"):
        names.hub_snapshot("some/other")

    settings = as_dict(TrainConfig(upstream="some/model"))
    exp = tmp_path / "exp"
    settings_file.write_config_once(exp, settings | {"upstream_commit": commits[0]})
    (exp / "checkpoint.pth").touch()
    with pytest.raises(UserError, match=f"upstream_commit: '{commits[0]}' there, '{commits[1]}' now"):
        settings_file.write_config_once(exp, settings | {"upstream_commit": commits[1]})


def test_other_settings_are_not_written_while_a_fold_is_trained(corpus, tmp_path, capsys):
    train_killed(corpus, tmp_path, "update", 3, "before", epochs=2, save_minutes=0.0)
    holder = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX); print(); input()"
    words = [sys.executable, "-c", holder, tmp_path / "s0" / ".owner"]
    files._held.pop(tmp_path / "s0").close()
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        before = (tmp_path / "s0" / "config.yaml").read_bytes()
        assert train(corpus, tmp_path, epochs=3) == 2
        assert "another process works on" in capsys.readouterr().err
        assert (tmp_path / "s0" / "config.yaml").read_bytes() == before
        process.communicate(b"\n")
    assert train(corpus, tmp_path, epochs=3) == 0


def test_a_dump_made_anew_under_a_training_stops_it(corpus, tmp_path):
    trainer = make_trainer(corpus, tmp_path / "s0")
    train_set = trainer.sets.train
    train_set.examples[3] = dataclasses.replace(train_set.examples[3], length=train_set.examples[3].length + 1)
    with pytest.raises(UserError, match="stage 2 was run meanwhile"):
        train_set[3]


@pytest.mark.parametrize(
    "feats_type, cmvn, workers", [("raw", "utterance", 0), ("raw", "utterance", 1), ("fbank", "global", 0)]
)
def test_a_bit_that_flipped_in_a_dump_is_reported_by_utterance(corpus, tmp_path, capsys, feats_type, cmvn, workers):
    """The ark has its size and its time, so that only what is read can show it."""
    scp = read_table(corpus.dump / feats_type / DUMP_TABLES[feats_type][0])
    name, _, offset = scp["s1-03"].rpartition("/")[2].partition(":")
    ark = corpus.dump / feats_type / "parts" / name
    times, content = ark.stat(), bytearray(ark.read_bytes())
    content[int(offset) + 400] ^= 16  # in the middle of its samples
    with changed(ark, bytes(content)):
        os.utime(ark, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert train(corpus, tmp_path, feats_type, cmvn=cmvn, num_workers=workers) == 2
    error = capsys.readouterr().err
    assert "s1-03 is not there as it was" in error and "rerun ./run.sh --stage 2" in error and "Traceback" not in error
    assert train(corpus, tmp_path, feats_type, cmvn=cmvn, num_workers=workers) == 0


def test_a_cut_ark_is_reported_before_anything_is_read(corpus, tmp_path, capsys):
    ark = corpus.dump / "raw" / "parts" / "1.ark"
    with changed(ark, ark.read_bytes()[:-1]):
        assert train(corpus, tmp_path) == 2
    assert "missing or damaged: 1.ark; rerun ./run.sh --stage 2" in capsys.readouterr().err
    assert not (tmp_path / "s0" / "checkpoint.pth").exists()


def test_deterministic_asks_pytorch_and_trains_the_same_on_a_cpu(corpus, tmp_path):
    try:
        assert train(corpus, tmp_path / "a", epochs=1, deterministic=True) == 0
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert train(corpus, tmp_path / "b", epochs=1) == 0
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


@pytest.mark.parametrize("damage", [b"", b"beta: [", None])
def test_damaged_settings_of_a_finished_training_come_back_or_are_reported(corpus, tmp_path, capsys, damage):
    assert train(corpus, tmp_path, epochs=1) == 0
    config = tmp_path / "s0" / "config.yaml"
    before = config.read_bytes()
    config.unlink() if damage is None else config.write_bytes(damage)
    assert train(corpus, tmp_path, epochs=1, beta=0.5) == 2
    assert "config.yaml is missing or damaged, and these are not the settings" in capsys.readouterr().err
    assert train(corpus, tmp_path, epochs=1) == 0
    assert config.read_bytes() == before and "nothing changed" in capsys.readouterr().out


def test_graphs_are_refused_where_nothing_can_be_captured(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path, cuda_graphs=True) == 2
    assert "cuda_graphs: true needs a GPU, bf16 and packed utterances" in capsys.readouterr().err
