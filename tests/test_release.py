"""What an index shows of the project: links that lead somewhere, and claims that are kept."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from happyhorse_async import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SOURCE = PROJECT["urls"]["Source"]
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", ["README.md", ".github/llms.txt"])
def test_every_link_of_a_page_that_travels_is_absolute_and_leads_somewhere(page: str) -> None:
    """On an index there is no folder around the page. So links name the repository, and what they
    name is there.
    """
    links = LINK.findall((ROOT / page).read_text("utf-8"))
    assert links
    for link in links:
        there = re.fullmatch(rf"{re.escape(SOURCE)}/(blob|tree)/main/(.+)", link)
        assert there, f"{link}: not a link into {SOURCE}"
        path = ROOT / there[2]
        assert path.is_dir() if there[1] == "tree" else path.is_file(), link


def test_the_projects_links_are_of_one_repository() -> None:
    """Who moves the repository has to change all of them, and this test finds those left behind."""
    assert all(url.startswith(SOURCE) for url in PROJECT["urls"].values())
    assert {"Homepage", "Documentation", "Changelog", "Issues", "Source"} == set(PROJECT["urls"])


def test_the_versions_of_python_are_those_that_ci_runs() -> None:
    """A classifier is a claim: CI runs the tests on each version and each system that one names."""
    claimed = {
        found[1] for line in PROJECT["classifiers"] if (found := re.search(r":: (3\.\d+)$", line))
    }
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    (versions,) = re.findall(r"python: \[([^\]]+)\]", workflow)
    assert claimed == set(re.findall(r'"([^"]+)"', versions))
    systems = " ".join(line for line in PROJECT["classifiers"] if "Operating System" in line)
    for runner, name in (("ubuntu", "Linux"), ("macos", "MacOS"), ("windows", "Windows")):
        assert (f"{runner}-latest" in workflow) == (name in systems)


def test_the_readme_names_the_wheel_that_is_built() -> None:
    """The file name in the README is the one that this version has."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert f"happyhorse_async-{__version__}-py3-none-any.whl" in text


def test_what_may_publish_is_named_by_its_commit() -> None:
    """A tag of somebody else's action can be moved to other code, which would publish too."""
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text("utf-8")
    actions = re.findall(r"uses: (.*)", workflow)
    assert actions
    assert [each for each in actions if not re.match(r"[\w/-]+@[0-9a-f]{40}  # v\d", each)] == []


def test_what_every_extra_brings_is_looked_at_for_known_holes() -> None:
    """The audit and the list of contents are of an environment with all extras."""
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text("utf-8")
    (named,) = re.findall(r"dist/\*\.whl\)\[([\w,-]+)\]", workflow)
    assert set(named.split(",")) == set(PROJECT["optional-dependencies"])
