"""Client libraries compute on accelnb what they compute on genuine Accelerate, bit for bit.

Each program runs three ways once; each of its cases is a test. docs/ecosystem.md tells the results.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import three_ways

CASES = {
    "transformers_trainer": [
        "plain",
        "accumulation",
        "bf16",
        "resumed",
        "grouped_by_length",
        "iterable",
        "iterable_by_shards",
        "best_model",
        "sequence_to_sequence",
    ],
    "loops": [
        "classification",
        "classification_accumulating",
        "classification_bf16",
        "classification_resumed",
        "lora",
        "lora_bf16",
        "metrics",
    ],
    "language_models": [
        "lora",
        "sft",
        "sft_packed",
        "sft_lora",
        "dpo",
        "dpo_lora",
        "dpo_moving_reference",
        "reward",
        "grpo",
    ],
    "diffusers_unconditional": ["trained", "accumulating_in_bf16", "saved_on_the_main_process"],
    "sentence_embeddings": [
        "similarity",
        "negatives_in_the_batch",
        "negatives_of_all_ranks",
        "no_duplicates",
    ],
    "lightning_training": ["fabric", "fabric_bf16", "trainer"],
}

# What differs from genuine Accelerate, by the paths of values; docs/ecosystem.md says why.
EXPLAINED: dict[tuple[str, str], str] = {}

PARAMETERS = [
    pytest.param(program, case, marks=pytest.mark.xdist_group(program), id=f"{program}-{case}")
    for program, cases in CASES.items()
    for case in cases
]


Ways = Callable[[str], dict[str, three_ways.Cases]]


@pytest.fixture(scope="session")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Ways:
    """What a program's cases reported, for each of the three ways."""

    @functools.cache
    def run(program: str) -> dict[str, three_ways.Cases]:
        def folder(way: str) -> Path:
            return tmp_path_factory.mktemp(f"{program}-{way}")

        return {
            "accelerate": three_ways.under_torchrun(program, folder("accelerate")),
            "accelnb": three_ways.under_torchrun(program, folder("accelnb"), three_ways.SHIM),
            "cell": three_ways.in_a_cell(program, folder("cell")),
        }

    return run


@pytest.mark.timeout(3 * three_ways.LIMIT + 60)
@pytest.mark.parametrize(("program", "case"), PARAMETERS)
def test_a_case_gives_the_same_three_ways(ways: Ways, program: str, case: str) -> None:
    reports = ways(program)
    for way, cases in reports.items():
        assert len(cases.get(case, [])) == 2, f"{way}: {cases[three_ways.LOG]}"
        errors = [rank["error"] for rank in cases[case] if "error" in rank]
        assert not errors, f"{way}: {errors[0]}"
    one, other, in_a_cell = (reports[way][case] for way in ("accelerate", "accelnb", "cell"))
    assert not list(three_ways.differences(other, in_a_cell))
    explained = EXPLAINED.get((program, case))
    different = three_ways.differences(one, other)
    assert not [line for line in different if not explained or not re.search(explained, line)]
