import dataclasses
import inspect
import re

import pytest
import yaml

from sermtl.config import DecodeConfig, TrainConfig, as_dict, load_config
from sermtl.data.names import experiment_tag
from sermtl.errors import UserError


@pytest.fixture
def load(tmp_path):
    def load(text="", *overrides, cls=TrainConfig):
        path = tmp_path / "conf.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(cls, path, list(overrides))

    return load


def test_the_defaults_are_the_papers_setting(load):
    c = load()
    assert (c.upstream, c.alpha, c.epochs, c.batch_size) == ("facebook/wav2vec2-base", 0.1, 100, 8)
    assert (c.learning_rate, c.warmup_ratio, c.lr_schedule) == (5e-5, 0.1, "linear")
    assert (c.adam_betas, c.adam_eps) == ((0.9, 0.999), 1e-8)


def test_the_papers_settings_file_says_what_the_defaults_say(recipe):
    assert load_config(TrainConfig, recipe / "conf" / "train.yaml") == TrainConfig()
    assert load_config(DecodeConfig, recipe / "conf" / "decode.yaml").batch_size >= 1


IN_THE_TABLE = {
    "epochs": "epochs", "learning rate": "learning_rate", "warm-up": "warmup_ratio", "weight decay": "weight_decay",
    "utterances an update": "batch_size", "CTC loss": "alpha", "clipping of the gradient": "grad_clip",
    "batches": "bucket_batches", "convolutional front": "freeze", "precision": "precision",
    "model that is scored": "select",
}  # fmt: skip
IN_WORDS = {"freeze": ("none", "trained"), "precision": ("auto", "bfloat16"), "select": ("last", "the last epoch's")}
NUMBER = re.compile(r"\b\d+(?:\.\d+)?(?:e-?\d+)?\b")


def test_each_of_the_papers_settings_names_its_source_and_the_table_in_docs_has_the_same_value(recipe):
    text = (recipe / "conf" / "train.yaml").read_text(encoding="utf-8")
    settings = re.findall(r"^(\w+):.*?(#.*)?$", text, re.MULTILINE)
    sources = {key: re.findall(r"\[(Ha|Cai|code|HF|us)\]", re.sub(r"\(.*?\)", "", said)) for key, said in settings}
    assert set(sources) == set(yaml.safe_load(text)) and all(sources.values())
    lines = (recipe / "docs" / "paper.md").read_text(encoding="utf-8").splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert table[0] == ["setting", "Ha", "Cai et al., paper", "Cai et al., code", "here", "why"]
    config, compared = load_config(TrainConfig, recipe / "conf" / "train.yaml"), set()
    for name, ha, cai, code, here, why in table[2:]:
        if (key := IN_THE_TABLE.get(name)) is None:
            continue
        compared.add(name)
        value, said = getattr(config, key), dict(settings)[key]
        if key in IN_WORDS:
            assert value == IN_WORDS[key][0] and here.startswith(IN_WORDS[key][1])
        else:
            assert float(NUMBER.findall(here)[0]) == value, name
        for tag, cell in (("Ha", ha), ("Cai", cai)):
            given = NUMBER.findall(cell)
            assert (tag in sources[key]) <= bool(given), f"{name}: {tag} gives nothing"
            assert not given or float(given[0]) == value, f"{name}: {tag}"
        if "HF" in sources[key]:
            assert "HF" in code and float(NUMBER.findall(code)[0]) == value, name
        for other in re.findall(r"\[code\]: (\d[\d.]*)", said):
            assert other in NUMBER.findall(code), f"{name}: code"
        assert why
    assert compared == set(IN_THE_TABLE)


def test_overrides_win_and_are_typed(load):
    c = load("alpha: 0.5\nseed: 3\n", "learning_rate=1e-4", "seed=7", "speed_perturb=[0.9, 1]", "select=best")
    assert (c.alpha, c.learning_rate, c.seed, c.speed_perturb, c.select) == (0.5, 1e-4, 7, (0.9, 1.0), "best")
    assert isinstance(c.seed, int)
    assert load("", "speed_perturb=1.1").speed_perturb == (1.1,)
    assert load("speed_perturb: [0.9]", "speed_perturb=").speed_perturb == ()
    assert load("", "monitor_test=true").monitor_test is True


def test_settings_survive_a_round_trip_through_yaml(load):
    config = load("", "beta=1", "speed_perturb=[0.9, 1.1]", "freeze=2", "layers=4", "feats_type=stored")
    assert load(yaml.safe_dump(as_dict(config))) == config


def test_what_is_frozen_whole_can_be_reversed_by_a_projection_alone(load):
    assert load("", "freeze=all", "beta=0").beta == 0
    assert load("", "freeze=all", "projection=8").beta == 0.1


def test_one_remedy_for_rare_classes_at_a_time(load):
    assert load("sampling: balanced").class_weights == "none"
    with pytest.raises(UserError, match="would count twice"):
        load("sampling: balanced", "class_weights=balanced")


def test_every_field_is_documented():
    source = inspect.getsource(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1]
        assert after.startswith('    """'), field.name


@pytest.mark.parametrize(
    "setting, words",
    [
        ("learning_rat=1", ["learning_rat", "did you mean learning_rate?"]),
        ("alpha=much", ["alpha", "a number", "'much'"]),
        ("alpha=-1", ["alpha", "0 or more"]),
        ("alpha=.nan", ["alpha"]),
        ("alpha=.inf", ["alpha"]),
        ("learning_rate=inf", ["learning_rate"]),
        ("alpha=true", ["alpha", "a number"]),
        ("beta=-0.1", ["beta", "0 or more"]),
        ("learning_rate=0", ["learning_rate", "above 0"]),
        ("epochs=0", ["epochs", "1 or more"]),
        ("epochs=2.5", ["epochs", "a whole number"]),
        ("batch_size=0", ["batch_size"]),
        ("seed=zero", ["seed", "a whole number"]),
        ("grl=revers", ["grl", "did you mean reverse?"]),
        ("grl_schedule=linear", ["grl_schedule", "constant or dann"]),
        ("feats_type=mfcc", ["feats_type", "raw or fbank or stored"]),
        ("feats_type=conv", ["'conv' is gone", "feats_type: stored and freeze: conv"]),
        ("freeze_feature_encoder=true", ["freeze_feature_encoder is gone", "freeze: conv for true", "none for false"]),
        ("freeze=0", ["freeze", "none, conv, all, or a number from 1"]),
        ("freeze=half", ["freeze", "none, conv, all, or a number from 1"]),
        ("layers=-1", ["layers", "last, mix, or a number from 0"]),
        ("layers=first", ["layers", "last, mix, or a number from 0"]),
        ("ctc_layers=first", ["ctc_layers", "last, mix, or a number from 0"]),
        ("pooling=max", ["pooling", "mean or mean_std or attention"]),
        ("pooled_norm=test", ["pooled_norm", "none or train"]),
        ("pooled_norm=train", ["pooled_norm", "needs freeze 'all'"]),
        ("projection=-1", ["projection", "0 or more"]),
        ("head_learning_rate=-1", ["head_learning_rate", "0 or more"]),
        ("updates=-1", ["updates", "0 or more"]),
        ("final_dropout=1", ["final_dropout", "auto, or a number in [0, 1)"]),
        ("final_dropout=some", ["final_dropout", "a number"]),
        ("random_dev=2", ["random_dev", "between 0 and 1"]),
        ("class_weights=inverse", ["class_weights", "none or balanced"]),
        ("sampling=uniform", ["sampling", "natural or balanced"]),
        ("select_by=wer", ["select_by", "ua or wa"]),
        ("feats_type=stored", ["freeze is 'none'", "nothing is frozen that could be stored"]),
        ("freeze=all", ["beta is 0.1", "nothing is trained before the heads", "--beta 0, or a projection"]),
        ("select=test", ["select", "last or best"]),
        ("warmup_ratio=1.5", ["warmup_ratio", "between 0 and 1"]),
        ("adam_betas=[0.9]", ["adam_betas", "two numbers"]),
        ("adam_betas=[0.9, 1.0]", ["adam_betas"]),
        ("speed_perturb=[0.1]", ["speed_perturb", "0.5 to 2"]),
        ("speed_perturb=[fast]", ["speed_perturb", "a list of numbers"]),
        ("upstream=", ["upstream", "text"]),
        ("beta", ["key=value"]),
        ("beta=[", ["YAML"]),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key(load, setting, words):
    with pytest.raises(UserError) as error:
        load("", setting)
    assert "--set" in str(error.value)
    assert [word for word in words if word not in str(error.value)] == []


def test_a_wrong_file_is_refused_by_name(load, tmp_path):
    for text in ("- a\n- b\n", "beta: [\n", "just words", "1: 2\n"):
        with pytest.raises(UserError, match="conf.yaml"):
            load(text)
    with pytest.raises(UserError, match="conf.yaml.*gama.*alpha"):
        load("gama: 1\n")
    with pytest.raises(UserError, match="conf.yaml: epochs"):
        load("epochs: -1\n")
    with pytest.raises(UserError, match="none.yaml"):
        load_config(TrainConfig, tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="bytes.yaml"):
        load_config(TrainConfig, tmp_path / "bytes.yaml")
    with pytest.raises(UserError, match="batch_size"):
        load("batch_size: 0\n", cls=DecodeConfig)


def tag(*extra, **changes):
    return experiment_tag("mini", "speaker", "mini", dataclasses.replace(TrainConfig(), **changes), list(extra))


def test_another_value_is_another_directory():
    tags = [
        tag(), tag(alpha=0), tag(beta=0), tag(beta=1.0), tag(grl="forward"), tag(seed=1), tag(upstream="tiny"),
        tag("epochs=2"), tag("epochs=3"), tag("learning_rate=1e-4"), tag("learning_rate=1e-4", "epochs=2"),
        tag(upstream="x/wav2vec2-xls-r-0.3b"), tag(upstream="x/wav2vec2-xls-r-0.5b"),
        experiment_tag("mini", "session", "mini", TrainConfig(), []),
        experiment_tag("other", "speaker", "mini", TrainConfig(), []),
        experiment_tag("mini", "speaker", "paper", TrainConfig(), []),
    ]  # fmt: skip
    assert len(set(tags)) == len(tags)


def test_a_tag_is_one_directory_name_and_ignores_the_order_of_settings():
    assert tag("epochs=2", "alpha=0", "select=best") == tag("select=best", "epochs=2")
    for upstream in ("/models/my model/", "../up", "C:\\x", "a/b/c.yaml"):
        name = tag(upstream=upstream)
        assert "/" not in name and " " not in name and not name.startswith(".")
