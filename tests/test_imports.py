"""Who may import whom: the one direction in which data flows, read from the source."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sermtl"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MAY_IMPORT = {
    "fileio": set(),
    "text": set(),
    "audio": {"fileio"},
    "corpus": {"audio", "fileio", "text"},
    "model": {"text", "fileio"},
    "data": {"model", "audio", "text", "fileio"},
    "score": {"fileio"},
    "train": {"data", "model", "score", "text", "fileio"},
    "inference": {"data", "model", "audio", "fileio"},
    "report": {"score", "fileio"},
    "pack": {"inference", "model", "score", "audio", "text", "fileio"},
}
"""Package -> the packages it may import, beside the root modules and itself; bench and bin may import all others."""
MAY_IMPORT["bench"] = set(MAY_IMPORT)
MAY_IMPORT["bin"] = set(MAY_IMPORT)
ROOT_MODULES = {"sermtl", "sermtl.config", "sermtl.errors", "sermtl.seeding"}
ROOT_MODULES |= {"sermtl.before_transformers", "sermtl.torchaudio_compat"}
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
            # A name may be a module: from sermtl.data import fold_job.
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


def package_of(module: str) -> str:
    """The package of one of sermtl's modules; empty for the root's."""
    return "" if module in ROOT_MODULES else module.split(".")[1]


def test_the_walk_sees_what_there_is():
    """The rules below would hold of anything if this saw nothing."""
    assert {"sermtl.train.trainer", "sermtl.bin.train", "sermtl.report", "sermtl.fileio.ark"} <= FILES.keys()
    assert {"sermtl.model.multitask", "sermtl.train.checkpoint", "torch"} <= reachable("sermtl.train.trainer").keys()
    assert "sermtl.data.fold_job" in DIRECT["sermtl.bin.train"] and "kaldiio" in reachable("sermtl.bin.decode")
    assert "torchaudio.functional" in DIRECT["sermtl.audio.resample"], "imports inside functions count"


def test_the_root_holds_packages_and_few_modules():
    assert {module for module in FILES if module.count(".") < 2} == ROOT_MODULES | {f"sermtl.{p}" for p in MAY_IMPORT}


@pytest.mark.parametrize("name", FILES)
def test_a_package_imports_only_those_below_it(name):
    package = package_of(name)
    allowed = MAY_IMPORT[package] | {package, ""} if package else {""}
    if name == "sermtl":
        allowed = {"inference"}  # Speech2Emotion, on first use
    imported = {module for module in DIRECT[name] if top(module) == "sermtl"}
    assert {module for module in imported if package_of(module) not in allowed} == set()
    assert not any(package_of(module) == "bin" for module in imported), "nobody imports a program"


@pytest.mark.parametrize("name", FILES)
def test_no_circle_of_imports(name):
    assert name not in reachable(name)


@pytest.mark.parametrize(
    "name",
    ["sermtl.bin.score", "sermtl.bin.report", *(name for name in FILES if package_of(name) in ("score", "report"))],
)
def test_numbers_and_reports_need_no_torch(name):
    heavy = {"torch", "torchaudio", "transformers", "tensorboard"}
    assert {module: by for module, by in reachable(name).items() if top(module) in heavy} == {}


def test_preparing_data_imports_no_torch(recipe):
    names = sorted(path.stem for path in (recipe / "local").glob("*.py"))
    code = f"import sys; sys.path.insert(0, 'local'); import {', '.join(names)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=recipe, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_package_itself_imports_nothing_when_it_is_imported():
    """Its public names come on first use, so that programs without torch start at once."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {node.module for node in at_once} <= {"__future__", "typing"}


def test_kaldiio_and_transformers_models_have_one_owner():
    users = {name for name, imported in DIRECT.items() if "kaldiio" in map(top, imported)}
    assert users == {"sermtl.fileio.ark"}
    # The export writes the folders that transformers itself loads, so it cannot do without its classes;
    # bench.published is the step that others run, written with transformers alone.
    users = {
        name for name, imported in DIRECT.items() if any(re.match(r"transformers(?!\.utils)", m) for m in imported)
    }
    others = {"sermtl.pack.transformers_export", "sermtl.bench.published"}
    assert users - others and all(name.startswith("sermtl.model.upstreams.") for name in users - others)


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
        assert not {"torch", "transformers", "sermtl.model.multitask", "sermtl.model.upstreams.wav2vec2"} & imports_of(
            path
        ), path
