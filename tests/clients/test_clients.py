"""Client libraries compute on accelnb what they compute on genuine Accelerate, bit for bit.

Each program runs three ways once; each of its cases is a test. docs/ecosystem.md tells the results.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import three_ways

CASES = {
    "transformers_trainer": [
        "plain",
        "accumulation",
        "bf16",
        "resumed",
        "grouped_by_length",
        "fully_sharded",
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
        "generation",
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

Report = list[dict[str, Any]]  # of a case: each rank's


def goes_on_as_if_never_stopped(report: Report, _: Report) -> None:
    whole = report[0]["whole"]
    for checkpoint in ("step_4", "epoch_0"):
        resumed = report[0][checkpoint]
        assert resumed["losses"] == whole["losses"][-len(resumed["losses"]) :]
        assert resumed["weights"] == whole["weights"]


def is_divided_and_trains_as_a_whole(report: Report, genuine: Report) -> None:
    """Genuine Accelerate divides nothing on CPUs; sums over parts are rounded otherwise."""
    assert report[0]["divided"]
    for mine, whole in zip(report[0]["history"], genuine[0]["history"], strict=True):
        assert mine == pytest.approx(whole, rel=1e-5)


def gives_each_sample_once_an_epoch(report: Report, _: Report) -> None:
    assert report[0]["samples"] == [75, 75]


def averages_over_all_that_was_evaluated(report: Report, _: Report) -> None:
    logged = [entry["eval_loss"] for entry in report[0]["history"] if "eval_loss" in entry]
    ranks = (rank["evaluated"] for rank in report)
    assert logged == pytest.approx([sum(losses) / 2 for losses in zip(*ranks, strict=True)])


def is_explained(report: Report, _: Report) -> None:
    """Nothing more is to be shown."""


# What differs from genuine Accelerate: the paths of these values, and what shows that accelnb is
# right; docs/ecosystem.md tells it in words.
EVALUATION_LOSS = r"\.eval_loss", averages_over_all_that_was_evaluated
EXPLAINED: dict[tuple[str, str], tuple[str, Callable[[Report, Report], None]]] = {
    ("transformers_trainer", "grouped_by_length"): (r"", gives_each_sample_once_an_epoch),
    ("transformers_trainer", "fully_sharded"): (
        r"\.(divided|history)",
        is_divided_and_trains_as_a_whole,
    ),
    ("loops", "classification_resumed"): (
        r"\.(step_4|epoch_0|files)\b",
        goes_on_as_if_never_stopped,
    ),
    ("diffusers_unconditional", "saved_on_the_main_process"): (r"\.files", is_explained),
    **{("sentence_embeddings", case): EVALUATION_LOSS for case in CASES["sentence_embeddings"]},
}

PARAMETERS = [
    pytest.param(program, case, id=f"{program}-{case}")
    for program, cases in CASES.items()
    for case in cases
]


Ways = dict[str, dict[str, Future[three_ways.Cases]]]


@pytest.fixture(scope="module")
def ways(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ways]:
    """What the cases of the programs that are asked for report, by way; two ways run at a time."""
    calls = (getattr(item, "callspec", None) for item in request.session.items)
    asked = {call.params.get("program") for call in calls if call is not None}
    with ThreadPoolExecutor(2) as pool:
        yield {
            program: {
                way: pool.submit(run, program, tmp_path_factory.mktemp(f"{program}-{way}"))
                for way, run in three_ways.WAYS.items()
            }
            for program in CASES
            if program in asked
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(3 * three_ways.LIMIT)
@pytest.mark.parametrize(("program", "case"), PARAMETERS)
def test_a_case_gives_the_same_three_ways(ways: Ways, program: str, case: str) -> None:
    reports = {way: report.result() for way, report in ways[program].items()}
    for way, cases in reports.items():
        assert len(cases.get(case, [])) == 2, f"{way}: {cases[three_ways.LOG]}"
        errors = [rank["error"] for rank in cases[case] if "error" in rank]
        assert not errors, f"{way}: {errors[0]}"
    one, other, in_a_cell = (reports[way][case] for way in ("accelerate", "accelnb", "cell"))
    assert not list(three_ways.differences(other, in_a_cell))
    different = list(three_ways.differences(one, other))
    if (program, case) in EXPLAINED:
        paths, check = EXPLAINED[program, case]
        different = [line for line in different if not re.search(paths, line.split(":")[0])]
        check(other, one)
    assert not different
