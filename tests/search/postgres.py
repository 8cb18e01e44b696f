"""A PostgreSQL server of our own, in a temporary folder, on a free port of this machine."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

DEBIAN = Path("/usr/lib/postgresql")
# no test needs its data to outlive the machine
SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=30")


def binaries() -> Path | None:
    """The folder of the server's programs, or None."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    return next(
        (path for path in sorted(DEBIAN.glob("*/bin"), reverse=True) if (path / "initdb").exists()), None
    )


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: of its database, without the password.
        password: of the role `tuner`.
    """

    bin: Path
    folder: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://tuner@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = " ".join(
            ["-h 127.0.0.1", f"-p {self.port}", f"-k {self.folder}", *(f"-c {s}" for s in SETTINGS)]
        )
        log = self.folder / "log"
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-l", log, "-o", options)

    def stop(self) -> None:
        """Stop as a crash would."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self._data)

    def create(self) -> None:
        secret = self.folder / "secret"
        secret.write_text(self.password)
        self._run(
            "initdb", "-N", "-U", "tuner", "-A", "scram-sha-256", "--pwfile", secret, "-E", "UTF8",
            "--locale=C", "-D", self._data,
        )  # fmt: skip

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *arguments: object) -> None:
        # PostgreSQL refuses to run as root
        role = unprivileged()
        done = subprocess.run(
            [str(self.bin / program), *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            timeout=60,
            check=False,
            text=True,
            **({} if role is None else {"user": role.pw_uid, "group": role.pw_gid, "extra_groups": []}),
        )
        assert done.returncode == 0, done.stderr


def unprivileged() -> pwd.struct_passwd | None:
    """The account that a root process gives the server to."""
    if os.geteuid() != 0:
        return None
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    return accounts.get("postgres") or accounts["nobody"]


@contextmanager
def running(bin: Path) -> Iterator[Server]:
    """Start a server and stop it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: sockets' paths are limited
    role = unprivileged()
    if role is not None:
        os.chown(folder, role.pw_uid, role.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(bin, folder, port, secrets.token_hex(8))
    try:
        server.create()
        server.start()
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
