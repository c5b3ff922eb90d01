"""What holds for the repository as a whole: floors, purity, what the daemon loads, what documents claim."""

from __future__ import annotations

import ast
import json
import re
import shlex
import signal
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE_S, environment

ROOT = Path(__file__).parent.parent
PACKAGES = {"gateway": ROOT, "connectors": ROOT, "firmware_sim": ROOT / "firmware-sim"}

FLOORS = {
    1: {"", "names", "message", "errors", "limits", "clock", "metrics", "wire", "cep"},
    2: {"log", "metadata", "workers"},
    3: {"broker"},
    4: {"client"},
    5: {"functions", "replication", "tiering", "sql", "fleet", "http"},
    6: {"daemon", "cli", "config"},
}
"""Parts of `gateway` by floor, from the ground up. "" is the package itself, which holds the version."""
TOGETHER = [FLOORS[1], FLOORS[6], {"log", "metadata"}, {"tiering", "sql"}, {"http", "sql"}]
"""Parts of one floor that may know each other."""
DOORS_FOR_CONNECTORS = {"client", *FLOORS[1]}

IMPURE = {
    "asyncio", "concurrent", "http", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "selectors",
    "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "urllib",
}  # fmt: skip
"""What brings sockets, files, threads, clocks or chance."""
PURE = [
    "gateway/broker/settings.py",
    "gateway/config/positions.py",
    "gateway/config/units.py",
    "gateway/log/frames.py",
    "gateway/log/format.py",
    "gateway/message.py",
    "gateway/metadata/cursor.py",
    "gateway/metadata/fold.py",
    "gateway/names.py",
    "gateway/replication/progress.py",
    "gateway/replication/settings.py",
    "gateway/wire/batch.py",
    "gateway/wire/commands.py",
    "gateway/wire/compression.py",
    "gateway/wire/connection.py",
    "gateway/wire/entry.py",
    "gateway/wire/frames.py",
    "gateway/wire/protobuf.py",
    "connectors/mqtt/codec.py",
    "connectors/mqtt/sensor.py",
    "connectors/mqtt/session.py",
    "connectors/mqtt/topics.py",
]
"""Pure whatever their docstring says; every other module that calls itself pure is checked as well."""

LOADED_BY_RUN = {
    "anyio", "click", "connectors", "cython_runtime", "dateutil", "gateway", "google", "google_crc32c", "httptools",
    "lz4", "pluggy",
    "sniffio", "sqlite_fts4", "sqlite_utils", "starlette", "typing_extensions", "uvicorn", "zstandard",
}  # fmt: skip
"""Everything outside the standard library that an idle daemon with one MQTT sensor may load. pydantic and PyYAML are
not among it: a child process reads the configuration (`docs/decisions/0003-configuration-in-a-child.md`)."""

LINES_MAX = 600
EXCUSE = re.compile(r"longer than 600 lines because", re.IGNORECASE)


def _modules(package: str) -> Iterator[tuple[str, Path]]:
    folder = PACKAGES[package]
    for path in sorted((folder / package).rglob("*.py")):
        dotted = ".".join(path.relative_to(folder).with_suffix("").parts)
        yield dotted.removesuffix(".__init__"), path


def _imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere in it, type checking included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            assert node.module is not None
            found.add(node.module)
            # `from gateway import daemon` names a module as well as a package.
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module in PACKAGES}
    return found


def _part(module: str) -> str:
    parts = module.split(".")
    if len(parts) == 1 or parts[1].startswith("__"):
        return ""
    return parts[1]


def _floor(part: str) -> int:
    for floor, parts in FLOORS.items():
        if part in parts:
            return floor
    raise AssertionError(f"gateway/{part} stands on no floor: put it into FLOORS")


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git repository, so it can't be told which files belong to it")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


# Floors


def test_gateway_imports_only_downwards() -> None:
    """A part knows what stands below it, and on its own floor only itself."""
    wrong = []
    for module, path in _modules("gateway"):
        part = _part(module)
        for imported in _imports(path):
            if imported.split(".")[0] != "gateway":
                continue
            other = _part(imported)
            if not (ROOT / "gateway" / other).is_dir() and not (ROOT / "gateway" / f"{other}.py").is_file():
                # A name that the package itself holds, such as its version.
                continue
            if _floor(other) < _floor(part) or other == part:
                continue
            if not any({part, other} <= group for group in TOGETHER):
                wrong.append(f"{module} (floor {_floor(part)}) imports {imported} (floor {_floor(other)})")
    assert not wrong, "\n".join(wrong)


def test_services_reach_topics_through_the_door_only() -> None:
    """What serves around the broker uses `client.api`, so that it works the same in another process."""
    for part in FLOORS[5]:
        for module, path in _modules("gateway"):
            if _part(module) == part:
                used = {_part(imported) for imported in _imports(path) if imported.startswith("gateway.")}
                assert not used & (FLOORS[3] | FLOORS[2]), f"{module} reaches past the door"


def test_gateway_never_imports_connectors() -> None:
    """Connectors are found by entry point, so that one can be added without touching the gateway."""
    for module, path in _modules("gateway"):
        assert not any(imported.split(".")[0] == "connectors" for imported in _imports(path)), module


def test_connectors_use_the_door_and_the_ground_and_never_each_other() -> None:
    """A connector can be taken out, or moved into a process of its own, without any other noticing."""
    for module, path in _modules("connectors"):
        for imported in _imports(path):
            root, *rest = imported.split(".")
            if root == "gateway" and rest:
                assert _part(imported) in DOORS_FOR_CONNECTORS, f"{module} imports {imported}"
            if root == "connectors" and rest and (ROOT / "connectors" / rest[0]).is_dir():
                assert _part(module) == rest[0], f"{module} imports another connector: {imported}"
            assert root != "firmware_sim", module


def test_simulators_share_nothing_with_the_gateway() -> None:
    """A simulator that used our codec would agree with our mistakes."""
    for module, path in _modules("firmware_sim"):
        assert not {"gateway", "connectors"} & {imported.split(".")[0] for imported in _imports(path)}, module


# Purity and size


def _pure_modules() -> list[str]:
    declared = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for _, path in _modules(package)
        if re.search(r"\bPure\.", ast.get_docstring(ast.parse(path.read_text())) or "")
    }
    return sorted(declared | set(PURE))


@pytest.mark.parametrize("name", _pure_modules())
def test_pure_modules_do_no_io(name: str) -> None:
    """Sockets, files, threads, clocks and chance are handed in, so that a test holds all of them in its hand."""
    tree = ast.parse((ROOT / name).read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            used = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used = {str(node.module).split(".")[0]}
        else:
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func) in ("open", "print", "input")), name
            continue
        # A Path is a value until somebody opens it, which the next line would see as a call.
        assert not used & (IMPURE - {"pathlib"}), f"{name} imports {', '.join(used & IMPURE)}"
        assert not any(word in ast.unparse(tree) for word in (".read_text(", ".read_bytes(", ".write_"))


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_say_what_they_own_and_stay_short(package: str) -> None:
    """Every module begins with a docstring; one of more than 600 lines says in it why."""
    for module, path in _modules(package):
        text = path.read_text()
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring or not text.strip(), f"{module} has no docstring"
        if text.count("\n") > LINES_MAX:
            assert docstring is not None
            assert EXCUSE.search(docstring), f"{module} has {text.count(chr(10))} lines and does not say why"


# What the daemon loads


def test_idle_daemon_loads_only_what_it_needs(tmp_path: Path) -> None:
    """`headwater run` with one MQTT sensor loads nothing heavy: memory on a small machine belongs to the events."""
    config = tmp_path / "headwater.yaml"
    config.write_text(
        'gateway: {id: a, data_dir: data, disk_quota: 64MiB, listen: {pulsar: "127.0.0.1:0", http: "127.0.0.1:0"}}\n'
        'sensors: [{name: s, type: mqtt, listen: "127.0.0.1:0", subscribe: ["#"], topic: t}]\n'
    )
    listing = tmp_path / "modules.json"
    program = (
        "import atexit, json, pathlib, sys\n"
        f"atexit.register(lambda: pathlib.Path({str(listing)!r}).write_text(json.dumps(sorted(sys.modules))))\n"
        "from gateway.cli import main\n"
        f"main(['run', {str(config)!r}])\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment()) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline().startswith(b"ready ")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(PATIENCE_S) == 0
    baseline = subprocess.run(
        [sys.executable, "-c", "import json, sys; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        check=True,
        env=environment(),
    )
    # What an installation's own .pth files load is not the daemon's doing.
    loaded = set(json.loads(listing.read_text())) - set(json.loads(baseline.stdout))
    foreign = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert {name for name in foreign if not name.startswith("_")} <= LOADED_BY_RUN
    assert not {"gateway.client.remote", "gateway.config.models", "gateway.replication.topic"} & loaded
    assert "gateway.broker.broker" in loaded, "the list is not the daemon's"


# What is written down


def test_files_name_no_machine_and_no_package_registry() -> None:
    """A clone works anywhere: no path of the machine it was made on, no address of where packages came from."""
    # Put together here, so that this file does not find itself.
    folders = "|".join("/" + name + "/" for name in ("work", "root", "home/[a-z]+", "opt/wheels", "tmp"))
    words = (
        ("py", "pi\\.org"),
        ("python", "hosted"),
        ("--(extra-)?index", "-url"),
        ("registry", "\\.npm"),
        ("GO", "PROXY="),
    )
    pattern = re.compile("|".join([folders, *("".join(pair) for pair in words)]))
    found = []
    for path in _tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert not found, "\n".join(found)


def test_lock_holds_every_dependency_exactly_and_with_hashes() -> None:
    """What pyproject asks for is what the lock installs, and pip can check each file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    lock = (ROOT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", lock, re.MULTILINE))
    for requirement in wanted:
        name, version = requirement.split(";")[0].strip().split("==")
        assert locked.get(name.lower().replace("_", "-")) == version, f"{requirement} is not what the lock has"
    with_hash = re.findall(r"^([A-Za-z0-9_.-]+)==[^\n]*\\\n    --hash=sha256:", lock, re.MULTILINE)
    assert sorted(locked) == sorted(with_hash), "a package without a hash"


def test_wheel_holds_everything_that_the_command_needs(tmp_path: Path) -> None:
    """An installation without a clone has the gateway, its connectors, the simulators and the command."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    (wheel,) = tmp_path.glob("headwater-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        text = archive.read(entry_points).decode()
    for package in PACKAGES:
        for _, path in _modules(package):
            assert str(path.relative_to(PACKAGES[package])) in names
    assert "headwater = gateway.cli:main" in text
    assert "mqtt = connectors.mqtt:connector" in text
    assert not any(name.startswith(("tests/", "bench/")) for name in names)


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("examples/*.yaml"), *ROOT.glob("systemd/*.yaml")]), ids=lambda path: path.name
)
def test_configurations_that_are_shipped_are_accepted(path: Path) -> None:
    """`headwater check` accepts every example as it is."""
    command = [sys.executable, "-m", "gateway.cli", "check", str(path)]
    outcome = subprocess.run(command, capture_output=True, check=False, env=environment())
    assert outcome.returncode == 0, outcome.stderr.decode()


def test_documents_link_to_what_exists() -> None:
    """A relative link in a document leads to a file of the repository."""
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.relative_to(ROOT)} links to {target}"


def _console_lines() -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_readme_shows_the_two_commands_and_makefile_has_them() -> None:
    """Whoever reads the README finds `make demo` and `make test`, and every `make` it names exists."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= named <= targets


def test_readme_commands_run(tmp_path: Path) -> None:
    """The README's commands, typed one after the other, do what it says. Only the ports are free ones here."""
    (tmp_path / "examples").mkdir()
    for example in ROOT.glob("examples/*.yaml"):
        text = re.sub(r'"127\.0\.0\.1:\d+"', '"127.0.0.1:0"', example.read_text())
        (tmp_path / "examples" / example.name).write_text(text)
    lines = [line for line in _console_lines() if line.startswith("headwater ")]
    assert any(line.startswith("headwater run ") for line in lines)
    gateway: subprocess.Popen[str] | None = None
    addresses: dict[str, str] = {}
    try:
        for line in lines:
            _, command, *arguments = shlex.split(line, comments=True)
            if command == "sim":
                arguments += ["--port", addresses["mqtt"].rpartition(":")[2]]
            words = [sys.executable, "-m", "gateway.cli", command, *arguments]
            if arguments[-1:] == ["&"]:
                gateway = subprocess.Popen(
                    words[:-1], stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()
                )
                assert gateway.stdout is not None
                ready, *served = gateway.stdout.readline().split() or [""]
                assert ready == "ready", line
                addresses = dict(address.split("=") for address in served)
                continue
            outcome = subprocess.run(
                words, cwd=tmp_path, env=environment(), capture_output=True, timeout=PATIENCE_S, check=False
            )
            assert outcome.returncode == 0, f"{line}: {outcome.stderr.decode()}"
            assert outcome.stdout, f"{line} printed nothing"
    finally:
        if gateway is not None:
            gateway.terminate()
            assert gateway.wait(PATIENCE_S) == 0
