"""Statistics of pooled states that a model learns beside its gradients: of the training list, of speakers, an eraser.

Shape suffixes: U utterances, n states, P pooled values of a state, M values of the vector, C classes.
"""

import logging

import torch
import torch.nn.functional as F

from sermtl.config import TrainConfig
from sermtl.data.dataset import FoldDataset, Sets
from sermtl.data.sampler import decode_batches
from sermtl.model.multitask import MultiTaskModel
from sermtl.model.trained_model import TrainedModel

log = logging.getLogger(__name__)
BATCH = 16


def fitted_once(config: TrainConfig) -> bool:
    """Whether training leaves the pooled states as they are."""
    return config.freeze == "all" and config.pooling != "attention"


def fit_before(trained: TrainedModel, config: TrainConfig, sets: Sets, device: torch.device) -> None:
    """Fit what does not move: ``pooled_norm``, and speakers' statistics and eraser of a frozen upstream."""
    if not trained.model.settings.standardise and not (fitted_once(config) and trained.model.vector.speaker_norm.acts):
        return
    pooled_UnP, speakers_U = _pooled(trained, sets, device)
    vector = trained.model.vector
    if trained.model.settings.standardise:
        vector.fit(pooled_UnP.mean(0), pooled_UnP.std(0, correction=0))
    if fitted_once(config):
        vector.speaker_norm.fit(vector.normalised(pooled_UnP), speakers_U)


def fit_epoch(trained: TrainedModel, config: TrainConfig, sets: Sets, device: torch.device) -> None:
    """At the start of an epoch: each training speaker's statistics as the encoder makes them now, without gradient."""
    if trained.model.vector.speaker_norm.standardises and not fitted_once(config):
        trained.model.vector.speaker_norm.fit_speakers(*_pooled(trained, sets, device))


def fit_after(trained: TrainedModel, config: TrainConfig, sets: Sets, device: torch.device) -> None:
    """After the last epoch of a trained encoder: eraser and statistics, and the emotion head anew behind an eraser."""
    if fitted_once(config) or not trained.model.vector.speaker_norm.acts:
        return
    pooled_UnP, speakers_U = _pooled(trained, sets, device)
    model = trained.model
    model.vector.speaker_norm.fit(pooled_UnP, speakers_U)
    if model.vector.speaker_norm.erases:
        emotions_U = torch.tensor([example.emotion for example in sets.train.examples], device=device)
        with torch.no_grad():
            vectors_UM = model.vector(pooled_UnP.float(), speakers_U)
        fit_emotion_head(model, vectors_UM, emotions_U)
        log.info("speakers erased and the emotion head fitted anew, on %d utterances", len(vectors_UM))


def fit_emotion_head(model: MultiTaskModel, vectors_UM: torch.Tensor, emotions_U: torch.Tensor) -> None:
    """Logistic regression of emotions (-1: unknown, left out) on vectors, with scikit-learn's penalty at C = 1."""
    labelled_U = emotions_U >= 0
    vectors_UM, emotions_U = vectors_UM[labelled_U].double(), emotions_U[labelled_U]
    weights_C = None if model.class_weights_C is None else model.class_weights_C.double()
    head = torch.nn.Linear(vectors_UM.shape[1], model.emotion_head.out_features).to(vectors_UM)
    head.load_state_dict(model.emotion_head.state_dict())
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=500, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        errors = F.cross_entropy(head(vectors_UM), emotions_U, weights_C, reduction="sum")
        loss = (errors + head.weight.square().sum() / 2) / len(emotions_U)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    model.emotion_head.load_state_dict(head.state_dict())


def _pooled(trained: TrainedModel, sets: Sets, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Pooled states (U, n, P) and speakers (U,) of the training list."""
    listed = FoldDataset(sets.train.examples, trained.front_end, speaker_stats=sets.train.speaker_stats)
    # A loader gives batches by length; statistics and heads need the list's order.
    batches = decode_batches(listed.lengths, BATCH)
    model = trained.model.to(device).eval()
    with torch.no_grad():
        found_UnP = torch.cat([model(batch.to(device)).pooled_BnP for batch in listed.loader(batches)]).double()
    order_U = torch.tensor([index for batch in batches for index in batch], device=device).argsort()
    speakers_U = torch.tensor([example.speaker for example in listed.examples], device=device)
    return found_UnP[order_U], speakers_U
