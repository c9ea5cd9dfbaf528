"""Importing torchaudio where its compiled library fits and where it does not, each in its own process."""

import os
import subprocess
import sys
import textwrap

NEEDS_LIBRARY = """
    from torchaudio import _extension  # noqa
    from torchaudio._extension import _IS_ALIGN_AVAILABLE, fail_if_no_align
    ready = True

    @fail_if_no_align
    def forced_align():
        return "aligned"
"""


def fake(folder, extension):
    """A torchaudio whose extension is as given, and whose Python part is like torchaudio's."""
    package = folder / "torchaudio"
    (package / "functional").mkdir(parents=True)
    (package / "__init__.py").write_text(textwrap.dedent(NEEDS_LIBRARY))
    (package / "functional" / "__init__.py").write_text("marker = 1\n")
    (package / "_extension").mkdir()
    (package / "_extension" / "__init__.py").write_text(textwrap.dedent(extension))
    return folder


def python(code, recipe, *folders):
    """What code prints in a fresh process that finds packages in these folders first."""
    path = os.pathsep.join(map(str, (*folders, recipe)))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


WHOLE = """
    _IS_TORCHAUDIO_EXT_AVAILABLE = True
    _IS_ALIGN_AVAILABLE = True
    def fail_if_no_align(function):
        return function
"""
LIBRARY_MISSING = """
    raise OSError("libcudart.so.13: cannot open shared object file")
"""


def test_where_torchaudio_loads_nothing_is_touched(tmp_path, recipe):
    code = """
        import sys
        import torchaudio
        before = {name: id(module) for name, module in sys.modules.items() if name.startswith("torchaudio")}
        from sermtl import torchaudio_compat
        after = {name: id(module) for name, module in sys.modules.items() if name.startswith("torchaudio")}
        print(after == before, torchaudio.forced_align())
        print(sys.modules["torchaudio._extension"].__file__ == torchaudio._extension.__file__)
    """
    assert python(code, recipe, fake(tmp_path, WHOLE)) == ["True aligned", "True"]


def test_imported_first_it_changes_nothing_either(tmp_path, recipe):
    code = """
        from sermtl import torchaudio_compat
        import torchaudio
        print(torchaudio.forced_align(), torchaudio._extension.__file__.endswith("_extension/__init__.py"))
    """
    assert python(code, recipe, fake(tmp_path, WHOLE)) == ["aligned True"]


def test_where_the_library_does_not_load_the_python_parts_do(tmp_path, recipe):
    code = """
        try:
            import torchaudio
        except OSError as error:
            print("without:", error)
        from sermtl import torchaudio_compat
        import torchaudio
        from torchaudio import functional
        print(torchaudio.ready, functional.marker, torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE)
        try:
            torchaudio.forced_align()
        except RuntimeError as error:
            print(error)
    """
    printed = python(code, recipe, fake(tmp_path, LIBRARY_MISSING))
    assert printed[0] == "without: libcudart.so.13: cannot open shared object file"
    assert printed[1] == "True 1 False"
    assert "compiled library" in printed[2]


def test_other_faults_of_torchaudio_are_not_hidden(tmp_path, recipe):
    code = """
        try:
            from sermtl import torchaudio_compat
        except ZeroDivisionError:
            print("failed")
    """
    assert python(code, recipe, fake(tmp_path, "1 / 0")) == ["failed"]
