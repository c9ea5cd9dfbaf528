"""Stage 5's look at a fold's embeddings: ``score_test/probe.json``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sermtl import metrics, probe
from sermtl.datadir import read_list, read_own_scp, read_table
from sermtl.errors import UserError

NO_HELD_OUT = "no held-out utterances of training speakers: make folds with --dev_ratio 0.1, train and decode again"


def probe_fold(exp: Path, data: Path, fold_dir: Path, read: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """What a fold's embeddings tell about the speaker.

    The probe takes the dev utterances, or, where there are none, the test utterances whose speakers are in
    the training list; the speaker head is judged on the same utterances. Verification takes the test
    utterances of the other speakers, and where that is one, the dev utterances for its impostors.

    Args:
        exp: ``exp/<tag>/<fold>`` with ``decode_test`` and, where the fold has one, ``decode_dev``.
        data: Data directory, for the real speakers and, where it names them, emotions.
        fold_dir: The fold's lists.
        read: Gives the vector at a location of ``emb.scp``.

    Returns:
        ``probe`` (see `probe.speaker_probe`), ``head`` (see `metrics.speaker_scores`), ``utterances``
        (``dev`` or ``test``), ``training_speakers`` (their number), ``verification`` (see `probe.verification_eer`).

    Raises:
        UserError: A table or an embedding is missing or broken.
    """
    speakers = read_table(data / "utt2spk")
    emotions = read_table(data / "utt2emo") if (data / "utt2emo").exists() else {}
    trained = {speakers[utt] for utt in read_list(fold_dir / "train")}
    test = read_list(fold_dir / "test")
    part, held_out = "dev", read_list(fold_dir / "dev") if (exp / "decode_dev" / "emb.scp").exists() else []
    if not held_out:
        part, held_out = "test", [utt for utt in test if speakers[utt] in trained]
    result: dict[str, Any] = {"utterances": part, "training_speakers": len(trained)}
    names = [speakers[utt] for utt in held_out]
    strangers = None
    if held_out:
        hypotheses = read_table(exp / f"decode_{part}" / "utt2spk")
        vectors = embeddings(exp / f"decode_{part}", held_out, read)
        result["probe"] = probe.speaker_probe(vectors, names, [emotions.get(utt, "") for utt in held_out])
        strangers = vectors if part == "dev" else None
        result["head"] = metrics.speaker_scores(names, [hypotheses.get(utt, "") for utt in held_out], trained)
    else:
        result["probe"] = result["head"] = {"acc": None, "reason": NO_HELD_OUT}
    unseen = [utt for utt in test if speakers[utt] not in trained]
    result["verification"] = {"eer": None, "reason": "every test speaker was trained on"}
    if unseen:
        vectors = embeddings(exp / "decode_test", unseen, read)
        result["verification"] = probe.verification_eer(vectors, [speakers[utt] for utt in unseen], strangers)
    return result


def embeddings(decoded: Path, utts: Sequence[str], read: Callable[[str], np.ndarray]) -> np.ndarray:
    """(N, D) pooled embeddings of some decoded utterances.

    Raises:
        UserError: ``emb.scp`` lacks one of them.
    """
    table = read_own_scp(decoded / "emb.scp")
    if missing := [utt for utt in utts if utt not in table]:
        raise UserError(f"{decoded / 'emb.scp'} lacks {len(missing)} utterances: {metrics.first(missing)}")
    return probe.stack_embeddings(table, read, utts)
