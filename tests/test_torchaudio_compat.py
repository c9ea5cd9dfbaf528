"""Importing torchaudio where its compiled library fits and where it does not, each in its own process."""

import os
import subprocess
import sys
import textwrap

import pytest

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
        print(after == before, torchaudio_compat.make_importable(), torchaudio.forced_align())
        print(sys.modules["torchaudio._extension"].__file__ == torchaudio._extension.__file__)
    """
    assert python(code, recipe, fake(tmp_path, WHOLE)) == ["True True aligned", "True"]


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
        print(torchaudio_compat.make_importable())
        try:
            torchaudio.forced_align()
        except RuntimeError as error:
            print(error)
    """
    printed = python(code, recipe, fake(tmp_path, LIBRARY_MISSING))
    assert printed[0] == "without: libcudart.so.13: cannot open shared object file"
    assert printed[1:3] == ["True 1 False", "False"]
    assert "compiled library" in printed[3]


def test_other_faults_of_torchaudio_are_not_hidden(tmp_path, recipe):
    code = """
        try:
            from sermtl import torchaudio_compat
        except ZeroDivisionError:
            print("failed")
    """
    assert python(code, recipe, fake(tmp_path, "1 / 0")) == ["failed"]


@pytest.fixture(scope="module")
def first_imports(recipe):
    """What a fresh process gets that imports one module of sermtl first; they branch off one that holds torch."""
    code = """
        import os, sys
        import numpy, torch
        torch.set_num_threads(1)
        def branch(name, function):
            sys.stdout.flush()
            if os.fork() == 0:
                try:
                    print(name, function(), flush=True)
                    os._exit(0)
                except BaseException as error:
                    print(name, type(error).__name__, error, flush=True)
                    os._exit(1)
            os.wait()
        def audio():
            from sermtl.audio import features, resample
            samples = numpy.sin(numpy.arange(4800) / 10).astype(numpy.float32)
            return len(resample.resample(samples, 48000, 16000)), features.fbank(resample.to_int16(samples)).shape[1]
        def training():
            import sermtl.bin.train
            from sermtl.model.upstreams.load import load_upstream
            from transformers import Wav2Vec2Model
            hidden = load_upstream("tiny")(torch.zeros(1, 800), torch.tensor([800]))[0]
            return Wav2Vec2Model.__name__, hidden.shape[2]
        def kaldi_first():
            import sermtl.torchaudio_compat
            import torchaudio.compliance.kaldi, torchaudio.transforms, torchaudio.functional
            return torchaudio.transforms.FrequencyMasking(3)(torch.ones(1, 9, 9)).shape[1]
        branch("audio", audio)
        branch("training", training)
        branch("kaldi", kaldi_first)
    """
    return dict(line.split(" ", 1) for line in python(code, recipe))


@pytest.mark.parametrize(
    "name, result", [("audio", "(1600, 80)"), ("training", "('Wav2Vec2Model', 64)"), ("kaldi", "9")]
)
def test_on_this_machine_resampling_features_and_transformers_work(first_imports, name, result):
    assert first_imports[name] == result
