"""The Prefect server's API as its UI calls it."""

import httpx

from tests.operate.machine_helpers import until

ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Ui:
    """The server's API as the UI calls it."""

    def __init__(self, api):
        self._http = httpx.Client(base_url=api, timeout=30)

    def get(self, path):
        return self._http.get(path).raise_for_status().json()

    def post(self, path, body):
        def ask():  # SQLite's "database is locked" is a 503, which every client of Prefect retries
            found = self._http.post(path, json=body)
            return None if found.status_code == 503 else found

        return until(ask, f"{path} is answered").raise_for_status().json()

    def trigger(self, name, parameters):
        deployment = self.get(f"/deployments/name/{name}")
        body = {"parameters": {**deployment["parameters"], **parameters}}
        return self.post(f"/deployments/{deployment['id']}/create_flow_run", body)["id"]

    def ended(self, run):
        def look():
            found = self.get(f"/flow_runs/{run}")
            return found if found["state_type"] in ENDED else None

        return until(look, f"run {run} ends", 240)

    def runs_of(self, name):
        deployment = self.get(f"/deployments/name/{name}")
        return self.post("/flow_runs/filter", {"deployments": {"id": {"any_": [deployment["id"]]}}})

    def artifacts(self, run):
        """Data by key, the newest of each."""
        found = self.post("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        found.sort(key=lambda artifact: artifact["created"])
        return {artifact["key"]: artifact for artifact in found if artifact["key"]}

    def state(self, run, kind, name):
        """What the UI's buttons do: Cancel (CANCELLING), Retry (SCHEDULED, AwaitingRetry)."""
        self.post(f"/flow_runs/{run}/set_state", {"state": {"type": kind, "name": name}})

    def cancel(self, run):
        self.state(run, "CANCELLING", "Cancelling")

    def retry(self, run):
        self.state(run, "SCHEDULED", "AwaitingRetry")


def small_recipe(checkpoints):
    """A recipe for the stand-in's models; a bad answer is not asked again."""
    return {
        "name": "everyday",
        "embed": {"clip_model": str(checkpoints[0]), "dino_model": str(checkpoints[1])},
        "mine": {"near_duplicate": 0.99999},
        "caption": {"model": "stand-in-captioner"},
        "resample": {"model": "stand-in-reference", "k": 2},
        "extract": {"model": "stand-in-claims", "max_asks": 1},
        "rewrite": {"model": "stand-in-claims", "max_asks": 1},
        "assemble": {"split": {"train": 1.0, "validation": 0.0, "test": 0.0}},
    }
