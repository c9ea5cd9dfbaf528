import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from sermtl.seeding import derive_seed, generator

part = st.one_of(st.integers(), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))


@given(st.lists(part, min_size=1, max_size=4))
def test_a_seed_is_a_function_of_its_parts(parts):
    seed = derive_seed(*parts)
    assert seed == derive_seed(*parts)
    assert 0 <= seed < 2**63
    assert generator(*parts).integers(2**60) == generator(*parts).integers(2**60)


def test_other_parts_give_other_seeds():
    parts = [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), (0, "a", "1 "), (0, "a1"), ("0a", 1)]
    parts += [(0,), (10, 1), (1, 1), *((0, "augment", epoch, f"utt{n}") for epoch in range(30) for n in range(300))]
    assert len({derive_seed(*names) for names in parts}) == len(parts)


def test_seeds_are_the_same_in_every_process():
    code = "from sermtl.seeding import *; print(derive_seed(3, 'äö', 7), generator(1, 'x').random())"
    runs = []
    for seed in "12":
        env = {"PYTHONHASHSEED": seed, "PYTHONUTF8": "1"}
        runs.append(subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True))
    assert runs[0].stdout == runs[1].stdout == f"{derive_seed(3, 'äö', 7)} {generator(1, 'x').random()}\n"


def test_draws_of_neighbouring_seeds_are_unrelated():
    draws = [generator(0, "augment", epoch, "utt").random() for epoch in range(2000)]
    assert 0.47 < sum(draws) / len(draws) < 0.53
    assert 0.46 < sum(a < b for a, b in zip(draws, draws[1:], strict=False)) / len(draws) < 0.54
