"""What a stock crunch-run and a stock ``arvados-client logs`` ask of the embedded API, as doubles of both ask it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from arv_ssh.config import cluster_config
from tests.integration.controllers import Controller, controller, new_user
from tests.integration.embedded_cluster import BUSYBOX, EmbeddedCluster
from tests.stock.crunch_run_calls import Api, ApiError, StockRun
from tests.stock.logs import FILES, StockLogs
from tests.timing import wait_for

WORK = {
    "state": "Committed", "priority": 1, "command": ["true"], "container_image": BUSYBOX, "cwd": ".",
    "output_path": "/tmp", "use_existing": False,
}  # fmt: skip
LOG = ". acbd18db4cc2f85cedef654fccc4a4d8+3+A0123abc@5f00 0:3:crunch-run.txt\n"
MORE = LOG + "./dir 37b51d194a7513e45b56f6524f2d51f2+3+A0123abc@5f00 0:3:stderr.txt\n"
OUTPUT = ". 37b51d194a7513e45b56f6524f2d51f2+3 0:3:result\n"


@pytest.fixture(scope="module")
def context(cluster: EmbeddedCluster) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(cluster.directory.ca))


@pytest.fixture(scope="module")
def alone(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """A controller with a database of its own and no dispatcher: the double is the one that runs containers."""
    directory = tmp_path_factory.mktemp("controller")
    database = {"Database": f"sqlite:///{directory}/db.sqlite"}
    with controller(cluster, directory, {"User": True}, EmbeddedAPI=database) as running:
        yield running


@pytest.fixture(scope="module")
def active(alone: Controller, context: ssl.SSLContext) -> Api:
    """The API as a user calls it."""
    return Api(alone.address, context, new_user(alone.root, "active")[1])


@pytest.fixture(scope="module")
def dispatcher(cluster: EmbeddedCluster, alone: Controller, context: ssl.SSLContext) -> Api:
    """The API as a dispatcher calls it, which hands its token to crunch-run."""
    return Api(alone.address, context, cluster_config.load(cluster.directory.config).system_root_token)


def submit(active: Api, dispatcher: Api) -> tuple[str, str]:
    """Submit a request and lock its container; return both UUIDs."""
    request = active.call("POST", "/arvados/v1/container_requests", container_request=WORK)
    dispatcher.call("POST", f"/arvados/v1/containers/{request['container_uuid']}/lock")
    return request["uuid"], request["container_uuid"]


def test_crunch_run(active: Api, dispatcher: Api) -> None:
    """A stock crunch-run takes a container from Locked to Complete; its user has the log and the output."""
    request_uuid, uuid = submit(active, dispatcher)
    run = StockRun(dispatcher, uuid, "10.0.0.7:12345")
    run.start()
    assert run.container["command"] == ["true"]
    run.mount()
    run.save_log(LOG)
    run.running()
    run.report(runtime_status={"warning": "x", "warningDetail": "y"})
    run.report(cost=0.1)
    run.report_log(MORE)
    live = active.call("GET", f"/arvados/v1/container_requests/{request_uuid}")
    assert active.call("GET", f"/arvados/v1/collections/{live['log_uuid']}")["file_count"] == 4
    run.report(exit_code=0)
    run.end("Complete", MORE, 0, run.save_output(OUTPUT))
    final = active.call("GET", f"/arvados/v1/container_requests/{request_uuid}")
    container = active.call("GET", f"/arvados/v1/containers/{uuid}")
    assert (final["state"], container["exit_code"], container["cost"]) == ("Final", 0, 0.25)
    log = active.call("GET", f"/arvados/v1/collections/{final['log_uuid']}")
    text = log["manifest_text"]
    assert f"./log\\040for\\040container\\040{uuid} acbd18db" in text and "+A" not in text
    by_hash = active.call("GET", f"/arvados/v1/collections/{container['output']}")
    assert by_hash["manifest_text"] == OUTPUT
    assert active.call("GET", f"/arvados/v1/collections/{container['log']}")["manifest_text"] == MORE.replace(
        "+A0123abc@5f00", ""
    )


def test_crunch_run_that_fails(active: Api, dispatcher: Api) -> None:
    """An attempt that ends before the container runs leaves it to the next one, or says why there is none."""
    request_uuid, uuid = submit(active, dispatcher)
    run = StockRun(dispatcher, uuid, "10.0.0.7:12345")
    run.start()
    with pytest.raises(ApiError, match="gateway_address of container .* cannot be changed while it is Locked"):
        run.report(gateway_address="10.0.0.7:1")
    run.report(runtime_status={"error": "no such image"})
    dispatcher.call("POST", f"/arvados/v1/containers/{uuid}/unlock")
    dispatcher.call("POST", f"/arvados/v1/containers/{uuid}/lock")
    again = StockRun(dispatcher, uuid, "10.0.0.8:12345")
    again.start()
    assert again.container["runtime_status"] == {}
    again.save_log(LOG, final=True)
    again.report(state="Cancelled", runtime_status={"error": "no such image"}, cost=0.1)
    assert active.call("GET", f"/arvados/v1/container_requests/{request_uuid}")["state"] == "Final"


def logs(cluster: EmbeddedCluster, context: ssl.SSLContext, uuid: str) -> tuple[StockLogs, str]:
    """Return stock's client for the log of a container, as the active user, and the request's UUID."""
    (request,) = cluster.api().list("container_requests", filters=[["container_uuid", "=", uuid]])["items"]
    address = cluster_config.load(cluster.directory.config).controller_url.removeprefix("https://")
    token = cluster.directory.token_file("active").read_text().strip()
    return StockLogs(address, context, token, request["uuid"]), request["uuid"]


def said_by_the_program(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("stderr.txt")]


def test_logs(cluster: EmbeddedCluster, context: ssl.SSLContext) -> None:
    """Stock's client shows the log of a container that runs, and asks for nothing but what it is known to ask for."""
    uuid = cluster.run("sh", "-c", "echo first >&2; exec sleep 1000000")
    wait_for(lambda: cluster.log_text(uuid, "stderr.txt"), "its first words")
    client, request = logs(cluster, context, uuid)
    assert (client.run(follow=False), client.said) == (
        0, [f"connected, polling for log data from container {uuid}"],
    )  # fmt: skip
    assert said_by_the_program(client.lines) == ["stderr.txt     first"]
    assert any(line.startswith("crunch-run.txt") for line in client.lines)
    one, log = f"/arvados/v1/container_requests/{request}", f"/arvados/v1/container_requests/{request}/log"
    assert client.asked == [
        ("OPTIONS", log, ""),
        ("GET", one, ""),
        *(("GET", f"{log}/{uuid}/{name}", "-0") for name in FILES),
        *(("GET", f"{log}/{uuid}/{name}", "0-") for name in FILES),
    ]


def test_logs_to_the_end(cluster: EmbeddedCluster, context: ssl.SSLContext) -> None:
    """With -f it goes on from the gateway's log to the kept one, to the last word, and shows nothing twice."""
    uuid = cluster.run("sh", "-c", "echo first >&2; while [ ! -e /tmp/end ]; do sleep 0.1; done; echo last >&2")
    client, _ = logs(cluster, context, uuid)
    polls = 0

    def poll() -> None:
        nonlocal polls
        polls += 1
        if polls == 1:
            cluster.ssh(uuid, "touch /tmp/end")
            cluster.wait_for_state(uuid, "Complete")

    client._pause = poll
    assert (client.run(follow=True), client.said[1:]) == (0, [])
    assert said_by_the_program(client.lines) == ["stderr.txt     first", "stderr.txt     last"]
    assert polls == 1
    after, _ = logs(cluster, context, uuid)
    assert after.run(follow=False) == 0 and sorted(after.lines) == sorted(client.lines)


def test_logs_of_others(cluster: EmbeddedCluster, context: ssl.SSLContext) -> None:
    """A request that the user cannot read is an error, not an empty log."""
    client, _ = logs(cluster, context, cluster.run("sleep", "1000000"))
    client._token = cluster.directory.token_file("spectator").read_text().strip()
    assert client.run(follow=False) == 1 and "was not found" in client.said[0]
