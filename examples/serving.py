"""Fetch user vectors online the two ways a service does: as tensors, and over HTTP.

    python examples/serving.py                            Redis at 127.0.0.1:6379
    python examples/serving.py --redis host:6379,password=…
    python examples/serving.py --sqlite                   no server at hand

A small synthetic world, a short training, one `feast materialize` (the engine encodes), then 1,000
requests from this process and some through `feast serve`. Everything lands in ./serving, which is
made anew; at the end the keys are removed from Redis again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SPEC, VIEW = "purchases_clue.yaml", "purchases_clue"
UNTIL, AS_OF = "2024-06-01T00:00:00", "2024-12-01T00:00:00"


def main() -> None:
    """Run all steps and print what they did."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--folder", type=Path, default=Path("serving"))
    arguments.add_argument("--redis", default="127.0.0.1:6379", help="Feast's connection_string")
    arguments.add_argument("--sqlite", action="store_true", help="use a file instead of Redis")
    arguments.add_argument("--users", type=int, default=300)
    options = arguments.parse_args()
    repo = options.folder.resolve()
    online = {"type": "redis", "connection_string": options.redis}
    write_repo(repo, {"type": "sqlite", "path": "data/online.db"} if options.sqlite else online)

    run(repo, "unirep", "data", "synth", "data", "--users", str(options.users), "--seed", "7")
    run(repo, "feast", "apply")
    run(repo, "unirep", "train", SPEC)
    try:
        run(repo, "feast", "materialize", UNTIL, AS_OF)
        users = known_users(repo)
        vectors = fetch_tensors(repo, users)
        fetch_http(repo, users, vectors)
    finally:
        run(repo, "feast", "teardown")


def write_repo(repo: Path, online: dict[str, Any]) -> None:
    """Copy the feature repo and change what differs: the stores, the engine, a short training."""
    shutil.rmtree(repo, ignore_errors=True)
    shutil.copytree(
        ROOT / "feature_repo", repo, ignore=shutil.ignore_patterns("data", "__pycache__")
    )
    (repo / "data").mkdir()
    path = repo / "feature_store.yaml"
    config = yaml.safe_load(path.read_text())
    config |= {
        "project": f"serving_{os.getpid()}",  # Redis may be shared: keys of our own
        "online_store": online,
        "batch_engine": {"type": "unirep_feast.feature_store.engine.UnirepComputeEngine"},
    }
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    path = repo / SPEC
    spec = yaml.safe_load(path.read_text())
    spec["training"] |= {"until": UNTIL, "epochs": None, "max_steps": 10, "validate_every": 10}
    path.write_text(yaml.safe_dump(spec, sort_keys=False))


def known_users(repo: Path) -> np.ndarray:
    """Users of the promoted run's snapshot."""
    from unirep_feast.snapshot import read_vectors

    (snapshot,) = (repo / "data/unirep" / VIEW / "snapshots/promoted").glob("*.parquet")
    return read_vectors(snapshot)[0].to_numpy()


def fetch_tensors(repo: Path, users: np.ndarray) -> np.ndarray:
    """Ask the online store from Python, as a service with torch in it does."""
    from feast import FeatureStore

    from unirep_feast.feature_store.torch_data import online_user_vectors

    store = FeatureStore(str(repo))
    seconds = []
    for user in np.random.default_rng(0).choice(users, 1000):
        began = time.perf_counter()
        found = online_user_vectors(store, VIEW, [user])
        seconds.append(time.perf_counter() - began)
        assert found.mask.all()
    # One process fetches any number of users in one request; who is unknown is masked.
    found = online_user_vectors(store, VIEW, [*users, -1])
    assert found.mask[:-1].all() and not found.mask[-1]
    half, most = np.percentile(seconds, [50, 99]) * 1e3
    say(
        f"\n{store.config.online_store.type}: {tuple(found.vectors.shape)} {found.vectors.dtype}, "
        f"one user in {half:.2f} ms (p50), {most:.2f} ms (p99)"
    )
    return found.vectors[:-1].numpy()


def fetch_http(repo: Path, users: np.ndarray, vectors: np.ndarray) -> None:
    """Ask Feast's feature server, as a service in any language does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    say(f"\n$ feast serve -p {port}")
    command = [BIN / "feast", "serve", "-h", "127.0.0.1", "-p", str(port), "--no-access-log"]
    with (repo / "serve.log").open("w") as log:
        server = subprocess.Popen(command, cwd=repo, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        body = {
            "features": [f"{VIEW}:vector", f"{VIEW}:history_length"],
            "entities": {"user_id": users.tolist()},
        }
        began = time.perf_counter()
        answer = post(f"http://127.0.0.1:{port}/get-online-features", body)
        took = time.perf_counter() - began
    finally:
        server.terminate()
        server.wait(timeout=60)
    names = answer["metadata"]["feature_names"]
    served = np.float32(answer["results"][names.index("vector")]["values"])
    assert np.array_equal(served, vectors)  # JSON keeps every bit of a float32
    lengths = answer["results"][names.index("history_length")]["values"]
    say(f"feast serve: {len(users)} users in {took * 1e3:.0f} ms, equal to the tensors bit by bit")
    say(f"user {users[0]}: {served[0, :3].round(3).tolist()}… of {lengths[0]} events")


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("feast serve did not start; see serve.log") from None
            time.sleep(0.1)


def post(address: str, body: dict[str, Any]) -> Any:
    """Send JSON, read JSON."""
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def run(repo: Path, *command: str) -> None:
    """Run a command of this environment in the feature repo, showing it."""
    say("\n$ " + " ".join(command))
    subprocess.run([BIN / command[0], *command[1:]], cwd=repo, check=True)


def say(line: str) -> None:
    """Print at once, between the lines that commands print."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
