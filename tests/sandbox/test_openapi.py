"""The sandbox against its own OpenAPI documents: valid documents,
and answers that conform to them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from happyhorse_async.sandbox import Sandbox
from happyhorse_async.sandbox._handlers.control import document

pytestmark = pytest.mark.slow

CONFIG = """
[[operations]]
# Whether the service can fetch a URL is beyond what a document can say.
include-operation-id = "uploadUrl"
checks.positive_data_acceptance.enabled = false

[[operations]]
# Schemathesis fills a form from an earlier answer and then takes its own fields for foreign ones.
include-operation-id = "uploadStream"
checks.negative_data_rejection.enabled = false
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    """One sandbox for all generated requests."""
    with Sandbox(video="stub", seed=1) as sandbox:
        yield sandbox


@pytest.mark.parametrize("host", ["api", "files"])
def test_the_documents_are_valid_openapi(host: str) -> None:
    """A validator of OpenAPI 3.1 finds nothing wrong, and the server is the one that was asked."""
    told = document(host, "http://x")
    assert (told["openapi"], told["servers"]) == ("3.1.0", [{"url": "http://x"}])
    validate(told)


@pytest.mark.parametrize("host", ["api", "files"])
def test_generated_requests_find_no_500_and_no_answer_that_does_not_conform(
    running: Sandbox, tmp_path: Path, host: str
) -> None:
    """Schemathesis sends hundreds of good and bad requests: each answer has a documented status,
    type and shape.
    """
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    url = running.url if host == "api" else running.files_url
    before = len(running.requests)
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    command += ["--config-file", str(tmp_path / "schemathesis.toml"), "run", f"{url}/openapi.json"]
    command += [
        "--header",
        f"Authorization: Bearer {running.key}",
        "--max-examples",
        "20",
        "--generation-deterministic",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert len(running.requests) - before > 100
    assert all(record.status is not None and record.status < 500 for record in running.requests)
