"""Temperatures fitted to dev, and the models that are written with them."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import log_loss
from small_training import make_training_corpus, train, weights

from sermtl.train.calibration import fit_temperature


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_training_corpus(tmp_path_factory.mktemp("corpus"))


def test_the_temperature_is_the_one_of_the_least_loss():
    random = np.random.default_rng(0)
    logits = random.normal(size=(50000, 4))
    drawn = (logits + random.gumbel(size=logits.shape)).argmax(1)  # a draw by the softmax of the logits
    temperature, before, after = fit_temperature(3 * logits, drawn)
    assert temperature == pytest.approx(3, rel=0.05)
    for factor in (0.98, 1.02):
        assert after < log_loss(drawn, softmax(3 * logits / (factor * temperature), axis=1))
    assert after == pytest.approx(log_loss(drawn, softmax(3 * logits / temperature, axis=1)))
    assert before == pytest.approx(log_loss(drawn, softmax(3 * logits, axis=1)))


def test_a_dev_set_without_errors_gives_a_finite_temperature():
    temperature, _, after = fit_temperature(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([0, 1]))
    assert 0.009 < temperature < 0.05 and after < 1e-6


@pytest.mark.parametrize("select", ["last", "best"])
def test_only_the_emotion_head_of_what_is_written_is_divided(corpus, tmp_path, capsys, select):
    assert train(corpus, tmp_path / "plain", epochs=2, select=select) == 0
    assert train(corpus, tmp_path / "scaled", epochs=2, select=select, calibrate=True) == 0
    log = capsys.readouterr().out
    plain, scaled = weights(tmp_path / "plain"), weights(tmp_path / "scaled")
    head = "emotion_head.weight"
    temperature = float((plain[head] / scaled[head]).mean())
    assert f"temperature {temperature:.3f} fitted to" in log and abs(temperature - 1) > 1e-3
    for name in plain:
        factor = temperature if name.startswith("emotion_head") else 1
        torch.testing.assert_close(scaled[name] * factor, plain[name])
