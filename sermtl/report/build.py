"""The report of a corpus, put together: sections in reading order, figures drawn on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.figure
import numpy as np

from sermtl.report import compare, figures, runs, speaker, tables, words
from sermtl.report import curves as logs
from sermtl.report.compare import Results
from sermtl.report.curves import Histories
from sermtl.report.document import Document, Figure, Section
from sermtl.report.families import Family, group
from sermtl.report.load import Loaded
from sermtl.report.speaker import Knowledge
from sermtl.report.tables import slug
from sermtl.score.result_files import environment

MOST_CURVES = 12


@dataclass(frozen=True)
class Sources:
    """Where the report reads and draws."""

    data: Path
    images: Path
    read_vector: Callable[[str], np.ndarray]
    """Gives the embedding at a location of ``emb.scp``."""


def build(loaded: Loaded, corpus: str, sources: Sources) -> Document:
    """Compute everything, draw the figures into ``sources.images``, and arrange it."""
    families = group(loaded.experiments)
    analysed = [compare.analyse(family) for family in families]
    histories = logs.read_histories(loaded.experiments)
    findings: list[str] = []
    everything: list[Knowledge] = []
    sections: list[Section] = []
    for results in analysed:
        known = speaker.knowledge(results.family, histories)
        everything += known
        findings += words.findings(results, known)
        sections += family_sections(results, known, histories, sources)
    sections.append(runs_section(loaded, families, histories))
    refused = [message for results in analysed for message in results.refused]
    damaged = [path for row in everything for path in row.damaged]
    return Document(
        title=f"Speech emotion recognition with speaker normalisation: {corpus}",
        head=environment().strip().splitlines(),
        warnings=runs.warnings(loaded, families, refused, damaged),
        findings=findings,
        sections=sections,
    )


def family_sections(results: Results, known: list[Knowledge], histories: Histories, sources: Sources) -> list[Section]:
    """All sections of one family."""
    family = results.family
    mark = " (speaker-dependent)" if family.speaker_dependent else ""
    top = Section(f"Protocol {family.title}{mark}")
    top.items += [tables.table_2(results), tables.table_3(results)]
    if (table := tables.ablation(results)) is not None:
        top.items.append(table)
    top.items += [tables.all_settings(results), forest(results, sources)]
    return [
        top,
        comparison_section(results, sources),
        epoch_section(family, histories, sources),
        *detail_sections(family, sources),
        speaker_section(family, known, sources),
    ]


def comparison_section(results: Results, sources: Sources) -> Section:
    """Paired tests, effect sizes, and what could have been seen."""
    section = Section(f"Compared with β 0{results.family.label}", 3)
    if not results.comparisons:
        section.items.append("Nothing can be compared: " + ("; ".join(results.refused) or "only β 0 was run") + ".")
        return section
    rows = {c.name: (c.difference["speaker"]["wa"], c.difference["utterance"]["wa"]) for c in results.comparisons}
    drawn = figures.intervals(rows, "difference in WA", zero=True)
    caption = (
        "Differences in WA from β 0 with 95 % intervals. An interval that holds 0 shows no difference. "
        "Trust the ones by speaker: the utterances of one speaker are no independent samples."
    )
    section.items += [
        words.detectable(results),
        tables.comparisons(results),
        _figure(drawn, f"{slug(results.family)}-differences", caption, sources),
        tables.mcnemar(results),
    ]
    if results.refused:
        section.items.append("Not paired: " + "; ".join(results.refused) + ".")
    return section


def forest(results: Results, sources: Sources) -> Figure:
    """WA of every setting with both intervals."""
    rows = {
        s.name: (results.estimates[s]["speaker"]["wa"], results.estimates[s]["utterance"]["wa"])
        for s in results.family.settings
    }
    caption = (
        "WA of every setting with 95 % intervals. See how far the intervals reach, and whether they grow when whole "
        "speakers are resampled instead of single utterances. Whether settings differ is not to be read here: they are "
        "tested on the same utterances, and the paired differences below decide."
    )
    return _figure(figures.intervals(rows, "WA"), f"{slug(results.family)}-wa", caption, sources)


def epoch_section(family: Family, histories: Histories, sources: Sources) -> Section:
    """The paper's figures 2 and 3."""
    section = Section(f"Against the epoch{family.label}", 3)
    shown = family.settings[:MOST_CURVES]
    for number, rate, title in ((2, "wer", "WER"), (3, "wa", "emotion accuracy (WA)")):
        for part, told in logs.PARTS.items():
            curves = logs.curves(shown, histories, part, rate)
            if not curves:
                continue
            caption = (
                f"Figure {number} of the paper: {title} against the epoch, on the {told}. Mean over folds (of the mean "
                "over seeds); the band is one standard error of it, which the differences between folds make wide. "
                "Look at where the curves end and whether they still move; the paired differences decide which is "
                "better."
            )
            if len(shown) < len(family.settings):
                caption += f" The first {len(shown)} of {len(family.settings)} settings."
            drawn = figures.against_epoch(curves, title)
            section.items.append(_figure(drawn, f"{slug(family)}-figure-{number}", caption, sources))
            break
    if not section.items:
        section.items.append(
            'No training logged scores on test or dev after each epoch; --train_args "--set monitor_test=true" does.'
        )
    return section


def detail_sections(family: Family, sources: Sources) -> list[Section]:
    """Per fold, speaker, class and style, and the confusion matrices."""
    folds = sorted({fold for setting in family.settings for fold in setting.first.scores["folds"]})
    per_fold = Section(f"Per fold{family.label}", 3)
    fold_tables = tables.by_group(family, "fold", folds, lambda s, fold: s.first.fold == fold)
    values = {s.name: [row[2 + i] for row in fold_tables[0].rows[: len(folds)]] for i, s in enumerate(family.settings)}
    drawn = figures.by_fold(values, folds, "WA")  # type: ignore[arg-type]
    caption = "WA of each fold. Compare the spread between folds with the spread between settings within a fold."
    per_fold.items += [_figure(drawn, f"{slug(family)}-folds", caption, sources), *fold_tables]

    per_speaker = Section(f"Per speaker{family.label}", 3)
    first = family.settings[0].first
    pairs = sorted(set(zip(first.fold.tolist(), first.spk.tolist(), strict=True)))
    if len(pairs) == len(set(first.fold)) == len(set(first.spk)):
        named = "; ".join(f"{fold}: {spk}" for fold, spk in pairs if fold != spk)
        told = f"Each fold tests one speaker{f' ({named})' if named else ''}"
        per_speaker.items.append(f"{told}: the tables per fold are those per speaker.")
    else:
        speakers = sorted({str(spk) for setting in family.settings for spk in setting.first.spk})
        per_speaker.items += tables.by_group(family, "speaker", speakers, lambda s, spk: s.first.spk == spk)

    per_class = Section(f"Per class{family.label}", 3, [*tables.by_class(family)])
    matrices = {s.name: np.array(s.rates()["confusion"]) for s in family.settings}
    caption = (
        "Confusion matrices: rows are references, colour is the share of the row, numbers are counts over folds and "
        "seeds. The diagonal is what was recognised; look for the pair of classes with the brightest cell beside it."
    )
    per_class.items.append(
        _figure(figures.confusions(matrices, first.labels), f"{slug(family)}-confusion", caption, sources)
    )
    per_class.items += tables.confusions(family)
    return [per_fold, per_speaker, per_class, style_section(family)]


def style_section(family: Family) -> Section:
    """Scripted against improvised, where the corpus knows it."""
    section = Section(f"By speaking style{family.label}", 3)
    styles = sorted({str(style) for setting in family.settings for style in setting.first.style} - {""})
    if styles:
        section.items += tables.by_group(family, "style", styles, lambda s, style: s.first.style == style)
    else:
        section.items.append("The corpus names no speaking styles (its data directory has no utt2style).")
    return section


def speaker_section(family: Family, known: list[Knowledge], sources: Sources) -> Section:
    """What speaker normalisation does to the representation."""
    section = Section(f"What speaker normalisation does{family.label}", 3)
    section.items.append(
        "A speaker head at chance does not mean that the speaker is gone: the encoder may only have learned to mislead "
        "that head. A probe fitted anew on the frozen embeddings has not been misled."
    )
    if (drawn := speaker.figure(known)) is not None:
        caption = (
            "Speaker accuracy on held-out utterances of training speakers: the model's own head beside a probe fitted "
            "anew. The black bars are what the probe reaches with shuffled speakers. Where the head has nothing and "
            "the probe stands above its black bar, the speaker was hidden from the head only."
        )
        section.items.append(_figure(drawn, f"{slug(family)}-probe", caption, sources))
    section.items.append(speaker.table(family, known))
    shown = speaker.picture(family, sources.data, sources.read_vector)
    if isinstance(shown, str):
        section.items.append(f"No picture of the embeddings: {shown}.")
    else:
        caption = (
            f"Pooled embeddings in their two principal directions ({shown[1]}), by speaker on the left and by "
            "emotion on the right. If normalisation removed the speaker, the colours on the left would mix from the "
            "first row to the second, and those on the right would not. Two directions show only what varies most; the "
            "probe looks at all of them."
        )
        section.items.append(_figure(shown[0], f"{slug(family)}-embeddings", caption, sources))
    return section


def runs_section(loaded: Loaded, families: list[Family], histories: Histories) -> Section:
    """Settings, experiments, audit, what is unfinished."""
    section = Section("Runs and settings", items=[runs.counted(family) for family in families])
    section.items += [runs.settings(families), runs.experiments(families, histories)]
    if (table := runs.unfinished(loaded)) is not None:
        section.items.append(table)
    audits = {family.protocol: runs.audit(family) for family in families}
    section.items += [table for table in audits.values() if table is not None]
    return section


def _figure(drawn: matplotlib.figure.Figure, name: str, caption: str, sources: Sources) -> Figure:
    figures.save(drawn, sources.images, name)
    return Figure(name, caption, caption.split(". ")[0].rstrip(".") + ".")
