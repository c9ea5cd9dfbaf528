"""Who may import whom: the one direction in which data flows, read from the source."""

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sermtl"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
BEFORE_THE_MODEL = {"ark", "audio", "augment", "corpus", "datadir", "dataset", "fold_data", "folds", "sampler", "text"}
AFTER_THE_MODEL = {"checkpoint", "decode", "history", "job", "model_dir", "optim", "tally", "trainer"}
CORPORA = re.compile(r"iemocap|emo-?db|\bses\d\d[fm]|ravdess|crema|meld\b|msp-", re.IGNORECASE)
PAPER = "sermtl.report.paper"
"""The method paper's published numbers, which belong to its corpus, stand here alone."""


def imports_of(path: Path, package: str = "") -> set[str]:
    """Every module that a file's import statements name, inside functions too; sermtl's own with their full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: -node.level + 1 or None] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            # A name may be a module of its own: from sermtl import job.
            below = {f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in FILES}
            found |= below if base == "sermtl" else {base} | below
    return found


DIRECT = {
    name: imports_of(path, name if path.name == "__init__.py" else name.rpartition(".")[0])
    for name, path in FILES.items()
}


def reachable(name: str) -> dict[str, str]:
    """Modules that importing ``name`` imports, through sermtl's own: module -> who imports it."""
    seen: dict[str, str] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        for imported in DIRECT.get(module, ()):
            if imported not in seen:
                seen[imported] = module
                waiting.append(imported)
    return seen


def top(module: str) -> str:
    return module.partition(".")[0]


def modules(*names: str) -> list[str]:
    """Modules of these names and those below them."""
    return [
        module for module in FILES if any(module == f"sermtl.{n}" or module.startswith(f"sermtl.{n}.") for n in names)
    ]


def test_the_walk_sees_what_there_is():
    """The rules below would hold of anything if this saw nothing."""
    assert {"sermtl.trainer", "sermtl.bin.train", "sermtl.report", "sermtl.ark"} <= FILES.keys()
    assert {"sermtl.model", "sermtl.checkpoint", "torch"} <= reachable("sermtl.trainer").keys()
    assert "sermtl.job" in DIRECT["sermtl.bin.train"] and "kaldiio" in reachable("sermtl.bin.decode")
    assert "torchaudio.functional" in DIRECT["sermtl.audio"], "imports inside functions count"


@pytest.mark.parametrize("name", ["model", "grl", "upstream"])
def test_the_model_knows_no_data_no_ark_and_no_trainer(name):
    forbidden = {f"sermtl.{module}" for module in BEFORE_THE_MODEL | AFTER_THE_MODEL} | set(modules("bin"))
    forbidden |= {"kaldiio", "soundfile"}
    found = {module: by for module, by in reachable(f"sermtl.{name}").items() if module in forbidden}
    assert found == {}


@pytest.mark.parametrize("name", modules("metrics", "stats", "report"))
def test_numbers_and_reports_need_no_torch(name):
    heavy = {"torch", "torchaudio", "transformers", "tensorboard"}
    assert {module: by for module, by in reachable(name).items() if top(module) in heavy} == {}


def test_the_package_itself_imports_nothing_when_it_is_imported():
    """Its public names come on first use, so that programs without torch start at once."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {node.module for node in at_once} <= {"__future__", "typing"}


def test_kaldiio_and_transformers_models_have_one_owner():
    users = {name for name, imported in DIRECT.items() if "kaldiio" in map(top, imported)}
    assert users == {"sermtl.ark"}
    # export writes the folders that transformers itself loads, so it cannot do without its classes.
    users = {
        name for name, imported in DIRECT.items() if any(re.match(r"transformers(?!\.utils)", m) for m in imported)
    }
    # bench.published is the step that others run, written with transformers alone.
    assert {"sermtl.upstream"} <= users <= {"sermtl.upstream", "sermtl.export", "sermtl.bench.published"}


def statements(path: Path) -> list[tuple[ast.Import | ast.ImportFrom, ast.AST]]:
    """Import statements, each with the function it stands in (the module where in none)."""
    found: list[tuple[ast.Import | ast.ImportFrom, ast.AST]] = []

    def walk(node: ast.AST, scope: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                found.append((child, scope))
            walk(child, child if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else scope)

    tree = ast.parse(path.read_text(encoding="utf-8"))
    walk(tree, tree)
    return found


def named(node: ast.Import | ast.ImportFrom) -> list[str]:
    names = [alias.name for alias in node.names]
    return names if isinstance(node, ast.Import) else [f"{node.module}", *(f"{node.module}.{name}" for name in names)]


@pytest.mark.parametrize("name", FILES)
def test_torchaudio_and_transformers_come_with_the_stand_in(name):
    """Before torchaudio, and with transformers, whose models import it when they are first used."""
    compat = "sermtl.torchaudio_compat"
    imports = statements(FILES[name])
    for node, scope in imports:
        libraries = {top(word) for word in named(node) if not word.startswith("transformers.utils")}
        if libraries & {"torchaudio", "transformers"}:
            in_time = [
                word
                for other, where in imports
                if (where is scope and other.lineno < node.lineno)
                or (isinstance(where, ast.Module) and (where is not scope or "torchaudio" not in libraries))
                for word in named(other)
            ]
            brought = any(word == compat or compat in reachable(word) for word in in_time)
            assert brought, f"{name}:{node.lineno}: import {compat} before {named(node)[0]}, which may not load without"


def test_nothing_below_the_model_imports_what_comes_after():
    """local -> data -> dump -> dataset -> model -> trainer -> decode -> metrics -> report."""
    for name in modules(
        "ark", "audio", "augment", "batch", "config", "datadir", "dataset", "errors", "files", "geometry"
    ):
        later = {f"sermtl.{module}" for module in AFTER_THE_MODEL | {"model", "upstream", "scoring", "report"}}
        assert later & reachable(name).keys() == set(), name
    for name in ("trainer", "decode", "model_dir"):
        assert not any(module.startswith(("sermtl.bin", "sermtl.report", "sermtl.scoring"))
                       for module in reachable(f"sermtl.{name}")), name  # fmt: skip
    for name in FILES.keys() - set(modules("bin")):
        assert not any(module.startswith("sermtl.bin") for module in DIRECT[name]), name


@pytest.mark.parametrize("name", sorted(FILES.keys() - {PAPER}))
def test_no_module_names_a_corpus(name):
    lines = FILES[name].read_text(encoding="utf-8").splitlines()
    assert [f"{number}: {line}" for number, line in enumerate(lines, 1) if CORPORA.search(line)] == []


def test_the_papers_numbers_are_imported_by_the_report_alone():
    users = {name for name, imported in DIRECT.items() if PAPER in imported}
    assert all(user.startswith("sermtl.report") or user == "sermtl.bin.report" for user in users)


def test_what_is_shared_knows_nothing_of_local():
    local = {path.stem for path in (ROOT / "local").glob("*.py")}
    assert local, "no prepare scripts?"
    for path in [*FILES.values(), *sorted((ROOT / "utils").rglob("*.py"))]:
        assert local & set(map(top, imports_of(path))) == set() and "local" not in map(top, imports_of(path)), path
    for path in sorted((ROOT / "utils").rglob("*.py")):
        assert not {"torch", "transformers", "sermtl.model", "sermtl.upstream"} & imports_of(path), path


def test_every_module_can_be_the_first_to_be_imported():
    """No circle among sermtl's own. The two slow libraries are stand-ins here."""
    code = """
        import importlib, sys, types
        class Anything(types.ModuleType):
            __path__ = []
            def __getattr__(self, name):
                if name.startswith("__"):
                    raise AttributeError(name)
                return type(name, (), {})
        for name in ("transformers", "torchaudio"):
            sys.modules[name] = Anything(name)
        sys.modules["torchaudio"]._extension = types.SimpleNamespace(_IS_TORCHAUDIO_EXT_AVAILABLE=True)
        for module in sys.argv[1:]:
            for name in [name for name in sys.modules if name.partition(".")[0] == "sermtl"]:
                del sys.modules[name]
            try:
                importlib.import_module(module)
            except Exception as error:
                print(module, type(error).__name__, error)
        print("looked at", len(sys.argv) - 1)
    """
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *FILES], env=environment, capture_output=True, text=True, cwd="/"
    )
    assert done.stdout == f"looked at {len(FILES)}\n", done.stdout + done.stderr
