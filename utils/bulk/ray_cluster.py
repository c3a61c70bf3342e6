"""Connecting a job to Ray: to a cluster, or to a Ray that is started for the job on this machine."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from utils.distributed import default_workers
from utils.errors import RunError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("data", "losses", "models", "utils")  # uploaded to the workers of a cluster


def import_ray() -> ModuleType:
    """Return Ray with Ray Data.

    Raises:
        RunError: it is not installed.
    """
    # Without these, Ray Data warns about its own actors, and Ray about a coming change of its defaults.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RunError(f"--ray needs Ray Data ({error}): pip install -r requirements-ray.txt") from None
    return ray


@contextmanager
def cluster(ray: ModuleType, address: str | None, actors: int | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine, while the context lasts.

    If this process is already connected to a Ray, that one is used and stays connected.

    Args:
        ray: from `import_ray`.
        address: HOST:PORT of the cluster's head, or "local"; None for RAY_ADDRESS or, if that is not set, local.
        actors: number of actors; a local Ray counts at least as many cores.

    Raises:
        RunError: there is no such cluster, or Ray cannot be started.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"include_dashboard": False, "num_cpus": max(default_workers(), actors or 1)}
    else:
        check_address(address)
        # Single packages instead of a working_dir: relative paths keep their meaning, and nothing else is uploaded.
        options["runtime_env"] = {"py_modules": [str(ROOT / name) for name in PACKAGES], "excludes": ["__pycache__"]}
    try:
        with _no_stderr():
            ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        remedy = "" if address == "local" else " (set RAY_AUTH_MODE=token if the cluster asks for a token)"
        raise RunError(f"Ray at {address} cannot be reached or started: {last_line(error)}{remedy}") from error
    try:
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Check that the head of a cluster answers, because Ray itself would retry for minutes.

    Raises:
        RunError: it does not answer, or the address is not HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise RunError(f"{address}: give HOST:PORT (by default port 6379) of the cluster's head, or `local`")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"{address}: no Ray answers there ({error}); start it, or give another --ray_address") from error


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Discard standard error, including that of Ray's C++ code, which writes to the file descriptor."""
    saved = os.dup(2)
    with Path(os.devnull).open("w") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def last_line(error: Exception) -> str:
    """Return the last line of an error's message, where Ray puts the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
