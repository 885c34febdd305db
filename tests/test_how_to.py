"""What the how-to pages show is what the code takes."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from unirep_feast.cli import main
from unirep_feast.evaluation.config import load_evaluation

PAGES = Path(__file__).parents[1] / "docs" / "pages" / "how-to"


def test_the_tasks_of_the_page_on_comparing_load(tmp_path: Path) -> None:
    """With the tasks that it names."""
    text = (PAGES / "compare.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "tasks.yaml").write_text(block)

    found = load_evaluation(tmp_path / "tasks.yaml", ())

    assert [task.name for task in found.tasks] == ["churn", "next"]


def test_every_command_and_option_of_the_pages_exists() -> None:
    """A page must not outlive what it shows."""
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
            for line in re.findall(r"^\$ unirep (.*)$", block, re.MULTILINE):
                words = line.partition("#")[0].split()
                command = words[:2] if words[0] in ("runs", "plugins", "db", "data") else words[:1]
                told = CliRunner().invoke(main, [*command, "--help"])
                assert told.exit_code == 0, f"{page.name}: unirep {line}"
                for option in (word for word in words if word.startswith("--")):
                    assert option in told.output, f"{page.name}: unirep {line}"
