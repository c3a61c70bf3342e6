"""How a job comes to its Ray: one that is started for it on this machine, or a cluster."""

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
PACKAGES = ("data", "losses", "models", "utils")  # what workers of a cluster import


def import_ray() -> ModuleType:
    """Return Ray with Ray Data.

    Raises:
        RunError: it is not installed.
    """
    # Or Ray Data warns of actors of its own making, and Ray of a change to come.
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
    """Be connected to a cluster, or to a Ray of our own on this machine, for as long as the context lasts.

    A Ray that this process is connected to already is used, and left connected.

    Args:
        ray: as `import_ray` gives it.
        address: HOST:PORT of the cluster's head, or "local"; None for RAY_ADDRESS, or local without it.
        actors: how many are wanted; a Ray of our own pretends to as many cores.

    Raises:
        RunError: no such cluster, or Ray cannot be started.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        quiet |= {"include_dashboard": False, "num_cpus": max(default_workers(), actors or 1)}
    else:
        check_address(address)
        # Parted packages instead of a working_dir: paths stay what they are, and nothing else is uploaded.
        quiet["runtime_env"] = {"py_modules": [str(ROOT / name) for name in PACKAGES], "excludes": ["__pycache__"]}
    try:
        with _no_stderr():
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        remedy = "" if address == "local" else " (RAY_AUTH_MODE=token, where the cluster asks for its token)"
        raise RunError(f"Ray at {address} cannot be reached or started: {last_line(error)}{remedy}") from error
    try:
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Check that a cluster's head answers: Ray itself goes on trying for minutes.

    Raises:
        RunError: it does not, or the address is no HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise RunError(
            f"{address}: give the cluster as HOST:PORT (port 6379, as a rule), on a machine of the cluster; or `local`"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"{address}: no Ray answers there ({error}); start it, or give another --ray_address") from error


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Drop what is written to standard error, by Ray's own C++ too, which tells there how much it is going to tell."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def last_line(error: Exception) -> str:
    """Return the end of an error's message, where Ray has the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
