"""The steps of tests/gpu/run.sh, most important first: each has a share of the minutes and writes what it found."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from small_corpus import make_small_corpus, run_program  # noqa: E402
from tabulate import tabulate  # noqa: E402

from sermtl.bench import epochs, material  # noqa: E402
from sermtl.bench.measure import PAPER_UPDATES, machine, rates_of  # noqa: E402
from sermtl.bench.rows import FAST, SHIPPED, Rows, build_model, choose_rows, updates_and_decoding  # noqa: E402
from sermtl.bin import train as train_program  # noqa: E402
from sermtl.config import TrainConfig, load_config  # noqa: E402
from sermtl.data.dataset import FoldDataset, Sets  # noqa: E402
from sermtl.data.fold_data import load_fold  # noqa: E402
from sermtl.fileio.ark import checksum, write_ark  # noqa: E402
from sermtl.fileio.files import sha256, write_json  # noqa: E402
from sermtl.inference.predict import Speech2Emotion  # noqa: E402
from sermtl.model.batch import Batch  # noqa: E402
from sermtl.model.cuda_graphs import use_graphs  # noqa: E402
from sermtl.model.heads import HeadSettings  # noqa: E402
from sermtl.model.multitask import MultiTaskModel, task_losses, total_loss  # noqa: E402
from sermtl.model.precision import has_bf16, use_whole_float32  # noqa: E402
from sermtl.model.upstreams.load import build_upstream, config_from  # noqa: E402
from sermtl.train.fold import build  # noqa: E402
from sermtl.train.trainer import Trainer  # noqa: E402

QUIET = {name: 0.0 for name in ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout")}
QUIET |= {"final_dropout": 0.0, "layerdrop": 0.0, "mask_time_prob": 0.0}
WHISPER = {"model_type": "whisper", "d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8}
WHISPER |= {"encoder_ffn_dim": 2048}
BASES = {"wav2vec2": {"model_type": "wav2vec2", **QUIET}, "wavlm": {"model_type": "wavlm", **QUIET}, "whisper": WHISPER}
SMALL = {"conv_dim": [32] * 7, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 64}
SMALL_WHISPER = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
"""Of a rehearsal."""
NEAR = {"float32": 1e-4, "bf16": 2e-2}
Row = dict[str, Any]


class OutOfTime(Exception):
    """A step's share of the minutes is over."""


class Run:
    """The device, how much of it all is done there, and where results go."""

    def __init__(self, args: argparse.Namespace):
        self.device, self.out = torch.device(args.device), args.out
        self.full = self.device.type == "cuda"
        """Whether sizes are the real ones; a rehearsal's are small."""
        self.ends = time.monotonic() + 60 * args.minutes
        self.share = 60 * args.minutes
        self.report: dict[str, Any] = {}
        self.scratch = args.scratch
        if not self.full:
            material.BASE.update(SMALL)
        use_whole_float32()
        self.rates = rates_of(self.device)
        self.report["machine"] = machine(self.device, self.rates)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def step(self, name: str, share: float) -> bool:
        """Run a step for at most its share of all minutes; returns whether nothing failed."""
        seconds = min(share * self.share, self.left)
        found: dict[str, Any] = {"status": "no time was left", "rows": []}
        self.report[name] = found
        if seconds < 2:
            write_json(self.out / "gpu.json", self.report)
            return True
        started = time.monotonic()
        signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            STEPS[name][0](self, found["rows"])
            found["status"] = "passed" if all(row.get("passed", True) for row in found["rows"]) else "FAILED"
        except OutOfTime:
            found["status"] = "cut by its share of the minutes"
        except Exception as error:  # the other steps are still worth having
            traceback.print_exc()
            found["status"] = f"FAILED: {type(error).__name__}: {str(error)[:300]}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        found["seconds"] = time.monotonic() - started
        write_json(self.out / "gpu.json", self.report)
        print(f"\n{name}: {found['status']}, {found['seconds']:.1f} s\n", flush=True)
        if found["rows"]:
            print(tabulate(found["rows"], headers="keys", tablefmt="github", floatfmt=".4g"), flush=True)
        if self.full:
            torch.cuda.empty_cache()
        return "FAILED" not in found["status"]


def _stop(*_: object) -> None:
    raise OutOfTime


# Equality


def equality(run: Run, rows: list[Row]) -> None:
    """Losses, gradients and outputs of each way to compute an update, against the CPU's plain float32."""
    for name, geometry in BASES.items():
        values = dict(geometry) | ({} if run.full else SMALL_WHISPER if name == "whisper" else SMALL)
        upstream = build_upstream(config_from(str(values.pop("model_type")), values, name))
        last = (upstream.total_layers,)
        torch.manual_seed(0)
        model = MultiTaskModel(upstream, HeadSettings(last, last), 4, 32, 10).eval()
        plain = _computed(model, torch.device("cpu"), "padded", False)
        ways = [(layout, bf16) for bf16 in (False, True) for layout in ("padded", "packed")]
        ways = ways if has_bf16(run.device) else ways[:2]
        for layout, bf16 in [*ways, ("graphs", True)] if run.full else ways:
            if layout != "padded" and not upstream.packable:
                continue
            precision = "bf16" if bf16 else "float32"
            found = _computed(model, run.device, layout, bf16)
            apart = {part: _apart(found[part], plain[part]) for part in plain}
            row = {"upstream": name, "layout": layout, "precision": precision}
            rows.append(row | apart | {"passed": max(apart.values()) < NEAR[precision]})
        model.to("cpu")


def _computed(model: MultiTaskModel, device: torch.device, layout: str, bf16: bool) -> dict[str, list[torch.Tensor]]:
    model.to(device).zero_grad(set_to_none=True)
    model.bf16 = bf16
    model.upstream.lay_out("packed" if layout == "graphs" else layout, device)
    batch = _batch(model).to(device)
    if layout == "graphs":
        use_graphs(model, device)
        model.upstream.train()
        # The graphs are captured with other audio.
        other = replace(batch, inputs=batch.inputs.flip(1))
        total_loss(task_losses(model(other, -0.1), other), 0.1).backward()
        model.zero_grad(set_to_none=True)
    output = model(batch, -0.1)
    losses = task_losses(output, batch)
    total_loss(losses, 0.1).backward()
    assert output.tokens_BTV is not None
    own = [tokens[:frames] for tokens, frames in zip(output.tokens_BTV, output.frames_B.tolist(), strict=True)]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    parts = {
        "losses": list(losses.values()),
        "outputs": [output.emotion_BC, output.speaker_BS, output.vector_BM, *own],
        "gradients": gradients,
    }
    return {name: [value.detach().cpu().double() for value in values] for name, values in parts.items()}


def _batch(model: MultiTaskModel) -> Batch:
    random, seconds = np.random.default_rng(0), (2.5, 1.0, 1.7)
    lengths = [round(16000 * duration) for duration in seconds]
    wav_BS = torch.zeros(3, max(lengths))
    for row, length in zip(wav_BS, lengths, strict=True):
        row[:length] = torch.from_numpy(random.standard_normal(length, dtype=np.float32))
    tokens_BN = torch.from_numpy(random.integers(4, 32, (3, 12)))
    frames_B = torch.tensor([model.upstream.geometry.frames(length) for length in lengths])
    targets = torch.tensor([0, 3, 1]), torch.tensor([7, 0, 9]), tokens_BN, torch.tensor([12, 5, 9])
    return Batch(["a", "b", "c"], wav_BS, torch.tensor(lengths), *targets, frames_B=frames_B)


def _apart(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Norm of the difference over the norm."""
    difference = sum(float((a - b).square().sum()) for a, b in zip(ours, theirs, strict=True))
    return (difference / sum(float(b.square().sum()) for b in theirs)) ** 0.5


def bits(run: Run, rows: list[Row]) -> None:
    """With ``deterministic: true``, two trainings and one that was stopped give the same bits."""
    corpus = make_small_corpus(run.scratch / "bits")
    config = corpus.config("raw", epochs=3, batch_size=4, deterministic=True, save_minutes=0.0)

    def train(name: str) -> str:
        words = ["--config", config, *corpus.arguments(run.scratch / "bits" / name), "--ngpu", int(run.full)]
        assert run_program(train_program.main, *words) == 0
        return sha256(run.scratch / "bits" / name / "s0" / "model.safetensors")

    first, second = train("first"), train("second")
    rows.append({"check": "the same command twice", "passed": first == second})
    update, left = Trainer.update, [6]

    def stop(trainer: Trainer, *words: Any) -> None:
        update(trainer, *words)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    Trainer.update = stop  # type: ignore[method-assign]
    try:
        train("third")
    except KeyboardInterrupt:
        pass
    finally:
        Trainer.update = update  # type: ignore[method-assign]
    rows.append({"check": "stopped after 6 updates, and gone on", "passed": train("third") == first})
    if run.full:
        torch.use_deterministic_algorithms(True)
        whole = _graphed_updates(run, range(6), False)
        _graphed_updates(run, range(3), True)
        same = _graphed_updates(run, range(3, 6), False) == whole
        rows.append({"check": "cuda_graphs: stopped after 3 updates, and gone on", "passed": same})
    torch.use_deterministic_algorithms(False)


def _graphed_updates(run: Run, numbers: range, keep: bool) -> str:
    """Digest of a base model's weights after some updates, the first of which begins at the newest checkpoint."""
    torch.manual_seed(0)
    trainer = _fold_trainer(run, 64)
    use_graphs(trainer.model, run.device)
    trainer.model.train()
    train = trainer.sets.train
    for number in numbers:
        trainer.update(number, [train.collate([train[index] for index in range(8 * number, 8 * number + 8)])])
    if keep:
        trainer.save()
    weights = torch.cat([parameter.detach().flatten() for parameter in trainer.parameters]).cpu().numpy()
    return hashlib.sha256(weights.tobytes()).hexdigest()


# Speed


def bench(run: Run, rows: list[Row]) -> None:
    """The benchmark's rows, with as many rounds as fit."""
    _bench(run, rows, choose_rows([], not run.full, run.device), 200 if run.full else 1, 0.8 * STEPS["bench"][1])


def _bench(run: Run, rows: list[Row], names: list[str], rounds: int, share: float) -> None:
    directory = run.scratch / f"bench{len(rows)}{len(names)}"
    directory.mkdir()
    size = 8 if run.full else 2
    bench_rows = Rows(directory, run.device, rounds + 1, size)
    report = updates_and_decoding(bench_rows, names, run.rates, rounds, share * run.share)
    for row in report["rows"]:
        del row["seconds"]
        rows.append(row | {"rounds": report["rounds"]})
    rows += report["decoding"]


def reads(run: Run, rows: list[Row]) -> None:
    """Where an update waits for the device, as PyTorch names the lines; and where its time goes, in files."""
    if not run.full:
        return
    trainer = _fold_trainer(run, 5024)
    train = trainer.sets.train

    def updates(count: int) -> None:
        for number in range(count):
            batch = train.collate([train[index] for index in range(8 * number, 8 * number + 8)])
            trainer.update(number, [batch.pin_memory()])

    updates(100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        updates(1)
        torch.cuda.set_sync_debug_mode("default")
    lines = [warning for warning in caught if "called a synchronizing" in str(warning.message)]
    found = Counter(f"{Path(warning.filename).name}:{warning.lineno}" for warning in lines)
    rows += [{"line that waits": where, "times an update": count} for where, count in found.items()]
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        updates(5)
        torch.cuda.synchronize()
    for key in ("self_cuda_time_total", "self_cpu_time_total"):
        text = profile.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=60)
        (run.out / f"profile_{key}.txt").write_text(text, encoding="utf-8")


def epoch(run: Run, rows: list[Row]) -> None:
    """An epoch of the real trainer over utterances of IEMOCAP's lengths, and the paper's run at that speed."""
    trainer = _fold_trainer(run, 5024 if run.full else 16)
    whole = len(trainer.sets.train) // 8
    for layout in ("packed", "graphs", "padded") if run.full else ("packed", "padded"):
        if layout == "graphs":
            use_graphs(trainer.model, run.device)
        else:
            trainer.model.upstream.lay_out(layout, run.device)
        # With graphs a whole epoch before the one that is timed: sizes are captured in it.
        before = (whole if layout == "graphs" else 20) if run.full else 1
        for number, updates in enumerate((before, whole // 2 if layout == "padded" and run.full else whole)):
            trainer.epoch, trainer.batch, trainer.epoch_updates = number, 0, updates
            started = time.perf_counter()
            averages = trainer.train_epoch()
            if run.full:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started
        each = seconds / updates
        rows.append({"layout": layout, "updates": updates, "seconds": seconds, "ms an update": 1000 * each})
        rows[-1] |= {"paper's run, minutes": each * PAPER_UPDATES / 60, "loss": averages["loss"]}
        rows[-1]["passed"] = bool(np.isfinite(averages["loss"]))


def _fold_trainer(run: Run, utterances: int) -> Trainer:
    """A trainer over stored outputs of the front of a base model."""
    directory = run.scratch / f"epoch{utterances}"
    upstream = build_upstream(config_from("wav2vec2", dict(material.BASE), "base"))
    if not (directory / "fold").is_dir():
        directory.mkdir()
        random = np.random.default_rng(0)
        seconds, entries = material.draw_seconds(min(utterances, 640), random), []
        with write_ark(directory / "stored.ark") as writer:
            for number, duration in enumerate(seconds):
                frames = upstream.geometry.frames(round(16000 * duration))
                frames_TC = np.abs(random.standard_normal((frames, upstream.front_size), dtype=np.float32))
                writer.write_array(f"u{number}", frames_TC)
                entries.append((writer.scp[f"u{number}"], frames, checksum(frames_TC)))
        seconds = np.tile(seconds, -(-utterances // len(seconds)))[:utterances]
        epochs.write_fold(directory, seconds, entries)
    workers = 4 if run.full else 0
    config = load_config(TrainConfig, SHIPPED, [*FAST, f"num_workers={workers}"])
    data, lists, dump, tokens = (directory / name for name in ("data", "fold", "dump", "tokens"))
    fold = load_fold(data, lists, dump, tokens, config, "stored/bench")
    trained = build(config, fold, upstream)
    trained.model.bf16 = has_bf16(run.device)
    trained.model.upstream.lay_out("auto", run.device)
    train = FoldDataset(fold.examples["train"], trained.front_end, config, upstream.masking)
    return Trainer(trained, replace(config, epochs=100), Sets(train, {}, {}), directory, run.device)


def side_by_side(run: Run, rows: list[Row]) -> None:
    """Updates a second of several trainings on the device at the same time."""
    _fold_trainer(run, 5024 if run.full else 16)
    settings = [("packed", 1), ("packed", 2), ("packed", 4)]
    settings += [("graphs", 1), ("graphs", 4), ("graphs", 10)] if run.full else []
    for layout, jobs in settings:
        folder = run.scratch / f"{layout}{jobs}"
        folder.mkdir()
        words = [sys.executable, __file__, "--one_of", f"{jobs}:{folder}", "--device", run.device.type]
        programs = [subprocess.Popen([*words, "--scratch", run.scratch]) for _ in range(jobs)]
        try:
            assert [program.wait() for program in programs] == [0] * jobs
        finally:
            for program in programs:
                program.kill()
        seconds = [json.loads(path.read_text()) for path in folder.glob("*.json")]
        updates = seconds[0]["updates"]
        rows.append(
            {
                "layout": layout,
                "trainings at once": jobs,
                "updates a second": jobs * updates / max(s["seconds"] for s in seconds),
            }
        )


def one_of(run: Run, jobs: int, folder: Path) -> None:
    """One of the trainings: it is ready, waits for the others, and times its updates."""
    trainer = _fold_trainer(run, 5024 if run.full else 16)
    if folder.name.startswith("graphs"):
        use_graphs(trainer.model, run.device)
    for updates in (100, 200) if run.full else (1, 2):
        trainer.batch, trainer.epoch_updates = 0, updates
        (folder / f"{os.getpid()}.ready{updates}").touch()
        while len(list(folder.glob(f"*.ready{updates}"))) < jobs:
            time.sleep(0.05)
        started = time.perf_counter()
        trainer.train_epoch()
        if run.full:
            torch.cuda.synchronize()
    write_json(folder / f"{os.getpid()}.json", {"updates": updates, "seconds": time.perf_counter() - started})


def nccl(run: Run, rows: list[Row]) -> None:
    """The exchange between processes, with one of them (gloo on a CPU)."""
    backend = "nccl" if run.full else "gloo"
    store = torch.distributed.FileStore(str(run.scratch / "store"), 1)
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    values = torch.arange(4, dtype=torch.float64, device=run.device)
    torch.distributed.all_reduce(values)
    torch.distributed.destroy_process_group()
    rows.append({"backend": backend, "passed": values.tolist() == [0, 1, 2, 3]})


def prediction(run: Run, rows: list[Row]) -> None:
    """Prediction of recordings of 5 s, in batches."""
    trained = build_model(run.device)
    model = Speech2Emotion([trained], run.device)
    count = 200 if run.full else 2
    random = np.random.default_rng(0)
    wavs = [random.standard_normal(80_000).astype(np.float32) * 0.1 for _ in range(count)]
    model(wavs[:2], 16000)
    started = time.perf_counter()
    results = model(wavs, 16000)
    seconds = time.perf_counter() - started
    rows.append(
        {"recordings": count, "audio_s": 5 * count, "seconds": seconds, "real_time_factor": seconds / 5 / count}
    )
    rows[-1]["passed"] = len(results) == count


# The recipe


def frozen(run: Run, rows: list[Row]) -> None:
    """``conf/frozen.yaml`` with a base model's geometry, all stages: 5,531 utterances of 4.5 s of ten speakers."""
    import soundfile

    corpus, model = run.scratch / "frozen", run.scratch / "base"
    count, seconds = (5531, 4.5) if run.full else (120, 0.5)
    build_model(torch.device("cpu")).model.upstream.model.save_pretrained(model)
    write_json(model / "preprocessor_config.json", {"do_normalize": False})
    corpus.mkdir()
    random, tables = np.random.default_rng(0), {name: [] for name in ("wav.scp", "segments", "utt2spk", "utt2emo")}
    for s in range(10):
        own = count // 10 + (s < count % 10)
        wav_S = (3000 * random.standard_normal(round(own * seconds * 16000))).clip(-32000, 32000).astype(np.int16)
        soundfile.write(corpus / f"s{s}.wav", wav_S, 16000)
        tables["wav.scp"].append(f"s{s} {corpus}/s{s}.wav")
        for n in range(own):
            utt = f"s{s}-{n:04d}"
            tables["segments"].append(f"{utt} s{s} {n * seconds:.2f} {(n + 1) * seconds:.2f}")
            tables["utt2spk"].append(f"{utt} s{s}")
            tables["utt2emo"].append(f"{utt} {'ang hap neu sad'.split()[n % 4]}")
    for name, lines in tables.items():
        (corpus / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    words = f"--corpus kaldi --corpus_dir {corpus} --train_config conf/frozen.yaml --upstream {model} --folds all"
    _recipe(run, rows, "frozen", words)


def mini(run: Run, rows: list[Row]) -> None:
    """The recipe's default."""
    _recipe(run, rows, "mini", "")


def _recipe(run: Run, rows: list[Row], name: str, words: str) -> None:
    at = run.scratch / f"recipe_{name}"
    places = f"--datadir {at}/data --dumpdir {at}/dump --expdir {at}/exp --ngpu {int(run.full)}"
    log = run.out / f"{name}.log"
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        command = ["./run.sh", *shlex.split(words), *shlex.split(places)]
        program = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = program.wait()
        finally:
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGTERM)
                program.wait()
            lines = log.read_text(encoding="utf-8").splitlines()
            stages = [line.split("stage ")[1] for line in lines if ":finish) stage" in line]
            rows.append({"run": name, "seconds": time.monotonic() - started, "stages": ", ".join(stages)})
    rows[-1]["passed"] = status == 0


STEPS: dict[str, tuple[Callable[[Run, list[Row]], None], float]] = {
    "equality": (equality, 0.3),
    "bits": (bits, 0.2),
    "epoch": (epoch, 0.2),
    "bench": (bench, 0.25),
    "reads": (reads, 0.1),
    "nccl": (nccl, 0.1),
    "prediction": (prediction, 0.1),
    "frozen": (frozen, 0.4),
    "side_by_side": (side_by_side, 0.25),
    "mini": (mini, 0.3),
}


def main() -> int:
    """Run the steps."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=8.0, help="after which it ends (default: 8)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a rehearsal in small")
    parser.add_argument("--out", type=Path, default=Path("exp/gpu"), help="folder of the results (default: exp/gpu)")
    parser.add_argument("--steps", type=str.split, default=list(STEPS), help="those to run (default: all)")
    parser.add_argument("--one_of", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.steps) - set(STEPS):
        parser.error(f"--steps: no step {' '.join(sorted(unknown))}; there are {' '.join(STEPS)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; --device cpu is a rehearsal")
    torch.set_num_threads(min(8, len(os.sched_getaffinity(0))))
    args.out.mkdir(parents=True, exist_ok=True)
    if args.one_of:
        jobs, folder = args.one_of.split(":", 1)
        one_of(Run(args), int(jobs), Path(folder))
        return 0
    with tempfile.TemporaryDirectory(prefix="sermtl-gpu-") as name:
        args.scratch = Path(name)
        return steps(Run(args), args.steps)


def steps(run: Run, names: list[str]) -> int:
    """Run the steps that are named."""
    print("  ".join(f"{key} {value}" for key, value in run.report["machine"].items()), flush=True)
    passed = [run.step(name, STEPS[name][1]) for name in STEPS if name in names]
    print(f"\n{run.out}/gpu.json has all of it", flush=True)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
