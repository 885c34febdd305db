"""The page is one file that escapes what it shows, needs nothing else and fits a phone."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="figures need matplotlib")

from unirep_feast.report.page import render

CHROMIUM = shutil.which("chromium")

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")

EVIL = '<script>alert("x")</script>'


def task(name: str, metric: str, higher: bool) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "churn",
        "cut_off": "2024-05-01T00:00:00Z",
        "as_of": ["2024-05-01T00:00:00Z"],
        "metric": metric,
        "higher_is_better": higher,
        "description": f"about {name}",
        "rows": 90,
        "users": 80,
        "chance": {metric: 0.5},
    }


def entry(task: str, name: str, mean: float, rank: int, fraction: float = 1.0) -> dict[str, Any]:
    return {
        "task": task,
        "representation": name,
        "probe": "logistic",
        "label_fraction": fraction,
        "metric": "auc",
        "mean": mean,
        "std": 0.012,
        "n": 3,
        "rank": rank,
        "p_value": None if rank == 1 else 0.001,
        "best": rank == 1,
    }


def contents() -> dict[str, Any]:
    names = ["clue", "guim", "a name that is rather long for a phone"]
    board = [entry("churn", name, 0.8 - 0.1 * n, n + 1) for n, name in enumerate(names)]
    board += [entry("value", name, 1.1 + 0.1 * n, n + 1) for n, name in enumerate(names)]
    control = {"task": "churn", "control": True, "primary": True, "split": "test", "value": 0.497}
    measured = [
        {"representation": "clue", "run": "r", "as_of": "x", "measure": "uniformity", "value": -2.0}
    ]
    return {
        "created": "2024-06-01T00:00:00Z",
        "version": "1",
        "evaluation": {
            "format": 1,
            "name": "shop",
            "tasks": [task("churn", "auc", True), task("value", "rmse", False)],
            "leaderboard": board,
            "intrinsic": measured,
            "rows": [control],
            "control": True,
            "published": True,
        },
        "representation": {
            "name": "users",
            "run": "run-1",
            "facts": {
                "run": [["run", "run-1"], ["events from", EVIL]],
                "spec": f"name: {EVIL}",
                "checkpoints": [{"step": 3, "validation loss": None, "best": True}],
                "snapshots": [{"as of": "2024-05-01T00:00:00Z", "rows": 12_345}],
                "materializations": [],
                "promotions": [],
            },
            "curves": [
                {"kind": "step", "name": "loss", "steps": [1, 2], "values": [3.0, 2.0]},
                {"kind": "validation", "name": "loss", "steps": [1, 2], "values": [3.1, 2.2]},
            ],
            "map": {
                "method": "UMAP",
                "as_of": "2024-05-01T00:00:00Z",
                "users": 900,
                "sample": 3,
                "grouped_by": "category",
                "x": [0.0, 1.0, 2.0],
                "y": [0.0, 1.0, 0.5],
                "groups": ["toys", "tools"],
                "group": [0, 1, -1],
            },
            "neighbors": {
                "shared": {"grouped_by": "category", "near": 0.61, "any": 0.25},
                "users": [
                    {
                        "id": 7,
                        "latest": [EVIL, "a cup"],
                        "near": [{"id": 8, "score": 0.91, "latest": ["a saucer"]}],
                        "nearest_items": [{"title": "a spoon", "score": 0.7}],
                    }
                ],
            },
            "drift": [
                {
                    "as_of": f"2024-0{month}-01T00:00:00Z",
                    "users": 800 + month,
                    "effective_rank": 9.0,
                    "mean_shift": 0.01 * month,
                    "frechet": 0.02 * month,
                    "neighbors_kept": None if month == 1 else 0.8,
                }
                for month in (1, 2, 3)
            ],
        },
    }


def test_every_part_is_on_the_page_and_text_is_escaped() -> None:
    """A title that holds a tag stays text."""
    page = render(contents())
    for words in (
        "has the best mean rank over 2",
        "how many events a user has",
        "0.800",
        "knowing nothing",
        "0.497",
        "61 %",
        "a saucer",
        "a spoon",
        "12,345",
        "name: &lt;script&gt;",
    ):
        assert words in page, words
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 3


def test_it_loads_nothing_from_elsewhere() -> None:
    """No address that a browser would fetch: it opens from a mail, without a network."""
    page = render(contents())
    fetched = re.findall(r"""(?:src|href)\s*=\s*["']([^"'#][^"']*)""", page)
    assert [one for one in fetched if not one.startswith("data:image/png;base64")] == []
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_same_data_give_the_same_page() -> None:
    """So that a page can be kept under version control."""
    assert render(contents()) == render(contents())


@pytest.mark.parametrize("part", ["evaluation", "representation"])
def test_either_part_may_be_missing(part: str) -> None:
    """A report of a representation alone, or of an evaluation alone."""
    page = render(contents() | {part: None})
    gone = {"evaluation": "leaderboard", "representation": "lineage"}[part]
    assert f'id="{gone}"' not in page


def test_a_run_without_snapshots_has_its_lineage() -> None:
    """No map, no neighbors, no drift, and no empty heading for them."""
    bare = copy.deepcopy(contents())
    bare["representation"] |= {"map": None, "neighbors": None, "drift": [], "curves": []}
    page = render(bare)
    assert "<h2>Map" not in page
    assert "<h2>Neighbors" not in page
    assert "<h2>Drift" not in page
    assert "<h2>Lineage" in page


@needs_browser
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(tmp_path: Path, width: int) -> None:
    """On a phone and on a desk; wide tables scroll by themselves."""
    told = (
        "<script>document.title=[document.documentElement.scrollWidth,innerWidth,"
        "document.querySelectorAll('svg').length].join(' ')</script></body>"
    )
    # A browser's window is not narrower than 500 on a desk; a frame is as narrow as one likes.
    page = render(contents()).replace("</body>", told)
    (tmp_path / "page.html").write_text(page)
    frame = f'<iframe src="page.html" width="{width}" height="800" id="f"></iframe>'
    read = "<script>onload=()=>{document.title=f.contentDocument.title}</script>"
    (tmp_path / "frame.html").write_text(f"<!DOCTYPE html>{frame}{read}")
    dom = browser(tmp_path, "--dump-dom", tmp_path / "frame.html")
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", dom)
    assert found is not None, dom[:500]
    content, window, figures = map(int, found.groups())
    assert window <= width
    assert content <= window
    assert figures == 2 + 1 + 1 + 5  # tasks, map, loss, measures over snapshots


@needs_browser
def test_it_prints(tmp_path: Path) -> None:
    """To a PDF that holds something on every page."""
    (tmp_path / "page.html").write_text(render(contents()))
    pdf = tmp_path / "page.pdf"
    browser(tmp_path, f"--print-to-pdf={pdf}", tmp_path / "page.html")
    data = pdf.read_bytes()
    assert data.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 8


def browser(folder: Path, what: str, page: Path) -> str:
    """Run chromium on a page, without a network and with a profile of its own."""
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
        f"--user-data-dir={folder / 'profile'}",
        what,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
