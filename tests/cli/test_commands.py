"""The command as a whole: its pages, its names, completion, profiles and shared options."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from happyhorse_async import ConfigurationError
from happyhorse_async.cli import _help, _profiles
from happyhorse_async.cli._app import NEEDS_NO_KEY, app
from happyhorse_async.cli._help import NAMES, completion_variable
from happyhorse_async.cli._profiles import _key, alone, config_folder, keep, profiles
from happyhorse_async.sandbox import Fault, Sandbox
from tests.cli.process import LINK, ROOT, happyhorse, start

CLI = ROOT / "happyhorse_async" / "cli"


@pytest.fixture
async def world(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service in the test's process, for a command in another one."""
    async with Sandbox(video="stub", task_seconds=4, speed=20) as sandbox:
        yield sandbox


def leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Give every command that does something, with its full name."""
    inner = getattr(command, "commands", None)
    if not inner:
        yield name, command
    for word, child in (inner or {}).items():
        yield from leaves(child, f"{name} {word}")


def commands() -> list[tuple[str, Any]]:
    """Give every command of the program."""
    group = typer.main.get_command(app)
    found = [(name, group.get_command(None, name)) for name in _help.COMMANDS]  # type: ignore
    return [leaf for name, command in found for leaf in leaves(command, name)]


@pytest.mark.parametrize(("name", "command"), commands())
def test_help_names_what_an_option_takes(name: str, command: Any) -> None:
    """No type of Python stands for it, and who repeats a value is shown dots once."""
    told = CliRunner().invoke(app, [*name.split(), "--help"]).output
    usage, _, rest = told.partition("Options:")
    assert "...}" not in usage, usage
    assert "<list" not in rest, rest


@pytest.mark.parametrize(("name", "command"), commands())
def test_every_command_has_an_example_and_the_variables(name: str, command: Any) -> None:
    """--help of each command shows a line that can be typed, and what the environment may say."""
    example = f"Example: happyhorse {name}"
    assert example in (command.help or ""), name
    if name.partition(" ")[0] not in NEEDS_NO_KEY:
        assert "EVOLINK_API_KEY" in (command.epilog or "")
        assert {"--profile", "--proxy", "--debug"} <= {
            option for param in command.params for option in param.opts
        }


def test_the_page_is_there_before_typer() -> None:
    """`happyhorse --help` loads neither typer nor asyncio, and its sentences fit a terminal."""
    heavy = "typer", "rich", "asyncio", "attr", "aiohttp"
    script = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from happyhorse_async.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    said = subprocess.check_output([sys.executable, "-c", script], text=True, cwd=ROOT)
    page, _, loaded = said.rstrip().rpartition("\n")
    assert loaded == "[]"
    assert page == _help.page()
    assert max(map(len, page.splitlines())) <= 80


def test_no_module_of_the_command_is_loaded_before_it_is_used() -> None:
    """The page names the commands by text; no other module of ours imports them all."""
    tree = ast.parse((CLI / "_app.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    used = {where.partition(":")[0] for where, _ in _help.COMMANDS.values()} - {"_app"}
    assert not imported & used


def test_both_names_of_the_command_are_declared() -> None:
    """Another package installs `happyhorse` too, so there is a second name."""
    from importlib.metadata import entry_points

    scripts = {found.name: found.value for found in entry_points(group="console_scripts")}
    assert {scripts[name] for name in NAMES} == {"happyhorse_async.cli:main"}


@pytest.mark.anyio
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("shell", "offer"), [("bash", "generate"), ("zsh", '"generate":"'), ("fish", "generate\t")]
)
async def test_completion(tmp_path: Path, shell: str, offer: str, name: str) -> None:
    """The script of each shell calls the command back, without an argument. Then it offers its
    commands and nothing else, such as the words of its page.
    """
    script = await happyhorse("completion", shell, cwd=tmp_path)
    assert (script.code, "_HAPPYHORSE_COMPLETE=complete_" in script.out) == (0, True), script.err
    offered = await happyhorse(
        cwd=tmp_path,
        _TYPER_COMPLETE_ARGS=f"{name} gen",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
        COMP_WORDS=f"{name} gen",
        COMP_CWORD="1",
        **{completion_variable(name): f"complete_{shell}"},
    )
    assert (offered.code, offered.out.count("\n")) == (0, 1), offered.err
    assert offer in offered.out


# --- profiles and shared options ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {}, "/home/me/.config/happyhorse"),
        ("linux", {"XDG_CONFIG_HOME": "/xdg"}, "/xdg/happyhorse"),
        ("linux", {"XDG_CONFIG_HOME": "relative"}, "/home/me/.config/happyhorse"),
        ("darwin", {}, "/home/me/Library/Application Support/happyhorse"),
        ("win32", {"APPDATA": "/app"}, "/app/happyhorse"),
        ("win32", {}, "/home/me/AppData/Roaming/happyhorse"),
        ("linux", {"HAPPYHORSE_CONFIG_DIR": "/mine", "XDG_CONFIG_HOME": "/xdg"}, "/mine"),
    ],
)
def test_the_folder_for_settings(platform: str, variables: dict[str, str], folder: str) -> None:
    """Each platform's own folder; a variable of ours wins over all of them."""
    found = config_folder(platform, variables, Path("/home/me"))
    assert PurePosixPath(found) == PurePosixPath(folder)


def test_no_key_is_read_from_a_closed_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the profile keeps its key, or the command says that it needs one."""
    monkeypatch.setattr(sys, "stdin", None)
    assert _key() == ""


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_ends_the_question_for_a_key(tmp_path: Path, number: int) -> None:
    """At once, with exit code 130, and no profile is made."""
    terminal, other_end = os.openpty()
    process = await start("profile", "set", "mine", cwd=tmp_path, stdin=other_end)
    os.close(other_end)
    assert process.stderr is not None
    async with asyncio.timeout(100):
        await process.stderr.readuntil(b"API key")
        process.send_signal(number)
        _, err = await process.communicate()
    os.close(terminal)
    assert (process.returncode, b"interrupted" in (err or b"")) == (130, True), err
    assert not (tmp_path / "config" / "profiles.json").exists()


@pytest.mark.anyio
async def test_a_profile_without_a_name_is_refused(tmp_path: Path) -> None:
    """`--profile ""` would be no profile, so nobody could use it."""
    ran = await happyhorse("profile", "set", " ", cwd=tmp_path, stdin=b"k" * 20)
    assert (ran.code, "expected a name" in ran.err) == (2, True), ran.err


def test_profiles_without_a_place_say_where_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that takes no file, as in a container, and a user without one get no traceback."""
    monkeypatch.setenv("HAPPYHORSE_CONFIG_DIR", "/proc/nowhere")
    with pytest.raises(ConfigurationError, match="cannot be written") as refused:
        keep({})
    assert "HAPPYHORSE_CONFIG_DIR" in str(refused.value.next_step)
    for variable in ("HAPPYHORSE_CONFIG_DIR", "XDG_CONFIG_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)  # as `docker run --user` has it
    with pytest.raises(ConfigurationError, match="no home folder") as refused:
        profiles()
    assert "HAPPYHORSE_CONFIG_DIR" in str(refused.value.next_step)


@pytest.mark.anyio
async def test_profiles_that_are_set_at_once_are_all_kept(tmp_path: Path) -> None:
    """No process writes over what another one has written since it read."""
    names = [f"mine-{number}" for number in range(12)]

    async def change(*words: str) -> None:
        ran = await happyhorse("profile", *words, cwd=tmp_path, stdin=b"k" * 20)
        assert ran.code == 0, ran.err

    await asyncio.gather(*(change("set", name) for name in names))
    path = tmp_path / "config" / "profiles.json"
    assert sorted(json.loads(path.read_text())) == sorted(names)
    await asyncio.gather(*(change("remove", name) for name in names[1:]))
    assert [*json.loads(path.read_text())] == names[:1]


@pytest.mark.anyio
async def test_profiles_that_stay_in_use_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that hangs while it changes them is named, and nothing is changed beside it."""
    monkeypatch.setenv("HAPPYHORSE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setattr(_profiles, "LONGEST_WAIT", 0.0)
    async with alone():
        with pytest.raises(ConfigurationError, match=f"process {os.getpid()} on"):
            async with alone():
                raise AssertionError("two at once")


@pytest.mark.anyio
async def test_a_profile_has_the_key_and_the_hosts(world: Sandbox, tmp_path: Path) -> None:
    """A profile is made from a pipe, works in every command, and shows its key nowhere."""
    made = await happyhorse(
        *("profile", "set", "mine", "--base-url", world.url, "--files-url", world.files_url),
        cwd=tmp_path,
        stdin=f"{world.key}\n".encode(),
    )
    assert made.code == 0, made.err
    path = tmp_path / "config" / "profiles.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    shown = await happyhorse("credits", "--profile", "mine", cwd=tmp_path)
    assert (shown.code, "1,000,000 credits left" in shown.out) == (0, True), shown.err
    by_variable = await happyhorse("credits", cwd=tmp_path, HAPPYHORSE_PROFILE="mine")
    assert by_variable.code == 0, by_variable.err
    listed = await happyhorse("profile", "list", cwd=tmp_path)
    assert listed.out.startswith("mine  base_url=")
    assert world.key not in listed.out + made.out + made.err
    path.chmod(0o644)
    refused = await happyhorse("credits", "--profile", "mine", cwd=tmp_path)
    assert (refused.code, f"chmod 600 {path}" in refused.err) == (2, True), refused.err
    path.chmod(0o600)
    none = await happyhorse("credits", "--profile", "other", cwd=tmp_path)
    assert (none.code, "happyhorse profile set other" in none.err) == (2, True), none.err
    gone = await happyhorse("profile", "remove", "mine", cwd=tmp_path)
    assert (gone.code, json.loads(path.read_text())) == (0, {}), gone.err


@pytest.mark.anyio
async def test_options_for_key_host_and_proxy(world: Sandbox, tmp_path: Path) -> None:
    """--api-key and --base-url do without the environment; a dead --proxy is named as such."""
    hosts = ("--api-key", world.key, "--base-url", world.url)
    assert (await happyhorse("credits", *hosts, cwd=tmp_path)).code == 0
    dead = await happyhorse("credits", *hosts, "--proxy", "http://127.0.0.1:9", cwd=tmp_path)
    assert (dead.code, "--proxy" in dead.err) == (5, True), dead.err
    past = await happyhorse(
        "credits", *hosts, "--proxy", "-", cwd=tmp_path, HTTP_PROXY="http://127.0.0.1:9"
    )
    assert past.code == 0, past.err
    wrong = await happyhorse("credits", *hosts, "--allow", "nonsense", cwd=tmp_path)
    missing = await happyhorse("credits", *hosts, "--ca-file", "none.pem", cwd=tmp_path)
    assert (wrong.code, missing.code) == (2, 2), wrong.err + missing.err
    assert "Traceback" not in wrong.err + missing.err


@pytest.mark.anyio
async def test_verbose_says_what_happens_and_debug_where(world: Sandbox, tmp_path: Path) -> None:
    """-v has a line for each event, with its key and task; --debug shows an error's traceback."""
    ran = await happyhorse("generate", LINK, "-y", "-v", cwd=tmp_path, world=world)
    assert ran.code == 0, ran.err
    assert "Submitting: idempotency_key=" in ran.err
    assert f"Submitted: task_id={world.tasks[0].id}" in ran.err
    assert world.key not in ran.err
    world.fail(Fault("refuse", path="/v1/credits", status=401, times=None))
    failed = await happyhorse("credits", "--debug", cwd=tmp_path, world=world)
    assert (failed.code, "Traceback" in failed.err) == (5, True), failed.err
    assert world.key not in failed.err


@pytest.mark.anyio
async def test_models(world: Sandbox, tmp_path: Path) -> None:
    """`models` lists the ids that the key may use, one a line."""
    ran = await happyhorse("models", cwd=tmp_path, world=world)
    assert "happyhorse-1.0-image-to-video" in ran.out.split()


# --- doctor ---------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_doctor_looks_at_everything(world: Sandbox, tmp_path: Path) -> None:
    """Each check is ok or says what to do; with --json each is an object with fields."""
    ran = await happyhorse("doctor", "--json", cwd=tmp_path, world=world)
    found = {str(line["check"]): line for line in ran.lines()}
    assert ran.code == 0, ran.out
    assert {
        *("versions", "extras", "disk space", "locks", "descriptors", "TLS store", "proxy"),
        *("API host's name", "API host", "clock", "file host", "key"),
    } <= found.keys()
    assert float(found["key"]["credits"]) == 1_000_000
    assert abs(found["clock"]["skew_seconds"]) < 120
    assert all(line["next_step"] for line in found.values() if line["ok"] is False)
    assert world.key not in ran.out
    assert not list(tmp_path.glob(".happyhorse-doctor*"))


@pytest.mark.anyio
async def test_the_doctor_says_what_to_do(world: Sandbox, tmp_path: Path) -> None:
    """Without a key, with a refused key, with a host that is not there: a step for each."""
    no_key = await happyhorse("doctor", "--base-url", world.url, cwd=tmp_path)
    assert (no_key.code, "FAILS key" in no_key.out) == (2, True), no_key.out
    refused = await happyhorse("doctor", "--api-key", "sk-wrong", cwd=tmp_path, world=world)
    assert (refused.code, "EVOLINK_API_KEY, --api-key or --profile" in refused.out) == (5, True)
    nowhere = await happyhorse(
        "doctor", "--base-url", "http://127.0.0.1:9", cwd=tmp_path, world=world
    )
    assert (nowhere.code, "FAILS API host" in nowhere.out) == (5, True), nowhere.out
    proxied = await happyhorse("doctor", "--proxy", "http://127.0.0.1:9", cwd=tmp_path, world=world)
    assert (proxied.code, "FAILS proxy" in proxied.out) == (5, True), proxied.out


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 300]
)
async def test_the_doctor_names_a_host_that_speaks_something_else(
    tmp_path: Path, answer: bytes
) -> None:
    """A wrong port in --base-url, or a broken gateway, is a check that fails, and no traceback."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        url = f"http://{host}:{port}"
        ran = await happyhorse(
            *("doctor", "--base-url", url, "--files-url", url, "--api-key", "k" * 20), cwd=tmp_path
        )
    assert (ran.code, "Traceback" in ran.err) == (5, False), ran.err
    assert f"FAILS API host          {url}: its answer is no HTTP" in ran.out, ran.out


def test_the_doctor_names_a_python_without_sqlite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Pythons that are built on the machine itself often lack it, and batches need it."""
    from happyhorse_async.cli._checks import _locks

    assert _locks(tmp_path).ok is True
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    found = _locks(tmp_path)
    assert (found.ok, "no SQLite" in found.fact, bool(found.next_step)) == (False, True, True)


def test_the_doctor_knows_the_administrators_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a user may open no more files than too few, no command of the user's is advised."""
    import resource

    from happyhorse_async.cli._checks import _descriptors

    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 64))
    assert "administrator" in _descriptors().next_step
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 1024))
    assert _descriptors().next_step.endswith("ulimit -n 1024")


def test_the_doctor_says_nothing_wrong_of_a_proxy_over_tls() -> None:
    """It cannot speak through one, and a session can: so no check fails for that."""
    from happyhorse_async import Network
    from happyhorse_async._edges.connections import Route
    from happyhorse_async.cli._checks import _host

    route = Route(Network(trust_env=False, proxy="https://proxy.example.com:3129"))
    [found] = _host("API host", "https://api.example.com", route)
    assert (found.ok, "over TLS" in found.fact) == (None, True)


def test_the_doctor_knows_addresses_of_proxy_tools() -> None:
    """A name that answers with a fake-IP address is a note with the option that allows it."""
    from happyhorse_async import Network
    from happyhorse_async._edges.connections import Route
    from happyhorse_async.cli._checks import _name

    found = _name("API host's name", "http://198.18.0.7", Route(Network(trust_env=False)))
    assert found.ok is None
    assert "fake-IP" in found.next_step
    declared = Network(trust_env=False, allow=("198.18.0.0/15",))
    assert _name("API host's name", "http://198.18.0.7", Route(declared)).ok is True


if os.name != "posix":  # the modes of files are POSIX's
    del test_a_profile_has_the_key_and_the_hosts
