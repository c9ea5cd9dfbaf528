"""Temperature scaling: posteriors that are as often right as they say (Guo et al., 2017).

Shape suffixes: U utterances, C classes.
"""

import copy
import logging
import math
from pathlib import Path

import numpy as np
import torch

from sermtl.config import TrainConfig
from sermtl.data.dataset import FoldDataset, Sets
from sermtl.data.sampler import decode_batches
from sermtl.model.batch import in_parts
from sermtl.model.multitask import MultiTaskModel
from sermtl.model.trained_model import save_weights
from sermtl.train.pooled_statistics import BATCH

log = logging.getLogger(__name__)
RANGE = (0.01, 100.0)
"""Of temperatures; dev sets that are recognised without an error have their least loss at 0."""


def fit_temperature(logits_UC: np.ndarray, emotions_U: np.ndarray) -> tuple[float, float, float]:
    """The temperature T of the least mean NLL of softmax(logits / T), and the NLL (nats) with T = 1 and with T."""
    from scipy.optimize import minimize_scalar  # with the next, most of a second
    from scipy.special import log_softmax

    def loss(log_temperature: float) -> float:
        scaled_UC = log_softmax(logits_UC / math.exp(log_temperature), axis=1)
        return -float(scaled_UC[np.arange(len(emotions_U)), emotions_U].mean())

    found = minimize_scalar(loss, bounds=np.log(RANGE), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x), loss(0.0), loss(found.x)


def save_model(directory: Path, model: MultiTaskModel, config: TrainConfig, sets: Sets, device: torch.device) -> None:
    """Write the weights that are to be scored, calibrated by dev where that is asked for; the model stays as it is."""
    trained_head = copy.deepcopy(model.emotion_head.state_dict())
    if config.calibrate:
        calibrate(model, sets.evaluated["dev"], device)
    save_weights(directory, model)
    model.emotion_head.load_state_dict(trained_head)


@torch.no_grad()
def calibrate(model: MultiTaskModel, dev: FoldDataset, device: torch.device) -> None:
    """Divide the emotion head's weights and biases, and so its logits, by the temperature that fits ``dev``."""
    model.eval()
    logits, emotions = [], []
    for host_batch in dev.loader(decode_batches(dev.lengths, BATCH)):
        for batch, output in in_parts(host_batch.to(device), model):
            logits.append(output.emotion_BC.double().cpu())
            emotions.append(batch.emotions_B.cpu())
    emotions_U = torch.cat(emotions).numpy()
    known_U = emotions_U >= 0
    temperature, before, after = fit_temperature(torch.cat(logits).numpy()[known_U], emotions_U[known_U])
    for parameter in model.emotion_head.parameters():
        parameter.div_(temperature)
    text = "temperature %.3f fitted to %d utterances of dev: NLL %.3f instead of %.3f"
    log.info(text, temperature, known_U.sum(), after, before)
