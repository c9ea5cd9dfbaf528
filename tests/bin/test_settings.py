import os
import re
import subprocess

import pytest
import yaml
from small_corpus import run_program

from sermtl.bin import settings as program


@pytest.fixture
def resolve(tmp_path, recipe, capsys):
    """Run the program on a settings file; gives its exit status, the values it printed and its message."""

    def resolve(text="", *overrides, config=None, inference="batch_size: 4\n", trains="false"):
        path = tmp_path / "own.yaml"
        path.write_text(text, encoding="utf-8")
        (tmp_path / "decode.yaml").write_text(inference, encoding="utf-8")
        words = ["--config", config or path, "--inference_config", tmp_path / "decode.yaml"]
        words += ["--corpus", "mini", "--protocol", "speaker", "--trains", trains]
        code = run_program(program.main, *words, "--set", *overrides)
        out, err = capsys.readouterr()
        return code, dict(line.split("=", 1) for line in out.split("\n")[:-1]), err

    return resolve


def test_prints_names_and_values_for_the_recipe_script(resolve):
    code, values, _ = resolve("upstream: tiny\nspeed_perturb: [0.9, 1.0, 1.1]\n", "beta=1", "token_type=bpe", "nbpe=50")
    assert code == 0
    assert values == {
        "auto_tag": "mini_speaker_tiny_own_alpha0.1_beta1_reverse_seed0_nbpe-50_token-type-bpe",
        "feats_type": "raw",
        "speeds": "0.9 1.1",
        "token_type": "bpe",
        "nbpe": "50",
        "dump_name": "raw",
        "speakers_default": "required",
        "short_folds": "false",
    }


def test_no_speeds_is_an_empty_value(resolve):
    assert resolve("upstream: tiny\n")[1]["speeds"] == ""


def test_the_recipe_script_stores_the_values_it_asks_for_and_evaluates_none(recipe, tmp_path):
    """Of the lines of the same name the last counts; others set nothing."""
    lines = f"a=$(touch {tmp_path}/evil)\nb=x=y=\nPATH=/none\na[$(touch {tmp_path}/evil)]=1\nc=\nc= \\t *\n"
    code = '. utils/log.sh; . utils/stages.sh; read_values a b c <<<"$1"; printf "%s\\n" "$a" "$b" "$c" "$PATH"'
    done = subprocess.run(["bash", "-euc", code, "-", lines], cwd=recipe, capture_output=True, text=True, timeout=10)
    assert done.stdout.splitlines() == [f"$(touch {tmp_path}/evil)", "x=y=", " \\t *", os.environ["PATH"]]
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["train", "mini", "emodb"])
def test_shipped_settings_resolve(resolve, recipe, name):
    code, values, message = resolve(config=recipe / "conf" / f"{name}.yaml")
    assert code == 0, message
    assert values["auto_tag"].startswith("mini_speaker_") and values["feats_type"] in ("raw", "fbank")
    assert "_alpha0.1_" in values["auto_tag"] and "_reverse_" in values["auto_tag"]


@pytest.mark.parametrize("name, short", [("frozen", "true"), ("superb", "true"), ("top", "false")])
def test_shipped_settings_of_pretrained_encoders_name_their_dump(resolve, recipe, name, short):
    code, values, message = resolve("", "upstream=tiny", config=recipe / "conf" / f"{name}.yaml")
    assert code == 0, message
    assert values["feats_type"] == "stored" and values["short_folds"] == short
    assert re.fullmatch(r"stored/[0-9a-f]{16}", values["dump_name"])


@pytest.mark.parametrize("more", ["", "feats_type: stored\nfreeze: conv\n"])
def test_a_hub_out_of_reach_is_reported_before_anything_starts(resolve, monkeypatch, more):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, values, message = resolve(f"upstream: nobody/no-such-model\n{more}", trains="true")
    assert code == 2 and values == {}
    assert "nobody/no-such-model" in message and "--local-dir DIR" in message and "--upstream DIR" in message
    assert more or resolve("upstream: nobody/no-such-model\n")[0] == 0  # nothing but training needs it


def test_a_folder_without_its_extractors_file_is_warned_of_at_once(resolve, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text("{}")
    for there in (True, False):
        code, _, message = resolve(f"upstream: {tmp_path}\n", trains="true")
        warned = message.startswith(f"warning: upstream {tmp_path} has no preprocessor_config.json")
        assert code == 0 and warned == (not there) == bool(message)
        (tmp_path / "preprocessor_config.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "text, overrides, words",
    [
        ("upstream: tinny\n", (), ["tinny", "did you mean tiny?", "conf/upstream"]),
        ("upstream: small\n", (), ["small reads fbank", "--feats_type fbank"]),
        ("upstream: tiny\nfeats_type: fbank\n", (), ["tiny reads raw", "--feats_type raw"]),
        ("upstrem: tiny\n", (), ["own.yaml", "did you mean upstream?"]),
        ('upstream: "a/b\\nc"\n', (), ["upstream 'a/b\\nc': a line break in its name"]),
        ("upstream: tiny\n", ("beta=-1",), ["beta", "0 or more"]),
        ("upstream: tiny\n", ("grl=sideways",), ["grl", "reverse or forward"]),
    ],
)
def test_a_wrong_setting_stops_before_anything_starts(resolve, text, overrides, words):
    code, values, message = resolve(text, *overrides)
    assert code == 2 and values == {} and message.startswith("error: ")
    assert [word for word in words if word not in message] == [], message


def test_decoding_settings_are_checked_too(resolve):
    code, _, message = resolve("upstream: tiny\n", inference="batchsize: 4\n")
    assert code == 2 and "decode.yaml" in message and "batch_size" in message


def test_an_own_geometry_is_read_where_it_lies(resolve, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"input_bands": 80}))
    code, values, _ = resolve(f"upstream: {path}\nfeats_type: fbank\n")
    assert code == 0 and values["auto_tag"].startswith("mini_speaker_mine_own_") and values["feats_type"] == "fbank"
