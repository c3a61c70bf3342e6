"""Connecting to Ray: errors are immediate, and a Ray that is already running is left alone."""

import socket
import sys
from types import SimpleNamespace

import pytest

from utils.bulk.ray_cluster import check_address, cluster, import_ray, last_line
from utils.errors import RunError


def test_without_ray_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"pip install -r requirements-ray\.txt"):
        import_ray()


@pytest.mark.parametrize("address", ["ray://head:10001", "http://127.0.0.1:8265", "head", ":6379", "head:port"])
def test_an_address_is_a_host_and_a_port(address):
    with pytest.raises(RunError, match="HOST:PORT") as raised:
        check_address(address)
    assert address in str(raised.value)


def test_a_head_that_does_not_answer_is_an_error_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_address(f"127.0.0.1:{port}")
    for nobody in (f"127.0.0.1:{port}", "127.0.0.1:99999"):
        with pytest.raises(RunError, match="no Ray answers"):
            check_address(nobody)


def test_a_ray_that_is_already_running_is_used_and_kept(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with cluster(SimpleNamespace(is_initialized=lambda: True), None, None):
        pass  # neither init nor shutdown was called


def fake_ray(error: Exception | None = None) -> SimpleNamespace:
    """Return a stand-in for Ray that records its calls."""
    calls = []

    def init(address: str, **options) -> None:
        calls.append((address, options))
        if error:
            raise error

    return SimpleNamespace(
        is_initialized=lambda: False, init=init, shutdown=lambda: calls.append("shutdown"), calls=calls
    )


def test_a_local_ray_has_room_for_every_actor_and_ends_with_the_job(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray = fake_ray()
    with pytest.raises(KeyError), cluster(ray, None, 1000):
        raise KeyError
    (address, options), end = ray.calls
    assert address == "local"
    assert options["num_cpus"] == 1000
    assert not options["include_dashboard"]
    assert "runtime_env" not in options
    assert end == "shutdown"


def test_a_cluster_gets_the_packages_and_nothing_else(monkeypatch):
    ray = fake_ray()
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with cluster(ray, None, 2):
            pass
    options = ray.calls[0][1]
    assert sorted(path.rsplit("/", 1)[1] for path in options["runtime_env"]["py_modules"]) == [
        "data",
        "losses",
        "models",
        "utils",
    ]
    assert "num_cpus" not in options


def test_a_ray_that_does_not_start_is_one_clear_error():
    with (
        pytest.raises(RunError, match="local cannot be reached or started: no room"),
        cluster(fake_ray(RuntimeError("a trace\nno room\n")), "local", None),
    ):
        pass


def test_the_cause_is_the_last_line_of_an_error():
    assert last_line(ValueError("ray::task()\n  File x\nKeyError: 'a'\n\n")) == "KeyError: 'a'"
    assert last_line(ValueError()) == "ValueError"
