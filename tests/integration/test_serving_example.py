"""The serving example runs here: online vectors from Redis, and through Feast's server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]


def test_the_serving_example_runs_against_redis(tmp_path: Path, redis_url: str) -> None:
    """Both ways give the same vectors; afterwards nothing of it is left in Redis."""
    import redis

    parts = urlsplit(redis_url)
    address = f"{parts.hostname}:{parts.port or 6379}"
    if parts.password:
        address += f",password={parts.password}"
    command = [sys.executable, str(ROOT / "examples" / "serving.py"), "--redis", address]

    done = subprocess.run(
        [*command, "--users", "200"], cwd=tmp_path, text=True, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "redis: (" in done.stdout
    assert "equal to the tensors bit by bit" in done.stdout
    (line,) = [
        line
        for line in (tmp_path / "serving/feature_store.yaml").read_text().splitlines()
        if line.startswith("project: ")
    ]
    project = line.removeprefix("project: ").encode()
    with redis.Redis.from_url(redis_url) as client:
        assert list(client.scan_iter(b"*" + project, count=10_000)) == []
