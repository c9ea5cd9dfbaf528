"""The report of a corpus, put together: sections in reading order, figures drawn on the way."""

from collections.abc import Mapping

import numpy as np

from sermtl.errors import UserError
from sermtl.report import figures, methods, runs, speaker, tables, words
from sermtl.report.compare import Setting
from sermtl.report.document import Cell, Document, Section
from sermtl.report.families import Family, group
from sermtl.report.figures import Sources
from sermtl.report.load import Loaded
from sermtl.report.speaker import Knowledge
from sermtl.score.plain_models import layers_of, words_alone
from sermtl.score.result_files import UNTRAINED, environment

MOST_CURVES = 12
PARTS = {"monitor_test": "test fold (monitoring: nothing is selected by it)", "dev": "dev part of the fold"}
"""Where a curve over epochs may come from, the first that exists."""


def build(loaded: Loaded, corpus: str, sources: Sources) -> Document:
    """Compute everything, draw the figures into ``sources.images``, and arrange it."""
    families = group(loaded.experiments)
    findings: list[str] = []
    probes: list[list[Cell]] = []
    damaged: list[str] = []
    sections: list[Section] = []
    known_of: dict[str, dict[Setting, Knowledge]] = {}
    for family in families:
        known = {setting: speaker.knowledge(setting) for setting in family.settings}
        known_of[family.title] = known
        damaged += [path for row in known.values() for path in row.damaged]
        findings += words.findings(family, known)
        probes += speaker.by_speaker(family, known)
        sections += [
            protocol_section(family, sources),
            comparison_section(family, sources),
            epoch_section(family, sources),
            *detail_sections(family, sources),
            speaker_section(family, known, sources),
            *layer_section(family, sources),
        ]
    for protocol in dict.fromkeys(family.protocol for family in families):
        sections += methods.section([f for f in families if f.protocol == protocol], known_of, sources)
    last = Section("Runs and settings", items=[runs.counted(family) for family in families])
    last.items += [runs.settings(families), runs.experiments(families), *runs.unfinished(loaded)]
    for family in {family.protocol: family for family in families}.values():
        last.items += runs.audit(family)
    return Document(
        title=f"Speech emotion recognition with speaker normalisation: {corpus}",
        head=environment().strip().splitlines(),
        warnings=runs.warnings(loaded, families, damaged),
        findings=findings,
        sections=[*sections, last],
        probes=probes,
    )


def protocol_section(family: Family, sources: Sources) -> Section:
    """A family's rates: the paper's tables, all settings, what the words alone give away, reliability."""
    mark = f" ({family.dependent})" if family.dependent else ""
    section = Section(f"Protocol {family.title}{mark}")
    rows = {setting.name: [setting.estimates["wa"]] for setting in family.settings}
    caption = (
        "WA of every setting with 95 % intervals. The settings are tested on the same utterances; the tests of their "
        "differences are in the section on comparisons."
    )
    if any(setting.method in ("reverse", "forward") for setting in family.settings):
        section.items += [tables.table_2(family), tables.table_3(family), *tables.ablation(family)]
    section.items += [
        tables.all_settings(family),
        sources.draw(figures.intervals(rows, "WA"), family.slug, "wa", caption),
    ]
    try:
        share = words_alone(sources.data, family.protocol, sources.dump)
        words_only = "a logistic regression on the words of the reference transcripts has a WA of"
        if share is not None:
            mark = UNTRAINED * bool(family.untrained)
            section.items.append(f"Text only, on the same folds: {words_only} {share:.3f}{mark}.")
    except (OSError, KeyError, UserError) as error:
        section.items.append(f"No text-only baseline: {error}.")
    bins = {setting.name: setting.calibration[0] for setting in family.settings[:MOST_CURVES]}
    full = {name: rows[rows[:, 0] > 0] for name, rows in bins.items()}
    if curves := {name: (rows[:, 1] / rows[:, 0], rows[:, 2] / rows[:, 0]) for name, rows in full.items() if len(rows)}:
        caption = "Reliability: share of correct utterances by confidence. Calibrated posteriors lie on the diagonal."
        drawn = figures.lines(curves, "confidence", "share of correct utterances", diagonal=True)
        section.items.append(sources.draw(drawn, family.slug, "reliability", caption))
    return section


def comparison_section(family: Family, sources: Sources) -> Section:
    """Paired tests, effect sizes, and detectable differences."""
    section = Section(f"Compared with {family.base_name}{family.label}", 3)
    if not family.comparisons:
        section.items.append(
            "Nothing can be compared: " + ("; ".join(family.refused) or f"only {family.base_name} was run") + "."
        )
        return section
    rows = {c.name: [c.difference("wa")] for c in family.comparisons}
    what = f"Differences in WA from {family.base_name} with 95 % intervals."
    caption = f"{what} One that contains 0 does not show that there is none."
    drawn = figures.intervals(rows, "difference in WA", zero=True)
    section.items += [words.detectable(family), tables.comparisons(family)]
    section.items += [sources.draw(drawn, family.slug, "differences", caption), tables.mcnemar(family)]
    if family.refused:
        section.items.append("Not paired: " + "; ".join(family.refused) + ".")
    return section


def epoch_section(family: Family, sources: Sources) -> Section:
    """The paper's figures 2 and 3."""
    section = Section(f"Scores by epoch{family.label}", 3)
    shown = family.settings[:MOST_CURVES]
    for number, rate, title in ((2, "wer", "WER"), (3, "wa", "emotion accuracy (WA)")):
        for part, place in PARTS.items():
            every = {s.name: s.curve(part, rate) for s in shown if rate != "wer" or s.first.reads}
            curves = {name: values for name, values in every.items() if np.isfinite(values).any()}
            if curves:
                caption = (
                    f"Figure {number} of the paper: {title} by epoch, on the {place}. Lines are means over folds (of "
                    "the mean over seeds), bands one standard error over folds, which share training data."
                )
                if len(shown) < len(family.settings):
                    caption += f" The first {len(shown)} of {len(family.settings)} settings."
                drawn = figures.against_epoch(curves, title)
                section.items.append(sources.draw(drawn, family.slug, f"figure-{number}", caption))
                break
    if not section.items:
        section.items.append(
            "No training logged scores on its test or dev part after each epoch; "
            '--train_args "--set monitor_test=true" turns this on.'
        )
    return section


def detail_sections(family: Family, sources: Sources) -> list[Section]:
    """Per fold, speaker, class and style, and the confusion matrices."""
    folds = sorted({fold for setting in family.settings for fold in setting.first.folds})
    fold_tables = tables.by_group(family, "fold", folds)
    values = {s.name: [row[2 + i] for row in fold_tables[0].rows[: len(folds)]] for i, s in enumerate(family.settings)}
    drawn = figures.by_fold(values, folds, "WA")  # type: ignore[arg-type]
    picture = sources.draw(drawn, family.slug, "folds", "WA of each fold, by setting.")
    per_fold = Section(f"Per fold{family.label}", 3, [picture, *fold_tables])

    per_speaker = Section(f"Per speaker{family.label}", 3)
    first = family.settings[0].first
    pairs = sorted(set(zip(first.fold.tolist(), first.spk.tolist(), strict=True)))
    if len(pairs) == len(set(first.fold)) == len(set(first.spk)):
        named = "; ".join(f"{fold}: {spk}" for fold, spk in pairs if fold != spk)
        speaker_of = f" ({named})" if named else ""
        per_speaker.items.append(f"Each fold tests one speaker{speaker_of}: the tables per fold are those per speaker.")
    else:
        speakers = sorted({str(spk) for setting in family.settings for spk in setting.first.spk})
        per_speaker.items += tables.by_group(family, "speaker", speakers)

    matrices = {s.name: np.array(s.rates()["confusion"]) for s in family.settings}
    caption = (
        "Confusion matrices: rows are references, columns hypotheses; numbers are counts over folds and seeds, "
        "percentages and colours are shares of the row."
    )
    picture = sources.draw(figures.confusions(matrices, first.labels), family.slug, "confusion", caption)
    per_class = Section(f"Per class{family.label}", 3)
    per_class.items += [*tables.by_class(family), picture, *tables.confusions(family)]

    per_style = Section(f"By speaking style{family.label}", 3)
    styles = sorted({str(style) for setting in family.settings for style in setting.first.style} - {""})
    if styles:
        per_style.items += tables.by_group(family, "style", styles)
    else:
        per_style.items.append("No speaking styles are known: the data directory has no utt2style.")
    return [per_fold, per_speaker, per_class, per_style]


def speaker_section(family: Family, known: Mapping[Setting, Knowledge], sources: Sources) -> Section:
    """The effect of speaker normalisation on the representation."""
    section = Section(f"Effect of speaker normalisation{family.label}", 3)
    section.items.append(
        f"{speaker.PROBED} The accuracy of the model's own speaker head proves neither presence nor absence of speaker "
        "information."
    )
    rows = {
        f"{setting.name}, {name}": (outcome.accuracy, outcome.chance)
        for setting, row in known.items()
        for kind, name in speaker.PROBES.items()
        if (outcome := row.outcomes["held_out", kind]).hits
    }
    if rows:
        drawn = figures.intervals(rows, "speaker accuracy", labels=("probe, 95 % interval", "speakers shuffled, range"))
        caption = (
            "Accuracy of speaker probes on held-out utterances of training speakers (thick: 95 % intervals), "
            "and with shuffled speakers, which is chance (thin: lowest to highest)."
        )
        section.items.append(sources.draw(drawn, family.slug, "probe", caption))
    section.items += [*speaker.tables(family, known), *methods.enrolment(family, sources)]
    section.items += methods.erasing(family, sources)
    shown = speaker.picture(family, sources.data)
    if isinstance(shown, str):
        section.items.append(f"No picture of the embeddings: {shown}.")
    else:
        caption = (
            f"Pooled embeddings on their two principal components ({shown[1]}), coloured by speaker on the left and by "
            "emotion on the right, one row per setting. The components are those of largest variance; the probe uses "
            "all dimensions."
        )
        section.items.append(sources.draw(shown[0], family.slug, "embeddings", caption))
    return section


def layer_section(family: Family, sources: Sources) -> list[Section]:
    """What each hidden state of a frozen encoder tells, and the weights that were learned; nothing for other models."""
    section = Section(f"Inside the encoder{family.label}", 3)
    trained = family.settings[0].first.settings
    stored = (trained.get("feats_type"), trained.get("freeze")) == ("stored", "all") and not trained.get("alpha")
    if trained.get("dump") and stored and trained.get("pooling") != "attention":
        dump = sources.dump / trained["dump"]
        try:
            found = layers_of(dump, sources.data, family.protocol)
        except (OSError, KeyError, ValueError, UserError) as error:
            again = "./run.sh --stage 2 makes it again"
            section.items.append(f"No probes of the hidden states: {dump} cannot be read ({error}); {again}.")
        else:
            caption = (
                f"What each hidden state of the frozen encoder tells: WA of {found['utterances']} utterances, each "
                f"fold's test list held out, and accuracy among {found['speakers']} speakers, cross-validated. Ridge "
                "regression to the classes, on what stage 2 stored of each."
            )
            states = {"emotion (WA)": found["emotion"], "speaker": found["speaker"]}
            curves = {name: (range(len(values)), values) for name, values in states.items() if values}
            drawn = figures.lines(curves, "hidden state", "accuracy")
            section.items.append(sources.draw(drawn, family.slug, "states", caption))
    section.items += tables.layer_weights(family)
    return [section] if section.items else []
