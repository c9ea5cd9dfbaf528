"""What is taken off an utterance's pooled states because of its speaker: nothing, by erasing, or by standardising.

`erase` is a linear map in closed form, after which no linear probe finds the speakers of the utterances that it was
fitted on. `standardise` takes off each speaker's own mean, and divides by the deviation where that is asked for, both
estimated from other utterances of the speaker and drawn towards the corpus's where these are few. Both act on each
state before the mix, so that they hold for any mix and projection.

Shape suffixes: B batch, U utterances, n states, P pooled values of a state, S speakers, R rank.
"""

import logging

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)
LEAST_DEVIATION = 1e-5
"""Of a dimension; below, it does not vary and is not divided."""


class SpeakerNorm(nn.Module):
    """Erases, standardises, or both, the first first; what it was not given yet leaves states as they are.

    ``method``, ``statistics`` and ``shrink`` are ``spk_norm``, ``spk_statistics`` and ``spk_shrink`` of the training
    settings; ``none`` and ``grl`` change nothing here. There are n ``states`` of ``width`` P, and S ``speakers``.

    A speaker's own statistics of m utterances count m / (m + k), the corpus's the rest. k is ``shrink`` times the
    variance within training speakers over that between them, of each dimension (with a ``shrink`` of 1 the estimate of
    least squared error; Efron and Morris, 1973).
    """

    def __init__(
        self, method: str, states: int, width: int, speakers: int, statistics: str = "mean", shrink: float = 0.0
    ):
        super().__init__()
        self.erases, self.standardises = "erase" in method, "standardise" in method
        self.acts = self.erases or self.standardises
        self.divides, self.shrink = statistics == "mean_std", shrink
        if self.erases:
            rank = min(width, speakers - 1)
            self.centre_nP = nn.Buffer(torch.zeros(states, width))
            self.out_nPR = nn.Buffer(torch.zeros(states, width, rank))
            self.in_nRP = nn.Buffer(torch.zeros(states, rank, width))
        if self.standardises:
            self.mean_nP = nn.Buffer(torch.zeros(states, width))
            self.std_nP = nn.Buffer(torch.ones(states, width))
            self.shrink_nP = nn.Buffer(torch.zeros(states, width))
            self.means_SnP = nn.Buffer(torch.zeros(speakers, states, width))
            self.stds_SnP = nn.Buffer(torch.ones(speakers, states, width))

    def erase(self, pooled_BnP: Tensor) -> Tensor:
        """Without what tells the speakers apart that it was fitted on."""
        if not self.erases:
            return pooled_BnP
        found_BnR = torch.einsum("nrp,bnp->bnr", self.in_nRP.to(pooled_BnP.dtype), pooled_BnP - self.centre_nP)
        return pooled_BnP - torch.einsum("npr,bnr->bnp", self.out_nPR.to(pooled_BnP.dtype), found_BnR)

    def standardise(
        self, pooled_BnP: Tensor, speakers_B: Tensor | None, own: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Erased states by each utterance's speaker: one of training, or -1 for others (None: all are others).

        Others take the corpus's statistics; ``own``, means and deviations (B, n, P) each, is taken instead of all.
        """
        if not self.standardises:
            return pooled_BnP
        mean_BnP, std_BnP = own or (self.mean_nP, self.std_nP)
        if own is None and speakers_B is not None:
            known_B11, row_B = (speakers_B >= 0)[:, None, None], speakers_B.clamp(min=0)
            mean_BnP = torch.where(known_B11, self.means_SnP[row_B], mean_BnP)
            std_BnP = torch.where(known_B11, self.stds_SnP[row_B], std_BnP)
        return (pooled_BnP - mean_BnP) / std_BnP

    def estimate(self, pooled_UnP: Tensor, members_KU: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations, each (K, n, P), of K groups of utterances, drawn towards the corpus's.

        ``members_KU`` says which of the erased states, float64, a group has; one without any gets the corpus's.
        """
        counts_K11 = members_KU.sum(1)[:, None, None]
        share_KnP = counts_K11 / (counts_K11 + self.shrink_nP).clamp(min=1e-9)
        averages_KU = members_KU.to(pooled_UnP) / counts_K11[:, :, 0].clamp(min=1)
        mean_KnP = torch.einsum("ku,unp->knp", averages_KU, pooled_UnP)
        drawn_KnP = share_KnP * mean_KnP + (1 - share_KnP) * self.mean_nP
        if not self.divides:
            return drawn_KnP, self.std_nP.to(drawn_KnP).expand_as(drawn_KnP)
        square_KnP = torch.einsum("ku,unp->knp", averages_KU, pooled_UnP.square())
        variance_KnP = (square_KnP - mean_KnP.square()).clamp(min=0)
        return drawn_KnP, (share_KnP * variance_KnP + (1 - share_KnP) * self.std_nP.square()).sqrt()

    def fit(self, pooled_UnP: Tensor, speakers_U: Tensor) -> None:
        """Fit on the training list; utterances of unknown speakers (-1) count for the corpus's statistics only."""
        known_U = speakers_U >= 0
        if self.erases:
            for state in range(pooled_UnP.shape[1]):
                fitted = fit_eraser(pooled_UnP[known_U, state], speakers_U[known_U], len(self.in_nRP[0]))
                for buffer, values in zip((self.centre_nP, self.out_nPR, self.in_nRP), fitted, strict=True):
                    buffer[state] = values
        self.fit_speakers(pooled_UnP, speakers_U)

    def fit_speakers(self, pooled_UnP: Tensor, speakers_U: Tensor) -> None:
        """The part of `fit` that standardises."""
        if self.standardises:
            erased_UnP = self.erase(pooled_UnP)
            self.mean_nP.copy_(erased_UnP.mean(0))
            std_nP = erased_UnP.std(0, correction=0)
            self.std_nP.copy_(torch.where(std_nP > LEAST_DEVIATION, std_nP, torch.ones_like(std_nP)))
            members_SU = speakers_U == torch.arange(len(self.means_SnP), device=speakers_U.device)[:, None]
            # Of what is not erased: an eraser leaves no variance between those whom it was fitted on.
            self.shrink_nP.copy_(self.shrink * spread_ratio(pooled_UnP.double(), members_SU))
            means_SnP, stds_SnP = self.estimate(erased_UnP.double(), members_SU)
            self.means_SnP.copy_(means_SnP)
            self.stds_SnP.copy_(stds_SnP)


def spread_ratio(pooled_UnP: Tensor, members_SU: Tensor) -> Tensor:
    """Variance within speakers over variance between speakers (n, P), at most 1,000; 0 where nothing varies.

    The variance of the speakers' means holds that of the averages over their utterances too, which is taken off.
    """
    counts_S = members_SU.sum(1)
    means_SnP = torch.einsum("su,unp->snp", members_SU.to(pooled_UnP) / counts_S[:, None].clamp(min=1), pooled_UnP)
    own_UnP = torch.einsum("su,snp->unp", members_SU.to(pooled_UnP), means_SnP)
    squares_nP = (members_SU.any(0)[:, None, None] * (pooled_UnP - own_UnP).square()).sum(0)
    within_nP = squares_nP / (counts_S.sum() - len(counts_S)).clamp(min=1)
    between_nP = means_SnP.var(0) - within_nP * (1 / counts_S.clamp(min=1)).mean()
    return within_nP / torch.maximum(between_nP, within_nP / 1000).clamp(min=1e-30)


def fit_eraser(vectors_UP: Tensor, speakers_U: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Least-squares concept erasure (LEACE; Belrose et al. 2023, theorem 4.3) of speakers from vectors.

    With W the inverse square root of the vectors' covariance and P the projection onto the columns of W Cov(x, z),
    z being indicators of the speakers, x becomes x - W^-1 P W (x - E x), whose covariance with z is 0. The covariance
    that W is of is shrunk towards a multiple of the identity (oracle approximating shrinkage; Chen et al. 2010,
    equation 23), which the closed form allows, since only W's columns change, and which fewer utterances than
    dimensions need.

    ``speakers_U`` are numbers from 0; the rank R is one less than theirs, or P where that is less. Returns the mean
    (P,), and the factors W^-1 U (P, R) and U^T W (R, P) of the projection P = U U^T.
    """
    count, width = vectors_UP.shape
    vectors_UP = vectors_UP.double()
    mean_P = vectors_UP.mean(0)
    centred_UP = vectors_UP - mean_P
    covariance_PP = centred_UP.T @ centred_UP / count
    trace, square = covariance_PP.trace(), covariance_PP.square().sum()
    excess = (count + 1 - 2 / width) * (square - trace**2 / width)
    shrinkage = float(((1 - 2 / width) * square + trace**2) / excess) if excess > 0 else 1.0
    shrunk_by = min(shrinkage, 1.0)
    log.info("eraser of %d utterances and %d values: covariance shrunk by %.2f", count, width, shrunk_by)
    shrunk_PP = (1 - shrunk_by) * covariance_PP
    shrunk_PP.diagonal().add_(shrunk_by * trace / width)
    values_P, axes_PP = torch.linalg.eigh(shrunk_PP)
    roots_P = values_P.clamp(min=values_P.max() * 1e-12).sqrt()
    indicators_US = torch.nn.functional.one_hot(speakers_U).double()
    cross_PS = centred_UP.T @ (indicators_US - indicators_US.mean(0)) / count
    whitened_PS = axes_PP @ ((axes_PP.T @ cross_PS) / roots_P[:, None])
    left_PR, singular_R, _ = torch.linalg.svd(whitened_PS, full_matrices=False)
    left_PR = (left_PR * (singular_R > singular_R.max() * 1e-9))[:, :rank]
    out_PR = axes_PP @ (roots_P[:, None] * (axes_PP.T @ left_PR))
    in_RP = (axes_PP @ ((axes_PP.T @ left_PR) / roots_P[:, None])).T
    return mean_P, out_PR, in_RP
