"""Where the study lies: the run folder's SQLite file, or a PostgreSQL server named by a URL.

A URL holds no password: it is written to the manifest, to MLflow and to the terminal. The password comes
from the variable AUTOTUNE_STORAGE_PASSWORD, or the server's client finds it (`~/.pgpass`, PGPASSWORD).
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from xslim.errors import ConfigError, XSlimError

if TYPE_CHECKING:
    import sqlalchemy
    from optuna.storages import RDBStorage

KEY = "search.storage"
PASSWORD = "AUTOTUNE_STORAGE_PASSWORD"
ALLOWED = "postgresql+psycopg://USER@HOST/DATABASE or sqlite:///FILE"
SECRETS = ("password", "sslpassword", "passwd")
# a server that does not answer is given up; a connection whose peer vanished ends within two minutes
SERVER_OPTIONS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 15,
    "keepalives_count": 5,
}


class StudyLostError(XSlimError):
    """The server gave the study's lock away; the search has to be resumed."""


def check_url(url: str) -> None:
    """Check a storage's URL without opening it.

    Raises:
        ConfigError: the database is none that is supported, or the URL holds a password.
    """
    try:
        parts = urlsplit(url)
        dialect, password = parts.scheme.partition("+")[0], parts.password
    except ValueError:
        raise ConfigError(f"is no URL; allowed: {ALLOWED}", key="storage") from None
    if password is not None or any(name in SECRETS for name, _ in parse_qsl(parts.query)):
        raise ConfigError(
            f"holds a password, which would be written to files; leave it out and set {PASSWORD}",
            key="storage",
        )
    if dialect not in ("postgresql", "sqlite") or "://" not in url:
        raise ConfigError(f"got a storage of kind {dialect!r}; allowed: {ALLOWED}", key="storage")


def open_storage(url: str) -> RDBStorage:
    """Open a storage and make its tables; SQLite in WAL mode.

    Raises:
        ConfigError: as `check_url`; its driver is not installed; it cannot be reached; it is no database;
            or another version of Optuna wrote it.
    """
    check_url(url)
    import sqlalchemy
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage

    sqlite = url.startswith("sqlite")
    shown = _source(url)
    options: dict[str, Any] = {"connect_args": {"timeout": 60} if sqlite else dict(SERVER_OPTIONS)}
    try:
        storage = RDBStorage(_with_password(url), engine_kwargs=options | {"pool_pre_ping": not sqlite})
        if sqlite:
            sqlalchemy.event.listen(storage.engine, "connect", _write_ahead)
            with storage.engine.connect() as connection:
                _write_ahead(connection.connection.dbapi_connection, None)
    except (ImportError, sqlalchemy.exc.NoSuchModuleError):
        install = "pip install 'xslim-autotune[postgres]'"
        raise ConfigError(f"its driver is not installed; {install}", source=shown) from None
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
        raise ConfigError(f"cannot be opened: {_reason(error)}; {_advice(sqlite)}", source=shown) from None
    except RuntimeError as error:  # Optuna's word on the tables' version
        raise _other_version(error, shown) from None
    return storage


class StudyLock:
    """One driver per study: a lock that ends with the process that holds it.

    In PostgreSQL it is an advisory lock on a connection of its own, so that the server frees it when the
    driver dies; beside an SQLite file it is the operating system's lock.
    """

    def __init__(self, storage: RDBStorage, study: str) -> None:
        self._storage, self._study = storage, study
        self._connection: sqlalchemy.Connection | None = None
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            ConfigError: another driver has it.
        """
        if not (self._take_file() if self._path is not None else self._take_advisory()):
            raise ConfigError(
                f"a running search has the study {self._study!r}; wait for it, or name another with "
                "search.study",
                source=_source(str(self._storage.url)),
            )

    def check(self) -> bool:
        """Make sure that the lock is still ours; take it again after a restart of the server, and say so.

        Raises:
            StudyLostError: it is not, or the server does not answer.
        """
        if self._connection is None:
            return False
        import sqlalchemy

        try:
            self._connection.execute(sqlalchemy.text("SELECT 1"))
        except sqlalchemy.exc.SQLAlchemyError:
            try:
                self.release()
                held = self._take_advisory()
            except sqlalchemy.exc.SQLAlchemyError as error:
                raise StudyLostError(f"the storage does not answer: {_reason(error)}") from None
            if not held:
                raise StudyLostError(f"another search has taken the study {self._study!r}") from None
            return True
        return False

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            self._file.close()
        if self._connection is not None:
            with suppress(Exception):  # a connection that broke has given it back already
                self._connection.invalidate()
                self._connection.close()
        self._file = self._connection = None

    @property
    def _path(self) -> str | None:
        engine = self._storage.engine
        return engine.url.database if engine.dialect.name == "sqlite" else None

    def _take_file(self) -> bool:
        lock = open(f"{self._path}.lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._file = lock
        return True

    def _take_advisory(self) -> bool:
        import sqlalchemy

        key = int.from_bytes(sha256(f"autotune/{self._study}".encode()).digest()[:8], "big", signed=True)
        connection = self._storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        if not connection.execute(
            sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}
        ).scalar():
            connection.close()
            return False
        self._connection = connection
        return True


def _with_password(url: str) -> str:
    password = os.environ.get(PASSWORD)
    if password is None or url.startswith("sqlite"):
        return url
    import sqlalchemy

    return sqlalchemy.make_url(url).set(password=password).render_as_string(hide_password=False)


def _source(url: str) -> str:
    """The URL as it is shown: a file by its path, and never a password."""
    import sqlalchemy

    shown = sqlalchemy.make_url(url)
    return str(shown.database) if shown.drivername.startswith("sqlite") else shown.render_as_string()


def _reason(error: BaseException) -> str:
    """The first line of what the database said."""
    cause = getattr(error, "orig", None) or error.__cause__ or error
    lines = str(getattr(cause, "orig", None) or cause).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _advice(sqlite: bool) -> str:
    if sqlite:
        return "choose another --out, or restore the file"
    return f"check {KEY}, the server and {PASSWORD}"


def _other_version(error: RuntimeError, source: str) -> ConfigError:
    if "upgrading the storage" in str(error):
        return ConfigError(
            "was written by an older Optuna; `optuna storage upgrade --storage URL` brings it up to date",
            source=source,
        )
    return ConfigError(
        "was written by a newer Optuna; install that version (pip install -U optuna), or start again in "
        "another --out",
        source=source,
    )


def _write_ahead(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


class DiskFullError(XSlimError):
    """Nothing more can be written; what was written is whole."""


def disk_full(error: BaseException | None) -> bool:
    """Whether an error comes from a full disk, an exhausted quota or a limit on the size of files."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if any(words in str(error) for words in ("database or disk is full", "disk I/O error")):
            return True
        error = error.__cause__ or error.__context__
    return False
