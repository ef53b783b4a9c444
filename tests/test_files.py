"""Files of data sets: whatever server, disk or another process do, whole and verified or one sentence."""

import errno
import hashlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data.files import DataError, File, read, verified

CONTENTS = bytes(range(256)) * 4000  # a megabyte, so that half of it does not fit into a socket's buffer
DIGEST = hashlib.sha256(CONTENTS).hexdigest()
PACKAGE = Path(__file__).parents[1] / "data"


class Server(ThreadingHTTPServer):
    """Serves CONTENTS under any name; the first folder of the address says how it misbehaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.gate = threading.Event()
        self.asked = threading.Event()

    def base(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{behaviour}/"

    def handle_error(self, request, client_address) -> None:
        """A client that went away is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        behaviour = self.path.split("/")[1]
        self.server.requests.append(behaviour)
        if behaviour == "refuse" or (behaviour == "later" and len(self.server.requests) < 3):
            self.send_error(503)
        elif behaviour == "html":
            self.answer(b"<!DOCTYPE html><html>Please log in</html>")
        elif behaviour in ("cut", "stall", "gate"):
            self.answer(CONTENTS[: len(CONTENTS) // 2], length=len(CONTENTS))
            self.server.asked.set()
            if behaviour != "cut":
                self.server.gate.wait(30)
            if behaviour == "gate":
                self.wfile.write(CONTENTS[len(CONTENTS) // 2 :])
        else:
            self.answer({"empty": b"", "flipped": b"\x01" + CONTENTS[1:]}.get(behaviour, CONTENTS))

    def answer(self, body: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.gate.set()
    running.shutdown()
    thread.join()
    running.server_close()


def fetch(root: Path, *bases: str, **options) -> bytes:
    settings = {"timeout": 10, "tries": 3, "pause": 0.01, **options}
    (contents,) = read([File("set/raw/file.gz", DIGEST, bases)], root, **settings)
    return contents


def visible(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def sentence(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_downloads_once(server, tmp_path):
    assert fetch(tmp_path, server.base("good")) == CONTENTS
    assert fetch(tmp_path, server.base("good")) == CONTENTS
    assert server.requests == ["good"]
    assert visible(tmp_path) == ["file.gz"]


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("refuse", "503"),
        ("html", "HTML page"),
        ("cut", "truncated or damaged (512,000 bytes"),
        ("stall", "timed out"),
        ("empty", "is empty"),
        ("flipped", "truncated or damaged"),
    ],
)
def test_bad_server_is_tried_three_times_and_leaves_nothing(server, tmp_path, behaviour, words):
    with pytest.raises(DataError) as caught:
        fetch(tmp_path, server.base(behaviour), timeout=0.3 if behaviour == "stall" else 10)
    assert words in sentence(caught)
    assert "put file.gz from" in sentence(caught)
    assert str(tmp_path / "set/raw") in sentence(caught)
    assert server.requests == [behaviour] * 3
    assert visible(tmp_path) == []


def test_third_try_succeeds(server, tmp_path):
    assert fetch(tmp_path, server.base("later")) == CONTENTS
    assert len(server.requests) == 3


def test_each_pause_is_twice_the_one_before(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr("data.files.time.sleep", pauses.append)
    with pytest.raises(DataError):
        fetch(tmp_path, server.base("refuse"), tries=4, pause=3)
    assert pauses == [0, 3, 6, 12]


def test_second_source_succeeds(server, tmp_path):
    assert fetch(tmp_path, server.base("cut"), server.base("good")) == CONTENTS
    assert server.requests == ["cut", "good"]


def test_offline_names_every_absent_file_its_source_and_its_place(tmp_path):
    base = "http://127.0.0.1:1/"  # a port that nobody listens on
    files = [File(f"set/raw/{name}.gz", DIGEST, (base,)) for name in ("one", "two", "three")]
    (tmp_path / "set/raw").mkdir(parents=True)
    (tmp_path / "set/raw/two.gz").write_bytes(CONTENTS)
    with pytest.raises(DataError) as caught:
        read(files, tmp_path, timeout=1, pause=0)
    assert f"put one.gz, three.gz from {base} into {tmp_path / 'set/raw'}" in sentence(caught)
    assert "refused" in sentence(caught)


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (b"", "is empty"),
        (CONTENTS[:1000], "is truncated or damaged (1,000 bytes"),
        (CONTENTS[:-1] + b"\x00", "is truncated or damaged (1,024,000 bytes"),
        (b"\n <HTML><body>captive portal", "is an HTML page"),
    ],
)
def test_damage_on_disk_is_found_at_every_read_and_never_overwritten(server, tmp_path, damaged, words):
    fetch(tmp_path, server.base("good"))
    path = tmp_path / "set/raw/file.gz"
    path.write_bytes(damaged)
    with pytest.raises(DataError) as caught:
        fetch(tmp_path, server.base("good"))
    assert sentence(caught).startswith(f"{path} {words}")
    assert "delete it" in sentence(caught)
    assert path.read_bytes() == damaged
    assert len(server.requests) == 1


def test_verified_knows_both_kinds_of_digest(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENTS)
    for kind in ("sha256", "md5"):
        assert verified(path, hashlib.new(kind, CONTENTS).hexdigest()) == CONTENTS
        with pytest.raises(DataError, match=kind):
            verified(path, hashlib.new(kind, CONTENTS + b"x").hexdigest())


def test_unreadable_place_is_one_sentence(tmp_path):
    (tmp_path / "set/raw/file.gz").mkdir(parents=True)
    with pytest.raises(DataError, match=r"cannot read .*file\.gz: Is a directory"):
        fetch(tmp_path)


def test_disk_full_is_not_retried(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(DataError) as caught:
        fetch(tmp_path, server.base("good"))
    assert "file.gz (No space left on device): make room" in sentence(caught)
    assert server.requests == ["good"]
    assert visible(tmp_path) == []


def test_root_that_is_a_file(tmp_path):
    (tmp_path / "root").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*set data\.root"):
        fetch(tmp_path / "root", "http://127.0.0.1:1/")


def another_process(root: Path, base: str) -> subprocess.Popen:
    """A process that reads the file; only the standard library is needed for it, so that it starts fast."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from files import File, read\n"
        "print('ready', flush=True)\n"
        "file = File('set/raw/file.gz', sys.argv[2], (sys.argv[3],))\n"
        "contents = read([file], Path(sys.argv[4]), pause=0)\n"
        "print(len(contents[0]))"
    )
    command = [sys.executable, "-c", code, str(PACKAGE), DIGEST, base, str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.process
def test_two_processes_at_once_download_once(server, tmp_path):
    processes = [another_process(tmp_path, server.base("gate")) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    assert server.asked.wait(10)
    time.sleep(0.3)  # the second one comes to wait for the first
    server.gate.set()
    outputs = [process.communicate(timeout=20)[0] for process in processes]
    assert outputs == [f"{len(CONTENTS)}\n"] * 2
    assert server.requests == ["gate"]
    assert visible(tmp_path) == ["file.gz"]


@pytest.mark.process
def test_process_killed_while_downloading_leaves_no_harm(server, tmp_path):
    process = another_process(tmp_path, server.base("gate"))
    assert server.asked.wait(10)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    server.gate.set()
    assert "file.gz" not in visible(tmp_path)
    assert fetch(tmp_path, server.base("good")) == CONTENTS
    assert visible(tmp_path) == ["file.gz"]
