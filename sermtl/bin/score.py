"""Stage 5: `score folds` scores the decoded folds, `score pool` pools the scored folds of an experiment."""

import argparse
from pathlib import Path

from sermtl.errors import UserError, command
from sermtl.fileio.files import write_json, write_text
from sermtl.fileio.stamp import NAME, Stamp, fold_roots, inputs, package_digest
from sermtl.fileio.tables import read_list
from sermtl.fileio.text_table import number
from sermtl.score import result_files as results
from sermtl.score.score_files import read_scores
from sermtl.score.score_folds import pool_folds, pool_models, refuse_stale_folds, score_fold

INPUTS = (
    "decode:stamp.json", "decode:emb.scp", "decode:emo_post", "decode:utt2emo", "decode:text", "decode:utt2spk",
    "exp:decode_dev/stamp.json", "exp:decode_train/stamp.json", "exp:config.yaml", "top:labels.txt",
    "data:utt2emo", "data:text", "data:utt2spk", "fold:train", "fold:dev", "fold:test", "fold:audit.json",
)  # fmt: skip


def score_folds(args: argparse.Namespace) -> None:
    """Score the job's own folds, each ``--jobs``-th; their errors are reported together."""
    problems = []
    for name in args.folds[args.job - 1 :: args.jobs]:
        try:
            score_one(args.exp / name, args.data, args.folds_dir / name)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def score_one(trained: Path, data: Path, fold_dir: Path) -> None:
    """Score one fold."""
    out = trained / "score_test"
    made = Stamp(out / NAME, package_digest(), {}, inputs(fold_roots(trained, data, fold_dir), *INPUTS))
    if not made.changed():
        print(f"nothing changed: {out}")
        return
    made.begin()
    score_fold("test", data, fold_dir, trained.parent)
    (out / "probe.json").unlink(missing_ok=True)
    if (trained / "decode_test" / "emb.scp").exists():
        from sermtl.score.speaker_probe import probe_fold  # with scikit-learn, which takes seconds to import

        write_json(out / "probe.json", probe_fold(trained, data, fold_dir))
    made.finish(sorted(path for path in out.iterdir() if path.name[0] != "." and path.name != NAME))


def score_corpus(args: argparse.Namespace) -> None:
    """Score the models of all folds on all of another corpus."""
    parts = {fold: score_fold(args.data.name, args.data, args.data / fold, args.exp) for fold in args.folds}
    scores = pool_models(args.exp, args.data, parts)
    write_json(args.exp / f"scores_{args.data.name}.json", scores)
    for key in ("wa", "ua", "macro_f1"):
        spread = scores["mean_over_folds"][key]
        mean, std, averaged = map(number, (spread["mean"], spread["std"], scores["averaged"][key]))
        print(f"{args.data.name} {key}: {mean}, std {std} over the models; {averaged} of averaged posteriors")


def pool(args: argparse.Namespace) -> None:
    """Pool all scored folds of an experiment."""
    folds = read_list(args.folds_file)
    if not folds:
        raise UserError(f"{args.folds_file}: no fold; ./run.sh --stage 1 --stop_stage 1 writes it")
    if late := [fold for fold in args.scored if not (args.exp / fold / "score_test" / "scores.json").is_file()]:
        raise UserError(f"{args.exp} has no scores of {' '.join(late)} yet, as this host sees it: run stage 5 again")
    refuse_stale_folds(args.exp, args.folds_file.parent, folds)
    scored = sorted(args.exp.glob("*/score_test/scores.json")) + sorted(args.exp.glob("*/score_test/per_utt.tsv"))
    read = {f"exp:{path.relative_to(args.exp)}": path for path in scored} | {"folds:folds": args.folds_file}
    page, out = args.exp / "RESULTS.md", args.exp / "scores.json"
    made = Stamp(args.exp / NAME, package_digest(), {"tag": args.exp.name}, read)
    if made.changed():
        made.begin()
        scores = pool_folds(args.exp, folds)
        write_text(page, results.results_md(args.exp.name, scores))
        write_json(out, scores)
        made.finish([page, out])
    else:
        print(f"nothing changed: {out}")
        scores = read_scores(out)
    print(results.summary(args.exp.name, scores))


@command
def main() -> None:
    """Run the verb."""
    parser = argparse.ArgumentParser(prog="python -m sermtl.bin.score", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    fold = verbs.add_parser("folds", help="score folds -> exp/<tag>/<fold>/score_test/")
    other = verbs.add_parser("corpus", help="score another corpus -> exp/<tag>/scores_<corpus>.json")
    for one in (fold, other):
        one.add_argument("--exp", type=Path, required=True, help="exp/<tag>, with <fold>/decode_<test or corpus>")
        one.add_argument("--data", type=Path, required=True, help="data/<corpus>: utt2emo, text, utt2spk")
        one.add_argument("--folds", nargs="+", required=True, metavar="FOLD", help="fold names")
    fold.add_argument("--folds_dir", type=Path, required=True, help="data/<corpus>/folds/<protocol>")
    fold.add_argument("--job", type=int, default=1, help="which job this is, from 1")
    fold.add_argument("--jobs", type=int, default=1, help="jobs that share --folds (default: 1)")
    pooled = verbs.add_parser("pool", help="pool the scored folds -> exp/<tag>/scores.json, RESULTS.md")
    pooled.add_argument("--exp", type=Path, required=True, help="exp/<tag>")
    pooled.add_argument("--folds_file", type=Path, required=True, help="data/<corpus>/folds/<protocol>/folds")
    pooled.add_argument("--scored", nargs="+", default=[], metavar="FOLD", help="folds that have to be there")
    args = parser.parse_args()
    {"folds": score_folds, "corpus": score_corpus, "pool": pool}[args.verb](args)


if __name__ == "__main__":
    raise SystemExit(main())
