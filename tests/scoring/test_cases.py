"""Cases: the split into searched and held-out ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.scoring.case import Case, cases_sha256, make_cases
from xslim.errors import ConfigError

counts = st.integers(0, 40)
seeds = st.integers(0, 2**31)
prompts = st.lists(st.integers(0, 9), min_size=1, max_size=5)


@given(prompts, counts, counts, seeds)
def test_no_noise_is_drawn_twice(prompts: list[int], search: int, holdout: int, seed: int) -> None:
    found = make_cases(prompts, search, holdout, seed)
    assert tuple(map(len, found)) == (search, holdout)
    noises = [case.seed for cases in found for case in cases]
    assert len(set(noises)) == len(noises)
    assert all(0 <= noise < 2**32 for noise in noises)


@given(counts, counts, counts, counts, seeds)
def test_one_split_does_not_move_the_other(
    search: int, other: int, holdout: int, more: int, seed: int
) -> None:
    assert make_cases([1, 2], search, holdout, seed)[1] == make_cases([1, 2], other, holdout, seed)[1]
    assert make_cases([1, 2], search, holdout, seed)[0] == make_cases([1, 2], search, more, seed)[0]


def test_prompts_come_in_turn() -> None:
    for cases in make_cases(["a", "b", "c"], 7, 5, 0):
        assert [case.prompt for case in cases] == list("abcabca")[: len(cases)]


def test_another_seed_draws_other_cases() -> None:
    first, second = make_cases([0], 20, 20, 0), make_cases([0], 20, 20, 1)
    assert make_cases([0], 20, 20, 0) == first
    for one, other in zip(first, second, strict=True):
        assert not {case.seed for case in one} & {case.seed for case in other}


def test_the_hash_is_of_all_cases_in_their_order() -> None:
    cases = (Case(0, 1), Case(1, 2))
    hashes = {cases_sha256(c) for c in (cases, cases[::-1], cases[:1], (Case("0", 1), Case(1, 2)))}
    assert len(hashes) == 4
    assert cases_sha256(cases) == cases_sha256(list(cases))


@given(st.integers(1, 12), counts, counts, seeds)
def test_prompts_that_may_not_repeat_are_used_once(number: int, search: int, holdout: int, seed: int) -> None:
    names = [f"prompt {i}" for i in range(number)]
    if search + holdout > number:
        with pytest.raises(
            ConfigError, match=f"{search} search and {holdout} held-out .* of {number} prompts"
        ):
            make_cases(names, search, holdout, seed, repeat=False)
        return
    found = make_cases(names, search, holdout, seed, repeat=False)
    used = [case.prompt for cases in found for case in cases]
    assert len(set(used)) == len(used) == search + holdout
    assert found[1] == make_cases(names, 0, holdout, seed, repeat=False)[1]


def test_no_prompt_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.prompts: got no prompt"):
        make_cases([], 1, 0, 0)
