"""What transformers imports with the recipe's programs, and with programs of others."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("first, imported", [("sermtl.bin", False), ("sermtl", True)])
def test_programs_start_without_scikit_learn_and_scipy_and_others_get_transformers_as_it_is(first, imported, recipe):
    code = f"import sys, {first}, sermtl.train.fold; print(*(name in sys.modules for name in ('sklearn', 'scipy')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=recipe, capture_output=True, text=True, check=True)
    assert done.stdout == f"{imported} {imported}\n"
