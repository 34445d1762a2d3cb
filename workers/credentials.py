"""The URLs of the database and the broker, with what a secret's file says put in.

Files rather than variables, because an environment is inherited by every child, shown by
container tools and kept in crash reports. No error here quotes a URL or a file's text.
"""

from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

DEFAULT_BROKER = "redis://127.0.0.1:6379/0"
MAX_BYTES = 8192
BACKENDS = ("sqlite", "postgresql")


def database_url(given: str, file: Path | None, password_file: Path | None, *, default: str) -> str:
    """The SQLAlchemy URL. Raises ValueError without quoting it."""
    text = _one_of(given, file, "MIXLAB_DATABASE_URL") or default
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise _no_url("MIXLAB_DATABASE_URL", "postgresql://mixlab@host/mixlab") from None
    if url.get_backend_name() not in BACKENDS:
        raise ValueError(
            f"MIXLAB_DATABASE_URL names the database {url.get_backend_name()!r}; the ledger lies "
            f"in {' or '.join(BACKENDS)}."
        )
    if password_file is None:
        return text
    if url.password is not None or not url.username:
        raise ValueError(
            "MIXLAB_DATABASE_PASSWORD_FILE goes with a MIXLAB_DATABASE_URL that names a user and "
            "no password, such as postgresql://mixlab@host/mixlab."
        )
    secret = read_secret(password_file, "MIXLAB_DATABASE_PASSWORD_FILE")
    return url.set(password=secret).render_as_string(hide_password=False)


def broker_url(given: str, file: Path | None, password_file: Path | None) -> str:
    """The broker's URL, or several with `;` between. Raises ValueError without quoting it."""
    text = _one_of(given, file, "MIXLAB_BROKER_URL") or DEFAULT_BROKER
    secret = None
    if password_file is not None:
        secret = read_secret(password_file, "MIXLAB_BROKER_PASSWORD_FILE")
    return ";".join(_with_password(part, secret) for part in text.split(";"))


def _with_password(text: str, secret: str | None) -> str:
    try:
        url = urlsplit(text)
        port, password, user = url.port, url.password, url.username or ""
    except ValueError:
        raise _no_url("MIXLAB_BROKER_URL", DEFAULT_BROKER) from None
    if not url.scheme or not (url.hostname or port or url.path.strip("/")):
        raise _no_url("MIXLAB_BROKER_URL", DEFAULT_BROKER)
    if secret is None:
        return text
    if password is not None:
        raise ValueError(
            "MIXLAB_BROKER_PASSWORD_FILE goes with a MIXLAB_BROKER_URL without a password, such as "
            f"{DEFAULT_BROKER}."
        )
    place = url.netloc.rpartition("@")[2]
    return urlunsplit(url._replace(netloc=f"{user}:{quote(secret, safe='')}@{place}"))


def read_secret(file: Path, variable: str) -> str:
    """The one line in a secret's file. Raises ValueError, which names the file alone."""
    try:
        with file.expanduser().open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
        text = raw.decode().strip("\r\n")
    except OSError as problem:
        reason = f"can't be read: {problem.strerror}"
    except UnicodeDecodeError:
        reason = "is not UTF-8 text"
    else:
        if text and len(raw) <= MAX_BYTES and len(text.splitlines()) == 1:
            return text
        reason = f"should hold one line of at most {MAX_BYTES} bytes"
    raise ValueError(f"{variable} names {file}, which {reason}.")


def _one_of(given: str, file: Path | None, variable: str) -> str:
    if file is None:
        return given
    if given:
        raise ValueError(f"{variable} and {variable}_FILE are both set; take one of them out.")
    return read_secret(file, f"{variable}_FILE")


def _no_url(variable: str, example: str) -> ValueError:
    return ValueError(
        f"{variable} is not a URL like {example} (it isn't shown, since it may hold a password; "
        "in one, characters such as @ : / are written percent-encoded)."
    )
