"""Who asks Google: the only importer of google.auth.

A token is renewed here, before a call, and not by the client below it: that
one takes a wrong key for a network that fails, and would try for hours.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hermes.cloudbreak.errors import CloudUnavailable, Refused

try:
    import google.auth
    import google.auth.credentials
    import google.auth.exceptions
    import google.auth.transport.requests
    import google.oauth2.credentials
    import google.oauth2.service_account
except ImportError as error:
    raise ImportError(
        f"Google's cloud needs the extra `gcp` of hermes-cloudbreak ({error})",
        name=error.name,
    ) from error

__all__ = ("Credentials",)

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)

# What a file may hold. google-auth reads others, too, some of which name
# programs to be run: whoever wants these hands in the object.
_KINDS: dict[str, Callable[..., Any]] = {
    "authorized_user": (
        google.oauth2.credentials.Credentials.from_authorized_user_info
    ),
    "service_account": (
        google.oauth2.service_account.Credentials.from_service_account_info
    ),
}


class Credentials:
    """Whose name requests are made in. Threads may share it.

    Args:
        given: The path of a key file, an object of google-auth, or None for
            what the environment has (Application Default Credentials).

    Attributes:
        raw: The object of google-auth.
        project: The project that belongs to it; "" if none does.

    Raises:
        Refused: If there are none, or the file is no key.
    """

    def __init__(
        self,
        given: str
        | os.PathLike[str]
        | google.auth.credentials.Credentials
        | None = None,
    ) -> None:
        self.raw, self.project = _load(given)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Credentials, {type(self.raw).__name__}>"  # and no secret

    def renew(self, *, anyway: bool = False) -> None:
        """Have a token that is valid.

        Args:
            anyway: Whether also if it seems to be: the cloud says it is not.

        Raises:
            Refused: If there is no new one for such a key.
            CloudUnavailable: If nobody answers.
        """
        with self._lock:
            if self.raw.valid and not anyway:
                return
            try:
                self.raw.refresh(google.auth.transport.requests.Request())
            except google.auth.exceptions.InvalidOperation:
                return  # anonymous ones have none
            except google.auth.exceptions.GoogleAuthError as error:
                if _may_pass(error):
                    raise CloudUnavailable(
                        f"no token from Google: {_first_line(error)}"
                    ) from None
                raise Refused(
                    "Google gives no token for these credentials "
                    f"({_first_line(error)}): give another key file, or run "
                    "`gcloud auth application-default login`"
                ) from None

    def token(self) -> str:
        """Give a token that is valid; it is a secret."""
        self.renew()
        return str(self.raw.token or "")


def _load(given: Any) -> tuple[Any, str]:
    if given is None:
        return _find()
    if isinstance(given, str | os.PathLike):
        return _read(Path(given))
    found = google.auth.credentials.with_scopes_if_required(  # type: ignore[no-untyped-call]
        given, _SCOPES
    )
    return found, str(getattr(given, "project_id", None) or "")


def _may_pass(error: google.auth.exceptions.GoogleAuthError) -> bool:
    """Whether the next try may give a token; google-auth wraps the network."""
    wrapped = (error, error.__cause__, *error.args)
    return error.retryable or any(
        isinstance(each, google.auth.exceptions.TransportError)
        for each in wrapped
    )


def _find() -> tuple[Any, str]:
    try:
        found, project = google.auth.default(scopes=_SCOPES)
    except google.auth.exceptions.GoogleAuthError as error:
        raise Refused(
            f"no credentials in the environment ({_first_line(error)}): give "
            "a key file as credentials=, or run `gcloud auth "
            "application-default login`"
        ) from None
    return found, project or ""


def _read(path: Path) -> tuple[Any, str]:
    try:
        content = json.loads(path.read_text())
        make = _KINDS[content["type"]]
        return make(content, scopes=_SCOPES), content.get("project_id", "")
    except (
        OSError,
        LookupError,
        TypeError,
        ValueError,
        google.auth.exceptions.GoogleAuthError,
    ) as error:  # and not a word of what stands in it
        raise Refused(
            f"{path} is no key file ({type(error).__name__}): give one of a "
            f"kind of {', '.join(_KINDS)}, or an object of google-auth"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
