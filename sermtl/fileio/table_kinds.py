"""Which files of a data directory are tables, and what their keys are."""

from __future__ import annotations

from pathlib import Path

UTTERANCE_TABLES = ("text", "feats.scp", "vad.scp")
SPEAKER_TABLES = ("cmvn.scp",)
MAIN_TABLE = "utt2spk"
DERIVED_TABLE = "spk2utt"


def tables_of(data: Path) -> dict[str, list[str]]:
    """Name the tables that a data directory holds, by what their keys are.

    ``wav.scp`` is keyed by recordings where there is ``segments``, else by utterances. ``spk2utt`` is made
    from ``utt2spk`` and is not among them.

    Returns:
        "utterance", "speaker", "recording" -> file names, sorted, ``utt2spk`` first.
    """
    found: dict[str, list[str]] = {"utterance": [], "speaker": [], "recording": []}
    segmented = (data / "segments").exists()
    for name in sorted(path.name for path in data.iterdir() if path.is_file()):
        if name == "wav.scp":
            found["recording" if segmented else "utterance"].append(name)
        elif name in UTTERANCE_TABLES or name == "segments" or name.startswith("utt2"):
            found["utterance"].append(name)
        elif name in SPEAKER_TABLES or (name.startswith("spk2") and name != DERIVED_TABLE):
            found["speaker"].append(name)
        elif name.startswith("reco2"):
            found["recording" if segmented else "utterance"].append(name)
    found["utterance"].sort(key=lambda name: name != MAIN_TABLE)
    return found
