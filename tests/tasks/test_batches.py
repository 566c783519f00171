import pytest

from config.errors import EndpointDown
from tasks.batches import call_batches, in_shards, whole_stage


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

    from stages.pending import Batch

    batch = Batch("caption", "work/000000.parquet", 4)
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


async def test_each_shard_of_a_large_stage_is_a_subflow_with_its_batches():
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run

    from stages.pending import Batch

    runs = {}

    async def run(batch):
        return {"rows": 1}

    @flow(persist_result=False)
    async def parent():
        runs["parent"] = flow_run.id
        shards, batches = in_shards("rewrite"), call_batches("rewrite")(run)
        for number in (1, 2):

            async def part(number=number):
                runs[number] = flow_run.id
                await batches(Batch("rewrite", "work/000000.parquet", number))

            await shards(number, 2, part)

        async def whole():
            runs["alone"] = flow_run.id

        await shards(1, 1, whole)

    await parent()
    assert runs["alone"] == runs["parent"]
    async with get_client() as client:
        found = [await client.read_flow_run(runs[number]) for number in (1, 2)]
    assert [made.name for made in found] == ["rewrite 1 of 2", "rewrite 2 of 2"]
    assert all(made.parent_task_run_id is not None for made in found)
