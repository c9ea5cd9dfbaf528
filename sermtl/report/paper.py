"""Numbers printed in the papers of the method; the report shows them in a column next to its own."""

COLUMN = "paper (IEMOCAP, fold 01F)"
CITE = (
    "S. Ha, “Speech Emotion Recognition via multi-task learning with speaker normalization”: "
    "wav2vec 2.0 base, IEMOCAP, fold 01F of the paper's own split, one training each"
)
TABLE_2 = {0.0: 0.746, 1.0: 0.751, 0.1: 0.751}
"""beta -> emotion accuracy (gradient reversed), in the paper's order."""
TABLE_3 = {
    ("forward", 1.0): (0.243, 0.739, 0.288),
    ("forward", 0.1): (0.239, 0.749, 0.321),
    ("reverse", 1.0): (0.244, 0.751, 0.292),
    ("reverse", 0.1): (0.247, 0.751, 0.298),
}
"""(direction, beta) -> WER, emotion accuracy, speaker accuracy, in the paper's order."""
UTTERANCES = 507
GAIN = 0.005
"""The paper's gain of beta 0.1 and 1 over 0: .751 - .746, two or three of 507 utterances."""
ABLATION_COLUMN = "Cai et al. (IEMOCAP, ten paper folds)"
ABLATION_CITE = "X. Cai et al., “Speech Emotion Recognition with Multi-task Learning”, Interspeech 2021"
ABLATION = {True: ("0.7815", "0.193"), False: ("0.717", "0.9981")}
"""With and without the ASR loss -> emotion accuracy, WER (beta 0, ten folds), with the digits printed."""
