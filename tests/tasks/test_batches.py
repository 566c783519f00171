import pytest

from config.errors import EndpointDown
from tasks.batches import call_batches, whole_stage


@pytest.fixture(scope="module", autouse=True)
def quick_retries():
    import tasks.batches

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.batches, "RETRY_DELAY_S", [0, 0])
        yield


@pytest.fixture(scope="module", autouse=True)
def prefect_server():
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


async def test_an_error_that_may_pass_is_tried_again():
    tries = []

    async def run(batch):
        tries.append(batch)
        if len(tries) < 3:
            raise ConnectionResetError("a passing fault")
        return {"rows": 1}

    from stages.calls import Batch

    batch = Batch("caption", "work/x.parquet", 4)
    assert await call_batches("caption")(run)(batch) == {"rows": 1}
    assert tries == [batch] * 3


async def test_a_stop_on_purpose_is_not_tried_again():
    tries = []

    def run():
        tries.append(1)
        raise EndpointDown("dead")

    with pytest.raises(EndpointDown, match="dead"):
        await whole_stage("scan", run)
    assert tries == [1]
