import httpx
import pytest
from prefect.exceptions import PrefectHTTPStatusError

from tasks import patience


def answered(status):
    request = httpx.Request("POST", "http://127.0.0.1/api/artifacts/")
    response = httpx.Response(status, request=request)
    return PrefectHTTPStatusError("said so", request=request, response=response)


AWAY = [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), answered(503)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(patience, "POLL_S", 0.0)


def failing(errors, given="made"):
    left = list(errors)

    def make():
        if left:
            raise left.pop(0)
        return given

    return make


async def later(make):
    return make()


async def test_a_server_that_comes_back_is_told():
    make = failing(AWAY)
    assert await patience.shown(lambda: later(make)) == "made"
    assert patience.shown_here(failing(AWAY)) == "made"


async def test_a_server_that_stays_away_costs_the_run_nothing(caplog):
    assert await patience.shown(lambda: later(failing(AWAY[:1])), 0) is None
    assert patience.shown_here(failing(AWAY[2:]), 0) is None
    assert caplog.text.count("server is away") == 2


@pytest.mark.parametrize("error", [answered(422), ValueError("a fault of ours")])
async def test_a_fault_of_ours_is_raised(error):
    with pytest.raises(type(error)):
        await patience.shown(lambda: later(failing([error])))
    with pytest.raises(type(error)):
        patience.shown_here(failing([error]))
