"""What a training warns of by its own numbers."""

from __future__ import annotations

import pytest

from sermtl.train.history import dead_heads, exploded


def history(losses, ua=0.6, acc_sid=0.6, wer=0.5):
    rates = {"ua": ua, "acc_sid": acc_sid, "wer": wer}
    return [{"epoch": number, "train": {"loss": loss, **rates}} for number, loss in enumerate(losses, 1)]


@pytest.mark.parametrize("losses", [[5.0], [5.0, 4.0, 39.0], [None, 7.0], [5.0, 50.0, 4.0]])
def test_a_loss_that_wanders_is_not_warned_of(losses):
    assert exploded(history(losses)) == []


@pytest.mark.parametrize(
    ("losses", "reason"), [([5.0, 4.0, 41.0], "41 in epoch 3, 4 at best"), ([5.0, None], "no finite")]
)
def test_a_loss_that_explodes_is_warned_of_with_its_figures(losses, reason):
    (message,) = exploded(history(losses))
    assert message.startswith("the loss has exploded: ") and reason in message and "learning_rate" in message


def test_heads_at_chance_are_named_each():
    assert dead_heads(history([3.0, 2.0, 1.0]), 4, 10, 0.1) == []
    dead = history([3.0, 2.0, 1.0], ua=0.28, acc_sid=0.13, wer=1.0)
    assert [message.split()[1] for message in dead_heads(dead, 4, 10, 0.1)] == ["emotion", "speaker", "CTC"]
    assert "UA 0.280 at best, for 4 classes" in dead_heads(dead, 4, 10, 0.1)[0]
    assert len(dead_heads(dead, 4, 10, 0.0)) == 2
    assert dead_heads(dead[:2], 4, 10, 0.1) == []
    dead[1]["train"]["ua"] = 0.5
    assert [message.split()[1] for message in dead_heads(dead, 4, 10, 0.1)] == ["speaker", "CTC"]
    unseen = history([3.0, 2.0, 1.0], acc_sid=None, wer=None)
    assert dead_heads(unseen, 4, 1, 0.1) == []
