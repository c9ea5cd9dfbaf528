"""Faults done to real runs of run.sh: kills at random instants, full and read-only disks, damaged files, moves.

    python tests/helpers/faults.py                         a hundred kills and every other fault once
    python tests/helpers/faults.py --seed 3                the same at other instants
    python tests/helpers/faults.py --only kill --kills 10

A run of `mini` with two epochs goes through stages 1 to 6 undisturbed; what each stage leaves is kept. Each fault is
then done to a copy: it must end with the same files after a rerun, bit for bit (dates and seconds apart), or
with a clear message and nothing lost. The last lines are a table; the exit status is 1 where anything else happened.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAGES = range(1, 7)
PLACE = {1: "data", 2: "dump", 3: "exp", 4: "exp", 5: "exp", 6: "exp"}
"""Where a stage writes."""
LIMIT = 600
"""Seconds after which a run counts as hanging."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
KILLED = (1, 2, 3, 5, 2, 4, 5, 6, 1, 2, 5)
"""Stages, as they take turns: those that start in a moment get more kills than those that load a large library first.
Their number and that of the signals have no common divisor, so that every stage meets every signal."""
STOPPED = 75
"""Exit status of run.sh after a training that SIGTERM stopped, and that saved."""
MARK = "SERMTL_FAULTS"
DATES = re.compile(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?|(Sun|Mon|Tue|Wed|Thu|Fri|Sat) [A-Z][a-z]{2} .{8,20} \d{4}")
UNCOMPARED = re.compile(
    r"(^|/)(log|q|tensorboard|local)/|\.lock$|stamp\.json$|parts/\d+\.json$|train\.log$|\.owner$|checkpoint\.|\.damaged$"
)
"""Not compared: logs; stamps, which hold the times of files; checkpoints, which hold seconds (what is resumed from them
is compared); the source files of the corpus (what is made of them is compared)."""
SAID = re.compile(
    r"(?m)^\s*error: |\(stages\.sh:\d+:(check_options|select_folds|require_file|require_current)\) "
    r"|^(bash|mkdir|mv|touch|cp|utils/\S+|\./run\.sh)\b.*(No space left|Read-only|Permission denied)"
    r"|cannot start: |: no such file$|cannot make the lock |interrupted by SIG"
    r"|another (run\.sh|process) works on |run stage \d again:|after saving \(status 75\)"
)
"""What a person is told: a program's own message, or the system's about a file that the shell names."""


@dataclass
class Ended:
    """How a run ended."""

    status: int
    out: str
    seconds: float
    hung: bool = False

    @property
    def clear(self) -> bool:
        """It failed, and said why in words: a line that is no part of a traceback."""
        return self.status != 0 and bool(SAID.search(self.out)) and not self.hung and not self.bare

    @property
    def bare(self) -> bool:
        """A Python traceback ended in an exception of this program's own code without an `error:` line."""
        return "Traceback (most recent call last)" in self.out and not re.search(r"(?m)^\s*error: ", self.out)


@dataclass
class Found:
    """The table: what was done, and what came of it."""

    counts: dict[tuple[str, str], collections.Counter[str]] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)

    def add(self, kind: str, stage: object, outcome: str, detail: str = "") -> None:
        """Count one fault; anything but the good outcomes is kept with its detail."""
        self.counts.setdefault((kind, str(stage)), collections.Counter())[outcome] += 1
        if outcome not in ("same result", "told, then same result", "nothing to disturb"):
            self.bad.append(f"{kind}, stage {stage}: {outcome}\n{detail}")
        print(f"{time.strftime('%H:%M:%S')} {kind}, stage {stage}: {outcome}", flush=True)

    def table(self) -> str:
        """As Markdown."""
        outcomes = sorted({name for counts in self.counts.values() for name in counts})
        lines = ["| fault | stage | " + " | ".join(outcomes) + " |", "|---" * (len(outcomes) + 2) + "|"]
        for (kind, stage), counts in sorted(self.counts.items()):
            lines.append(f"| {kind} | {stage} | " + " | ".join(str(counts[name] or "") for name in outcomes) + " |")
        return "\n".join(lines)


class Recipe:
    """A copy of the recipe's three folders, runs in it, and the undisturbed state after each stage."""

    def __init__(self, base: Path, epochs: int = 2):
        self.base, self.here, self.epochs = base, base / "work", epochs
        self.seconds: dict[int, float] = {}
        self.mark = f"{os.getpid()}.{time.time()}"

    def words(self, first: int, last: int, here: Path | None = None, train_args: str = "") -> list[str]:
        """The command line of some stages."""
        folders = [w for name in ("data", "dump", "exp") for w in (f"--{name}dir", str((here or self.here) / name))]
        args = f"--set upstream=tiny feats_type=raw epochs={self.epochs} num_workers=0 {train_args}".rstrip()
        machine = ["--nj", "2", "--num_threads", "1", "--ngpu", "0", "--tag", "T", "--train_args", args]
        return ["./run.sh", "--stage", str(first), "--stop_stage", str(last), *folders, *machine]

    def start(self, words: list[str]) -> subprocess.Popen[str]:
        """Start run.sh; all that it starts can be found by its environment."""
        python = os.environ.get("SERMTL_PYTHON") or sys.executable
        env = os.environ | {MARK: self.mark, "SERMTL_PYTHON": python, "LC_ALL": "C"}
        log = open(self.base / "run.log", "w", encoding="utf-8")  # noqa: SIM115
        return subprocess.Popen(words, cwd=ROOT, env=env, stdout=log, stderr=log, text=True, start_new_session=True)

    def wait(self, process: subprocess.Popen[str], begun: float) -> Ended:
        """Wait for the end; what takes longer than the limit is killed."""
        hung = False
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            hung = True
            self.kill_all(signal.SIGKILL)
            process.wait()
        said = (self.base / "run.log").read_text(encoding="utf-8", errors="replace")
        return Ended(process.returncode, said, time.monotonic() - begun, hung)

    def run(self, first: int, last: int, **options: object) -> Ended:
        """Run stages to their end."""
        begun = time.monotonic()
        return self.wait(self.start(self.words(first, last, **options)), begun)  # type: ignore[arg-type]

    def members(self) -> list[int]:
        """Processes of a run that is under way, also those that are nobody's children any more."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    if (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                        found.append(int(entry.name))
        return found

    def kill_all(self, number: int) -> None:
        """Signal every process of a run."""
        for pid in self.members():
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    def settle(self) -> bool:
        """Wait until no process is left, as a person would who was told that one works; whether that came about."""
        deadline = time.monotonic() + LIMIT
        while self.members():
            if time.monotonic() > deadline:
                self.kill_all(signal.SIGKILL)
                return False
            time.sleep(0.2)
        return True

    def undisturbed(self) -> None:
        """Run each stage and keep what it leaves."""
        (self.base / "state0").mkdir()
        for stage in STAGES:
            ended = self.run(stage, stage)
            if ended.status:
                raise SystemExit(f"the undisturbed run failed:\n{ended.out}")
            self.seconds[stage] = ended.seconds
            shutil.copytree(self.here, self.base / f"state{stage}", symlinks=True)

    def restore(self, stage: int) -> None:
        """Make everything as it is after a stage."""
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(self.base / f"state{stage}", self.here, symlinks=True)

    def differences(self, stage: int, here: Path | None = None) -> list[str]:
        """Files that are not as the undisturbed stage left them, or that should not be there."""
        mine, theirs = digests(here or self.here), digests(self.base / f"state{stage}")
        return sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))


def digests(folder: Path) -> dict[str, str]:
    """Digest of each file that is compared, without dates and seconds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not UNCOMPARED.search(name):
            content = path.read_bytes()
            if path.name == "history.jsonl":
                records = [json.loads(line) for line in content.splitlines()]
                content = json.dumps([record | {"seconds": 0} for record in records]).encode()
            elif path.name == "config.yaml":
                content = re.sub(rb"(?m)^num_workers: .*\n", b"", content)  # a killed run's may be another
            elif path.suffix in (".md", ".html", ".json"):
                content = DATES.sub(b"", content)
            found[name] = hashlib.sha256(content).hexdigest()
    return found


def check(
    recipe: Recipe, found: Found, kind: str, stage: int, told: bool, ended: Ended | None = None, times: int = 1
) -> None:
    """Rerun a stage, compare, and count so many faults."""
    again = recipe.run(stage, stage)
    if again.status and recipe.members():
        # A job that its run.sh did not survive still works; the message says so.
        told = "another process works on" in again.out or "error: " in again.out
        if not recipe.settle():
            return found.add(kind, stage, "a process stays", again.out)
        again = recipe.run(stage, stage)
    if again.status and (named := re.search(r"run stage (\d) again", again.out)):
        told, again = True, recipe.run(int(named[1]), stage)
    different = recipe.differences(stage)[:20]
    outcome = "told, then same result" if told else "same result"
    if again.status or different:
        outcome = "the rerun fails" if again.status else "ANOTHER RESULT"
    if again.hung or (ended and ended.hung):
        outcome = "HANGS"
    for _ in range(times):
        found.add(kind, stage, outcome, f"{different}\n{ended.out if ended else ''}\n--- again:\n{again.out}")


def dealt(number: int) -> tuple[int, int]:
    """Stage and signal of a sequence of kills."""
    return KILLED[number % len(KILLED)], SIGNALS[number % len(SIGNALS)]


def kill(recipe: Recipe, found: Found, stage: int, number: int, rng: random.Random, times: int = 3) -> int:
    """Kill a stage up to some times on end, then let it finish; gives the number of kills."""
    recipe.restore(stage - 1)
    name, kills, sooner = signal.Signals(number).name, 0, 1.0
    while kills < times:
        begun = time.monotonic()
        loaders = f"num_workers={rng.choice((0, 2))}"
        process = recipe.start(recipe.words(stage, stage, train_args=loaders))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.02, 1.0) * recipe.seconds[stage] * sooner)
        members = recipe.members()
        if not members and kills:
            break
        if not members:  # faster than when the undisturbed run was measured, beside other work
            recipe.restore(stage - 1)
            sooner /= 2
            continue
        kills += 1
        everybody = rng.random() < 0.6
        for pid in members if everybody else [rng.choice(members)]:
            with contextlib.suppress(OSError):
                os.kill(pid, number)
        if number == signal.SIGSTOP:
            time.sleep(rng.uniform(0.2, 1.5))
            recipe.kill_all(rng.choice((signal.SIGCONT, signal.SIGKILL)))
        ended = recipe.wait(process, begun)
        if number == signal.SIGKILL and everybody:
            recipe.kill_all(signal.SIGKILL)  # what was being started meanwhile: a machine that stops leaves none
        # Only a training that was asked saves and says so.
        false = ended.status == STOPPED and not (number == signal.SIGTERM and stage == 3 and ended.clear)
        if ended.hung or ended.bare or false:
            outcome = "HANGS" if ended.hung else "only a traceback" if ended.bare else f"ends with {STOPPED}"
            found.add(f"{name}", stage, outcome, ended.out)
            recipe.kill_all(signal.SIGKILL)
            return kills
    if kills:
        check(recipe, found, name, stage, False, times=kills)
    return kills


@contextlib.contextmanager
def small_disk(recipe: Recipe, stage: int, room: int) -> Iterator[Path]:
    """Put the folder where a stage writes on a disk with so many bytes left."""
    place = recipe.here / PLACE[stage]
    kept = recipe.base / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    place.rename(kept)
    place.mkdir()
    # A tmpfs counts whole pages, and a page more for some of its folders.
    used = sum(-(-path.stat().st_size // 4096) * 4096 + 4096 for path in kept.rglob("*"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={used + room}", "faults", place], check=True)
    try:
        shutil.copytree(kept, place, symlinks=True, dirs_exist_ok=True)
        yield place
    finally:
        recipe.kill_all(signal.SIGKILL)
        subprocess.run(["umount", "-l", place], check=True)


def mountable() -> bool:
    """Whether this user may mount."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "faults", folder], capture_output=True)
        return done.returncode == 0 and subprocess.run(["umount", folder]).returncode == 0


def full_disk(recipe: Recipe, found: Found, stage: int, rng: random.Random) -> None:
    """A stage runs out of space, then has enough."""
    recipe.restore(stage - 1)
    size = lambda n: sum(p.stat().st_size for p in (recipe.base / f"state{n}" / PLACE[stage]).rglob("*"))  # noqa: E731
    grows = max(0, size(stage) - size(stage - 1))
    room = int(rng.uniform(0.0, 0.7) * grows) if grows > 1 << 17 else 0
    with small_disk(recipe, stage, room) as place:
        filler = place / "filler"
        filler.write_bytes(b"\0" * max(0, shutil.disk_usage(place).free - room))
        ended = recipe.run(stage, stage)
        subprocess.run(["mount", "-o", "remount,size=2g", place], check=True)
        filler.unlink()
        if not ended.status:
            found.add("full disk", stage, "nothing to disturb")
            return
        told_of("full disk", recipe, found, stage, ended)


def read_only(recipe: Recipe, found: Found, stage: int, rng: random.Random) -> None:
    """A stage may not write, then may."""
    recipe.restore(stage - 1)
    with small_disk(recipe, stage, 1 << 30) as place:
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        ended = recipe.run(stage, stage)
        subprocess.run(["mount", "-o", "remount,rw", place], check=True)
        told_of("read-only folder", recipe, found, stage, ended)


def told_of(kind: str, recipe: Recipe, found: Found, stage: int, ended: Ended) -> None:
    """A run that failed must have said why; then the rerun is checked."""
    if ended.status and not ended.clear:
        found.add(kind, stage, "no clear message", ended.out)
    else:
        check(recipe, found, kind, stage, ended.status != 0, ended)


DAMAGES = ("truncate", "empty", "flip", "remove")


def spoil(path: Path, damage: str, rng: random.Random) -> None:
    """Cut a file off, leave nothing in it, turn one bit, or take it away."""
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    else:
        os.truncate(path, 0 if damage == "empty" else rng.randrange(max(1, len(content))))


FILES = {
    1: ("data/mini/wav.scp", "data/mini/text", "data/mini/utt2emo", "data/mini/utt2spk", "data/mini/stamp.json",
        "data/mini/folds/speaker/01F/train", "data/mini/folds/speaker/01F/test", "data/mini/folds/speaker/folds",
        "data/mini/folds/speaker/01F/audit.json", "data/mini/folds/speaker/stamp.json"),
    2: ("dump/mini/raw/parts/1.ark", "dump/mini/raw/parts/1.scp", "dump/mini/raw/parts/2.json", "dump/mini/raw/wav.scp",
        "dump/mini/raw/utt2num_samples", "dump/mini/raw/utt2digest", "dump/mini/raw/stamp.json",
        "dump/mini/tokens/speaker/01F/tokens.txt"),
    3: ("exp/T/01F/model.safetensors", "exp/T/01F/model.json", "exp/T/01F/history.jsonl", "exp/T/01F/config.yaml",
        "exp/T/01F/stamp.json", "exp/T/01F/tokens/tokens.txt", "exp/T/01F/checkpoint.prev.pth", "exp/T/labels.txt"),
    4: ("exp/T/01F/decode_test/emo_post", "exp/T/01F/decode_test/utt2emo", "exp/T/01F/decode_test/text",
        "exp/T/01F/decode_test/utt2spk", "exp/T/01F/decode_test/emb.ark", "exp/T/01F/decode_test/emb.scp",
        "exp/T/01F/decode_test/stamp.json"),
    5: ("exp/T/01F/score_test/scores.json", "exp/T/01F/score_test/per_utt.tsv", "exp/T/01F/score_test/stamp.json",
        "exp/T/scores.json"),
    6: ("exp/report/mini/index.html", "exp/report/mini/results.json", "exp/report/mini/stamp.json"),
}  # fmt: skip
"""What is damaged, by the stage that made it."""


def damaged_file(recipe: Recipe, found: Found, stage: int, name: str, damage: str, rng: random.Random) -> None:
    """Damage a stage's output; the next stage must refuse it or be right; the stage itself must make it again."""
    recipe.restore(stage)
    spoil(recipe.here / name, damage, rng)
    kind = f"{name.rpartition('/')[2]}: {damage}"
    ended = recipe.run(stage + 1, stage + 1) if stage < 6 else Ended(0, "", 0)
    if ended.status and not ended.clear:
        found.add(kind, stage, "no clear message", ended.out)
    elif not ended.status and stage < 6 and (wrong := [n for n in recipe.differences(stage + 1) if n != name]):
        found.add(kind, stage, "A WRONG RESULT", f"{wrong[:10]}\n{ended.out}")
    else:
        recipe.restore(stage)
        spoil(recipe.here / name, damage, rng)
        check(recipe, found, kind, stage, ended.status != 0, ended)


def damaged_checkpoint(recipe: Recipe, found: Found, damage: str, rng: random.Random) -> None:
    """A training that stopped after its first epoch finds its checkpoint damaged; the one before is taken, or none."""
    recipe.restore(2)
    process, begun = recipe.start(recipe.words(3, 3)), time.monotonic()
    exp = recipe.here / "exp/T/01F"
    while not (exp / "checkpoint.pth").exists() and process.poll() is None and time.monotonic() - begun < LIMIT:
        time.sleep(0.05)
    recipe.kill_all(signal.SIGKILL)
    recipe.wait(process, begun)
    spoil(exp / "checkpoint.pth", damage, rng)
    kind = f"checkpoint.pth: {damage}"
    ended = recipe.run(3, 3)
    if ended.status and ended.clear and "remove" in ended.out:
        shutil.rmtree(exp)  # as the message says: there was only this one
    told_of(kind, recipe, found, 3, ended)


def dead_loader(recipe: Recipe, found: Found, rng: random.Random) -> None:
    """A process that loads data dies."""
    recipe.restore(2)
    process, begun = recipe.start(recipe.words(3, 3, train_args="num_workers=1")), time.monotonic()
    loader = None
    while loader is None and process.poll() is None and time.monotonic() - begun < LIMIT:
        parents = {}
        for pid in recipe.members():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:3] == [b"-m", b"sermtl.bin.train"]:
                    parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        loader = next((pid for pid, parent in parents.items() if parent in parents), None)
        time.sleep(0.02)
    if loader is None:
        recipe.wait(process, begun)
        found.add("dead loader process", 3, "not reached", "")
        return
    os.kill(loader, signal.SIGKILL)
    told_of("dead loader process", recipe, found, 3, recipe.wait(process, begun))


def other_clock(recipe: Recipe, found: Found, stage: int, rng: random.Random) -> None:
    """All files are of another time, as after a clock was set: a day to come, or fifty years ago."""
    recipe.restore(stage)
    moment = rng.choice((time.time() + 86400, 5e7))
    for path in recipe.here.rglob("*"):
        os.utime(path, (moment, moment))
    check(recipe, found, "clock set", stage, False)
    if stage < 6:
        check(recipe, found, "clock set", stage + 1, False)


def moved(recipe: Recipe, found: Found, stage: int, rng: random.Random) -> None:
    """All folders stand elsewhere."""
    recipe.restore(stage)
    there = recipe.base / "moved elsewhere"
    shutil.rmtree(there, ignore_errors=True)
    recipe.here.rename(there)
    ended, told = recipe.run(stage + 1, stage + 1, here=there), False
    if ended.clear:
        told, ended = True, recipe.run(1, stage + 1, here=there)
    # Tables name files by their paths, which are others now.
    own = re.compile(r"wav\.scp$|\.scp$|manifest|dropped\.tsv$|audit|report/|config\.yaml$")
    wrong = [name for name in recipe.differences(stage + 1, there) if not own.search(name)]
    outcome = "ANOTHER RESULT" if wrong else "told, then same result" if told else "same result"
    outcome = "the rerun fails" if ended.status else outcome
    found.add("moved folders", stage, outcome, f"{wrong[:10]}\n{ended.out}")
    shutil.rmtree(there, ignore_errors=True)


def every_fault(recipe: Recipe, found: Found, rng: random.Random, only: set[str]) -> None:
    """Every fault but kills once."""
    if "disk" in only and not mountable():
        print("skipped: disks, for this user may not mount")
    elif "disk" in only:
        for stage in STAGES:
            full_disk(recipe, found, stage, rng)
            read_only(recipe, found, stage, rng)
    if "files" in only:
        for number, (stage, name) in enumerate((made_by, one) for made_by, files in FILES.items() for one in files):
            damaged_file(recipe, found, stage, name, DAMAGES[(number + rng.randrange(4)) % 4], rng)
        for damage in DAMAGES:
            damaged_checkpoint(recipe, found, damage, rng)
    if "rest" in only:
        dead_loader(recipe, found, rng)
        for stage in STAGES:
            other_clock(recipe, found, stage, rng)
        for stage in (1, 2, 3, 4, 5):
            moved(recipe, found, stage, rng)


def main() -> int:
    """Run the faults that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=102, help="at least, over all stages")
    parser.add_argument("--only", nargs="+", default=["kill", "disk", "files", "rest"], metavar="KIND")
    args = parser.parse_args()
    rng, found, begun, killed, number = random.Random(args.seed), Found(), time.monotonic(), 0, 0
    recipe = Recipe(Path(tempfile.mkdtemp(prefix="faults.")))
    try:
        recipe.undisturbed()
        print("undisturbed:", ", ".join(f"stage {n} {s:.1f} s" for n, s in recipe.seconds.items()), flush=True)
        while "kill" in args.only and killed < args.kills:
            killed += kill(recipe, found, *dealt(number), rng)
            number += 1
        every_fault(recipe, found, rng, set(args.only))
    finally:
        recipe.kill_all(signal.SIGKILL)
        shutil.rmtree(recipe.base, ignore_errors=True)
    total, minutes = sum(map(sum, (c.values() for c in found.counts.values()))), (time.monotonic() - begun) / 60
    print(f"\n{found.table()}\n\n{total} faults, {killed} of them kills, in {minutes:.0f} minutes")
    print(*(f"\nBAD: {message}" for message in found.bad))
    return bool(found.bad)


if __name__ == "__main__":
    sys.exit(main())
