"""Growth, rounds, inheritance and shapes of a training: what is recorded, what is refused."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.settings import Settings
from api.trainings.finding import donor_named
from mixlab.errors import UnknownRun
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue, Run, RunRole
from mixlab.recipes import Recipe, target_small
from mixlab.training.weights import WEIGHTS

SHARES = {"code": 0.2, "legal": 0.3, "talk": 0.5}
SMALLER = {"layers": 2, "ffn_width": 176}


class TestMethods:
    def payload(self, client: TestClient, ledger: Ledger, corpus_id: str, **more: Any) -> Any:
        body = {"corpus_id": corpus_id, "proportions": SHARES, "steps": 40, **more}
        answer = client.post("/trainings", json=body)
        assert answer.status_code == 202, answer.text
        return ledger.job(answer.json()["id"]).payload

    def test_a_growth_is_planned_before_it_is_recorded(
        self, client: TestClient, ledger: Ledger, corpus_id: str
    ) -> None:
        asked = {"factor": 3, "tokens": 20_000}
        assert self.payload(client, ledger, corpus_id, growth=asked)["growth"] == asked
        # Its depth is 3, which 4 doesn't divide.
        found = self.payload(client, ledger, corpus_id, growth={"tokens": 20_000})["growth"]
        assert found == asked

    def test_rounds_are_recorded_with_what_was_left_out(
        self, client: TestClient, ledger: Ledger, corpus_id: str
    ) -> None:
        found = self.payload(client, ledger, corpus_id, rounds={"share": 0.25})["rounds"]
        assert found == {
            "count": 2, "share": 0.25, "unit": "sequence", "keep_proportions": True,
            "learning_rate": None,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("more", "kind", "says"),
        [
            ({"growth": {"factor": 3, "tokens": 9000}, "rounds": {}}, "invalid-recipe", "exclude"),
            ({"growth": {"factor": 7, "tokens": 9000}}, "invalid-recipe", "are not 7 times"),
            ({"growth": {"factor": 3, "tokens": 10**12}}, "invalid-recipe", "can grow after"),
            ({"growth": {"factor": 3}}, "invalid-budget", "parameters"),
            ({"growth": {"factor": 1}}, "invalid-request", "2"),
            ({"rounds": {"share": 1}}, "invalid-request", "less than 1"),
            ({"rounds": {"share": 0}}, "invalid-request", "greater than 0"),
            ({"rounds": {"count": 90, "share": 0.01}}, "invalid-recipe", "too few for 90 rounds"),
            ({"rounds": {"unit": "word"}}, "invalid-request", "sequence"),
            (
                {"rounds": {}, "inherit": {"training_id": "run_x"}},
                "invalid-recipe",
                "rounds and inherit exclude each other",
            ),
            (
                {"growth": {}, "inherit": {"training_id": "run_x"}},
                "invalid-recipe",
                "growth and inherit exclude each other",
            ),
            (
                {"growth": {}, "rounds": {}, "inherit": {"training_id": "run_x"}},
                "invalid-recipe",
                "growth, rounds and inherit exclude each other",
            ),
            ({"inherit": {}}, "invalid-request", "training_id"),
            (
                {"inherit": {"training_id": "run_x", "importance": "size"}},
                "invalid-request",
                "taylor",
            ),
            ({"inherit": {"training_id": "run_x", "sequences": 4097}}, "invalid-request", "4096"),
            ({"inherit": {"training_id": "run_x", "sequences": 0}}, "invalid-request", "1"),
            ({"shape": {"layers": 0}}, "invalid-request", "greater than or equal to 1"),
            ({"shape": {"heads": 3}}, "invalid-recipe", "width 128 over 3 heads"),
            ({"shape": {"kv_heads": 3}}, "invalid-recipe", "4 heads can't share 3"),
            ({"shape": {"depth": 3}}, "invalid-request", "depth"),
            (
                {"shape": {"layers": 4}, "growth": {"factor": 3, "tokens": 9000}},
                "invalid-recipe",
                "4 layers are not 3 times",
            ),
        ],
    )
    def test_what_can_not_be_followed_is_refused_and_nothing_recorded(
        self, client: TestClient, ledger: Ledger, corpus_id: str,
        more: dict[str, Any], kind: str, says: str,
    ) -> None:  # fmt: skip
        before = len(ledger.jobs())
        body = {"corpus_id": corpus_id, "proportions": SHARES, "steps": 40, **more}
        answer = client.post("/trainings", json=body)
        assert answer.status_code == 422
        assert answer.json()["type"].endswith(kind)
        assert says in answer.text
        assert len(ledger.jobs()) == before

    def test_a_schedule_of_stages_has_no_rounds(self, client: TestClient, corpus_id: str) -> None:
        stages = [{"proportions": {"legal": 1.0}, "tokens": 40_960}, {"proportions": {"code": 1.0}}]
        body = {"corpus_id": corpus_id, "schedule": {"stages": stages}, "steps": 40, "rounds": {}}
        answer = client.post("/trainings", json=body)
        assert answer.status_code == 422
        assert "schedule of several stages" in answer.text

    def test_a_shape_is_the_recipes_but_for_what_is_given(
        self, client: TestClient, ledger: Ledger, corpus_id: str
    ) -> None:
        sizes = {
            "layers": 2, "width": 96, "heads": 6, "kv_heads": 3, "ffn_width": 100,
            "tied_head": True,
        }  # fmt: skip
        found = Recipe.from_dict(self.payload(client, ledger, corpus_id, shape=sizes)["recipe"])
        assert found == target_small().lasting(40).in_shape(**sizes)
        assert {name: getattr(found.architecture, name) for name in sizes} == sizes
        some = self.payload(client, ledger, corpus_id, shape={"layers": 2})["recipe"]
        assert some == target_small().lasting(40).in_shape(layers=2).to_dict() | {
            name: list(some[name]) for name in ("evaluation_steps", "betas", "batch_stages")
        }


class TestInherit:
    """A training that begins with another's best part."""

    @pytest.fixture
    def donor(self, ledger: Ledger, settings: Settings, corpus_id: str) -> Run:
        """A run that has ended, with something for weights."""
        job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
        recipe = target_small().for_vocabulary(3000).to_dict()
        run = ledger.add_run(job.id, corpus_id, RunRole.FULL, SHARES, recipe, 0, "full")
        ledger.finish_run(run.id, [], 1.5)
        settings.run_folder(run.id).mkdir(parents=True)
        settings.run_weights(run.id).write_bytes(b"weights")
        return run

    def asked(self, client: TestClient, corpus_id: str, donor: str, **more: Any) -> Any:
        body = {
            "corpus_id": corpus_id, "proportions": SHARES, "steps": 40, "shape": SMALLER,
            "inherit": {"training_id": donor}, **more,
        }  # fmt: skip
        return client.post("/trainings", json=body)

    def test_weights_lie_where_runs_leave_them(self, settings: Settings) -> None:
        assert settings.run_weights("run_x") == settings.run_folder("run_x") / WEIGHTS

    def test_it_is_recorded_with_the_donors_tokens_and_shown(
        self, client: TestClient, ledger: Ledger, corpus_id: str, donor: Run
    ) -> None:
        for name in (donor.id, donor.job_id):
            answer = self.asked(client, corpus_id, name)
            assert answer.status_code == 202, answer.text
            job = ledger.job(answer.json()["id"])
            asked = {"training_id": donor.id, "importance": "taylor", "sequences": 64}
            assert job.payload["inherit"] == asked
            shape = Recipe.from_dict(dict(job.payload["recipe"])).architecture
            assert (shape.vocabulary, shape.layers, shape.ffn_width) == (3000, 2, 176)
        heir = ledger.add_run(
            job.id, corpus_id, RunRole.FULL, SHARES, job.payload["recipe"], 0, "full"
        )
        shown = client.get(f"/trainings/{heir.id}").json()
        assert (shown["inherit"], shown["growth"]) == (asked, None)

    def refused(self, ledger: Ledger, answer: Any, jobs: int) -> tuple[int, str, str]:
        assert len(ledger.jobs()) == jobs
        problem = answer.json()
        return answer.status_code, problem["type"].rpartition(":")[2], problem["detail"]

    def test_a_donor_that_is_not_there(
        self, client: TestClient, ledger: Ledger, corpus_id: str
    ) -> None:
        assert self.refused(ledger, self.asked(client, corpus_id, "run_none"), 0) == (
            404, "unknown-run", "There is no training run 'run_none'.",
        )  # fmt: skip
        assert self.refused(ledger, self.asked(client, corpus_id, "job_none"), 0)[1] == (
            "unknown-job"
        )

    def test_a_donor_that_has_not_ended_well(
        self, client: TestClient, ledger: Ledger, corpus_id: str
    ) -> None:
        job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
        status, kind, detail = self.refused(ledger, self.asked(client, corpus_id, job.id), 1)
        assert (status, kind) == (409, "not-ready")
        recipe = target_small().to_dict()
        run = ledger.add_run(job.id, corpus_id, RunRole.FULL, SHARES, recipe, 0, "full")
        status, kind, detail = self.refused(ledger, self.asked(client, corpus_id, run.id), 1)
        assert (status, kind) == (409, "not-ready")
        assert f"Training {run.id} is of a job that is queued" in detail
        ledger.finish_run(run.id, [], None, {"type": "diverged", "title": "t", "detail": "d"})
        status, kind, detail = self.refused(ledger, self.asked(client, corpus_id, run.id), 1)
        assert (status, kind) == (409, "not-ready")
        assert "has diverged" in detail
        assert "name another" in detail

    def test_a_donor_whose_weights_are_gone(
        self, client: TestClient, ledger: Ledger, settings: Settings, corpus_id: str, donor: Run
    ) -> None:
        settings.run_weights(donor.id).unlink()
        status, kind, detail = self.refused(ledger, self.asked(client, corpus_id, donor.id), 1)
        assert (status, kind) == (409, "not-ready")
        assert "MIXLAB_RETENTION_DAYS" in detail

    def test_a_donor_of_another_corpus(
        self, client: TestClient, ledger: Ledger, corpus_body: dict[str, Any], corpus_id: str,
        donor: Run,
    ) -> None:  # fmt: skip
        other = client.post("/corpora", json=corpus_body).json()["id"]
        status, kind, detail = self.refused(ledger, self.asked(client, other, donor.id), 1)
        assert (status, kind) == (422, "invalid-corpus")
        assert corpus_id in detail
        assert other in detail

    @pytest.mark.parametrize(
        ("shape", "says"),
        [
            ({"layers": 4}, "it has 4 layers and the donor 3"),
            ({"ffn_width": 400}, "400 FFN neurons and the donor 336"),
            ({"width": 64, "heads": 4, "kv_heads": 2}, "its heads are 16 wide and the donor's 32"),
        ],
    )
    def test_a_shape_that_the_donor_can_not_give(
        self, client: TestClient, ledger: Ledger, corpus_id: str, donor: Run,
        shape: dict[str, int], says: str,
    ) -> None:  # fmt: skip
        answer = self.asked(client, corpus_id, donor.id, shape=shape)
        status, kind, detail = self.refused(ledger, answer, 1)
        assert (status, kind) == (422, "invalid-recipe")
        assert says in detail

    def test_anothers_donor_is_not_seen(
        self, ledger: Ledger, settings: Settings, corpus_id: str
    ) -> None:
        theirs = ledger.of("key_theirs")
        job = theirs.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
        recipe = target_small().to_dict()
        run = ledger.add_run(job.id, corpus_id, RunRole.FULL, SHARES, recipe, 0, "full")
        ledger.finish_run(run.id, [], 1.5)
        settings.run_folder(run.id).mkdir(parents=True)
        settings.run_weights(run.id).write_bytes(b"weights")
        assert donor_named(run.id, corpus_id, theirs, settings).id == run.id
        with pytest.raises(UnknownRun):
            donor_named(run.id, corpus_id, ledger.of("key_mine"), settings)
