"""The body of a fit against a real ledger; the test plays the trainers, whose law is known."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from mixlab.corpora.shards import write_corpus
from mixlab.entropy.weighting import softmax_mixture
from mixlab.laws import BIMIX, Inputs
from mixlab.ledger import Ledger
from mixlab.ledger.records import Corpus, Job, JobKind, JobState, MixtureRecord, Queue, RunRole
from mixlab.recipes import Recipe, proxy_smoke
from mixlab.solvers.separable import split
from workers.jobs.context import JobContext
from workers.jobs.fit_mixture import _designed, reference_mixtures
from workers.jobs.proxies import _submit_group
from workers.runner import perform
from workers.settings import WorkerSettings

TRUTH = {
    "code": np.array([9.0, 0.10, 0.3, 1.5]),
    "law": np.array([7.0, 0.25, 0.4, 1.2]),
    "talk": np.array([8.0, 0.15, 0.35, 2.0]),
}
TOKENS = {"code": 900_000, "law": 90_000, "talk": 10_000}
CONDITIONAL = {"code": 2.0, "law": 2.5, "talk": 3.2}
BUDGET = 200 * proxy_smoke().tokens_per_step
FREE: dict[str, Any] = {"lower": {}, "upper": {}, "max_epochs": None}
Failing = Callable[[str], bool]


def measured_corpus(ledger: Ledger, settings: WorkerSettings) -> Corpus:
    """A corpus that is measured already, with the counts and entropies above."""
    corpus = ledger.add_corpus("known", {"domains": {name: {"paths": []} for name in TOKENS}})
    documents = {name: {"train": [[1, 2]], "validation": [[1, 2]]} for name in TOKENS}
    folder = settings.corpus_folder(corpus.id)
    write_corpus(folder, documents, vocabulary=300, end_of_text_id=0)
    counts = {n: {"train_tokens": t, "validation_tokens": 10, "documents": 5}
              for n, t in TOKENS.items()}  # fmt: skip
    ledger.record_tokens(corpus.id, counts)
    entropies = {n: {"shannon": 5.0, "joint": 5.0 + h, "conditional": h}
                 for n, h in CONDITIONAL.items()}  # fmt: skip
    ledger.record_entropy(corpus.id, entropies)
    return corpus


def fitting(ledger: Ledger, corpus: Corpus, **changes: Any) -> Job:
    payload = {
        "corpus_id": corpus.id,
        "observations": None,
        "recipe": "proxy_smoke",
        "law": "bimix",
        "budget_tokens": BUDGET,
        "objective": {"weights": None},
        "constraints": FREE,
        "design": {"count": 6, "floor": 0.05, "seed": 0, "repeated_seeds": 1},
        "tokens_available": None,
        "tokens_per_step": proxy_smoke().tokens_per_step,
    }
    return ledger.submit(JobKind.FIT_MIXTURE, {**payload, **changes}, queue=Queue.CPU)


def ended(
    ledger: Ledger, settings: WorkerSettings, job: Job, failing: Failing = lambda key: False
) -> Job:
    """The fit done to its end, its children by `trained`."""
    while not (now := ledger.job(job.id)).state.terminal:
        if now.state is JobState.QUEUED:
            claimed = ledger.claim(job.id, "test", 60)
            assert claimed is not None
            perform(JobContext(claimed, ledger, settings))
        else:
            for child in ledger.children(job.id):
                if not ledger.job(child.id).state.terminal:
                    _train(ledger, child, failing)
    return now


def _train(ledger: Ledger, child: Job, failing: Failing) -> None:
    """What a trainer would record if the law were true."""
    job = ledger.claim(child.id, "test", 60)
    assert job is not None
    error = {"type": "diverged", "title": "The run diverged", "detail": "the loss is 99 nats"}
    failed = [_record(ledger, job, one, failing, error) for one in job.payload.get("runs", [{}])]
    if job.kind is JobKind.TRAIN and any(failed):
        ledger.fail(job.id, job.attempt, error)
    else:
        ledger.succeed(job.id, job.attempt, {})


def _record(
    ledger: Ledger, job: Job, own: Mapping[str, Any], failing: Failing, error: dict[str, str]
) -> bool:
    """One run of a job; whether it failed."""
    payload = {**job.payload, **own}
    run = ledger.add_run(
        job_id=job.id, corpus_id=payload["corpus_id"], role=RunRole.PROXY,
        mixture=payload["mixture"], recipe=payload["recipe"], seed=payload["seed"],
        label=payload["label"],
    )  # fmt: skip
    recipe = Recipe.from_dict(payload["recipe"])
    for step in recipe.evaluation_steps:
        losses = {name: loss(name, share, step) for name, share in payload["mixture"].items()}
        seen = {"step": step, "tokens": step * recipe.tokens_per_step, "losses_nats": losses}
        ledger.record_observation(run.id, seen)
    fails = failing(f"{run.label}/seed-{run.seed}")
    seconds, met = (None, error) if fails else (1.0, None)
    ledger.finish_run(run.id, (), seconds, met)
    return fails


def loss(domain: str, share: float, step: float) -> float:
    row = Inputs(
        np.array([[share]]), np.array([float(step)]), 0, np.array([np.nan]), np.array([np.nan])
    )
    return float(BIMIX.predict(TRUTH[domain], row)[0])


def solved(ledger: Ledger, job: Job) -> MixtureRecord:
    assert job.state is JobState.SUCCEEDED, job.error
    return ledger.mixture(str((job.result or {})["mixture_id"]))


def best(step: float, *, weights: Mapping[str, float], high: Mapping[str, float]) -> dict:
    """The optimum of the true law."""
    power = [BIMIX.power_law(TRUTH[name], step) for name in TRUTH]  # type: ignore[misc]
    pull = np.array([weights[n] * k * a for n, (k, a) in zip(TRUTH, power, strict=True)])
    upper = np.array([high.get(name, 1.0) for name in TRUTH])
    found = split(pull, np.array([a for _, a in power]), np.full(3, 0.001), upper)
    return dict(zip(TRUTH, found.shares, strict=True))


def test_the_true_laws_optimum_at_the_budgets_step_is_found(
    ledger: Ledger, settings: WorkerSettings
) -> None:
    corpus = measured_corpus(ledger, settings)
    record = solved(ledger, ended(ledger, settings, fitting(ledger, corpus)))
    even = dict.fromkeys(TRUTH, 1.0)
    assert record.report["step"] == 200
    assert dict(record.proportions) == pytest.approx(best(200, weights=even, high={}), abs=1e-5)
    predicted = {name: loss(name, share, 200) for name, share in record.proportions.items()}
    assert record.report["predicted_nats"] == pytest.approx(predicted, rel=1e-6)
    assert set(record.report["prediction_errors_nats"]) == set(TRUTH)
    assert max(record.report["heldout_mre_percent"].values()) < 1e-4


def test_references_are_the_sizes_and_the_softmax_of_conditional_entropies(
    ledger: Ledger, settings: WorkerSettings
) -> None:
    corpus = measured_corpus(ledger, settings)
    record = solved(ledger, ended(ledger, settings, fitting(ledger, corpus)))
    found = {n: r["proportions"] for n, r in record.report["references"].items()}
    assert found["natural"] == pytest.approx({n: t / 1e6 for n, t in TOKENS.items()})
    assert found["uniform"] == pytest.approx(dict.fromkeys(TOKENS, 1 / 3))
    expected = softmax_mixture(CONDITIONAL).proportions
    assert found["conditional_entropy"] == pytest.approx(dict(expected))
    for reference in record.report["references"].values():
        shares = reference["proportions"]
        truth = {name: loss(name, shares[name], 200) for name in TRUTH}
        assert reference["predicted_nats"] == pytest.approx(truth, rel=1e-5)


def test_weights_bounds_and_epochs_reach_the_solver(
    ledger: Ledger, settings: WorkerSettings
) -> None:
    corpus = measured_corpus(ledger, settings)
    weights = {"code": 1.0, "law": 3.0, "talk": 2.0}
    capped = fitting(
        ledger, corpus, objective={"weights": weights},
        constraints={"lower": {}, "upper": {"code": 0.25}, "max_epochs": 2.0},
    )  # fmt: skip
    record = solved(ledger, ended(ledger, settings, capped))
    high = {"code": 0.25, "talk": 2 * TOKENS["talk"] / BUDGET}
    expected = best(200, weights=weights, high=high)
    assert dict(record.proportions) == pytest.approx(expected, abs=1e-5)
    assert record.report["solution"]["epochs"]["talk"] == pytest.approx(2.0)
    raised = fitting(ledger, corpus, constraints={**FREE, "lower": {"code": 0.7}})
    assert solved(ledger, ended(ledger, settings, raised)).proportions["code"] == pytest.approx(0.7)


def test_the_smallest_design_has_held_out_errors_and_no_seed_noise(
    ledger: Ledger, settings: WorkerSettings
) -> None:
    corpus = measured_corpus(ledger, settings)
    design = {"count": 3, "floor": 0.05, "seed": 0, "repeated_seeds": 0}
    record = solved(ledger, ended(ledger, settings, fitting(ledger, corpus, design=design)))
    assert [run["label"] for run in record.report["proxy_runs"]] == [
        "natural", "uniform", "conditional_entropy",
    ]  # fmt: skip
    assert set(record.report["heldout_mre_percent"]) == set(TRUTH)
    assert record.report["seed_noise_nats"] == {}


def test_runs_are_used_again_by_recipe_mixture_seed_and_corpus(
    ledger: Ledger, settings: WorkerSettings
) -> None:
    corpus, other = (measured_corpus(ledger, settings) for _ in range(2))
    first = ended(ledger, settings, fitting(ledger, corpus))
    again = ended(ledger, settings, fitting(ledger, corpus))
    assert len(ledger.children(first.id)) == 7
    assert ledger.children(again.id) == []
    assert solved(ledger, again).proportions == solved(ledger, first).proportions
    for changed in (
        fitting(ledger, other),
        fitting(ledger, corpus, recipe="proxy_tiny"),
        fitting(ledger, corpus, design={"count": 6, "floor": 0.06, "seed": 5, "repeated_seeds": 1}),
    ):
        assert len(ledger.children(ended(ledger, settings, changed).id)) == 7


def test_a_run_whose_recipe_had_other_fields_is_no_run_to_use_again(
    ledger: Ledger, settings: WorkerSettings
) -> None:
    corpus = measured_corpus(ledger, settings)
    first = ended(ledger, settings, fitting(ledger, corpus))
    old = ledger.run_of_job(ledger.children(first.id)[0].id)
    assert old is not None
    job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    claimed = ledger.claim(job.id, "test", 60)
    assert claimed is not None
    strange = {**old.recipe, "dropout": 0.1}
    run = ledger.add_run(
        job_id=job.id, corpus_id=corpus.id, role=RunRole.PROXY, mixture=old.mixture,
        recipe=strange, seed=old.seed, label="older",
    )  # fmt: skip
    ledger.finish_run(run.id, consumed=(), seconds=1.0)
    ledger.succeed(job.id, claimed.attempt, {})
    again = ended(ledger, settings, fitting(ledger, corpus))
    assert solved(ledger, again).proportions == solved(ledger, first).proportions
    assert ledger.children(again.id) == []


def test_repeated_text_and_failed_runs_are_told(ledger: Ledger, settings: WorkerSettings) -> None:
    corpus = measured_corpus(ledger, settings)
    job = ended(ledger, settings, fitting(ledger, corpus), lambda key: key == "design-02/seed-0")
    report = solved(ledger, job).report
    states = {run["label"]: run for run in report["proxy_runs"]}
    tokens = proxy_smoke().tokens
    assert states["natural"]["mixture"]["talk"] == pytest.approx(0.05)  # raised to the floor
    assert states["uniform"]["epochs"]["talk"] == pytest.approx(tokens / 3 / TOKENS["talk"])
    assert states["design-02"]["state"] == "failed"
    least, most = report["notes"], max(run["epochs"]["talk"] for run in report["proxy_runs"])
    assert most < 4
    assert least[0] == ("1 of 7 proxy runs failed or were cancelled, and were left out: "
                        "design-02/seed-0")  # fmt: skip
    longer = ended(ledger, settings, fitting(ledger, corpus, recipe="proxy_tiny"))
    (note,) = (n for n in solved(ledger, longer).report["notes"] if "talk" in n)
    assert "talk up to" in note
    assert "beyond 4 epochs" in note


@pytest.mark.parametrize(
    ("failing", "slug", "told"),
    [
        (lambda key: True, "diverged", "None of the 7 proxy runs succeeded; natural/seed-0: "),
        (lambda key: "seed-1" not in key and key[0] != "n", "too-few-mixtures", "on 2 mixtures"),
    ],
)
def test_too_few_successful_runs_fail_the_fit_with_what_they_met(
    ledger: Ledger, settings: WorkerSettings, failing: Failing, slug: str, told: str
) -> None:
    corpus = measured_corpus(ledger, settings)
    job = ended(ledger, settings, fitting(ledger, corpus), failing)
    assert job.error
    assert job.error["type"] == slug
    assert told in job.error["detail"]
    assert "the loss is 99 nats" in job.error["detail"]


def test_auto_says_why_it_chose_and_the_bootstrap_how_sure_it_is(
    ledger: Ledger, settings: WorkerSettings
) -> None:
    corpus = measured_corpus(ledger, settings)
    job = fitting(ledger, corpus, law="auto", replicates=20)
    record = solved(ledger, ended(ledger, settings, job))
    report = record.report
    assert record.fit is not None
    assert record.fit["law"] == "auto"
    for name, chosen in report["choice"]["targets"].items():
        assert chosen["law"] == record.fit["targets"][name]["law"]
        assert chosen["law"] in chosen["reason"]
        assert len(record.fit["targets"][name]["replicates"]) == 20
        one = report["predictions"][name]
        assert one["low95"] <= one["nats"] <= one["high95"]
    assert report["regret"]["sampling_regret_nats"] >= 0
    assert set(report["regret"]["region"]) == set(TRUTH)
    for runs in report["next_runs"]["mixtures"].values():
        assert sum(runs.values()) == pytest.approx(1)
    # Reasons stand with the choice, not once more among the notes.
    assert not any("held-out" in note for note in report["notes"])


class TestGroups:
    """With GPUs proxy runs go out in groups; the test plays the workers that train them."""

    def groups(self, ledger: Ledger, job: Job) -> list[list[str]]:
        return [
            [f"{run['label']}/seed-{run['seed']}" for run in child.payload["runs"]]
            for child in ledger.children(job.id)
            if child.kind is JobKind.TRAIN_PROXIES
        ]

    @pytest.mark.parametrize(("gpus", "sizes"), [(1, [7]), (3, [3, 2, 2])])
    def test_each_run_is_in_one_group_and_the_fit_is_as_without(
        self, ledger: Ledger, settings: WorkerSettings, gpus: int, sizes: list[int]
    ) -> None:
        alone = solved(
            ledger, ended(ledger, settings, fitting(ledger, measured_corpus(ledger, settings)))
        )
        many = settings.model_copy(update={"gpus": gpus})
        job = ended(ledger, many, fitting(ledger, measured_corpus(ledger, settings)))
        groups = self.groups(ledger, job)
        assert [len(group) for group in groups] == sizes
        assert len({key for group in groups for key in group}) == 7
        record = solved(ledger, job)
        assert record.proportions == alone.proportions
        listed = record.report["proxy_runs"]
        assert [run["state"] for run in listed] == ["used"] * 7
        assert len({run["run_id"] for run in listed}) == 7

    def test_runs_of_a_group_are_used_again_alone_or_in_groups(
        self, ledger: Ledger, settings: WorkerSettings
    ) -> None:
        corpus = measured_corpus(ledger, settings)
        many = settings.model_copy(update={"gpus": 2})
        first = ended(ledger, many, fitting(ledger, corpus), lambda key: key == "design-02/seed-0")
        states = {r["label"]: r["state"] for r in solved(ledger, first).report["proxy_runs"]}
        assert states.pop("design-02") == "failed"
        assert set(states.values()) == {"used"}
        again = ended(ledger, many, fitting(ledger, corpus))
        assert self.groups(ledger, again) == [["design-02/seed-0"]]
        assert ledger.children(ended(ledger, settings, fitting(ledger, corpus)).id) == []

    def test_a_run_that_failed_in_a_group_says_why(
        self, ledger: Ledger, settings: WorkerSettings
    ) -> None:
        many = settings.model_copy(update={"gpus": 1})
        corpus = measured_corpus(ledger, settings)
        job = ended(ledger, many, fitting(ledger, corpus), lambda key: True)
        assert job.error
        assert job.error["type"] == "diverged"
        assert "natural/seed-0: the loss is 99 nats" in job.error["detail"]

    def test_a_fit_that_was_cut_off_between_two_groups_submits_the_other_alone(
        self, ledger: Ledger, settings: WorkerSettings
    ) -> None:
        """Resumed where there are other GPUs, and once runs of the first group are done."""
        corpus = measured_corpus(ledger, settings)
        job = fitting(ledger, corpus)
        claimed = ledger.claim(job.id, "test", 60)
        assert claimed is not None
        context = JobContext(claimed, ledger, settings.model_copy(update={"gpus": 2}))
        proxies = _designed(context, reference_mixtures(context))
        _submit_group(context, proxies[0::2])
        (child,) = ledger.children(job.id)
        _train(ledger, child, lambda key: False)
        ledger.give_back(job.id, claimed.attempt, "its worker was killed", None)
        done = ended(ledger, settings.model_copy(update={"gpus": 1}), job)
        assert [len(group) for group in self.groups(ledger, done)] == [4, 3]
        assert len(solved(ledger, done).report["proxy_runs"]) == 7
