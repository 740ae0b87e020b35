"""Secrets in URLs: refused where a URL is given, and blotted out where one is said all the same.

A URL is not a safe: it stands in recipes, records, run pages, logs and error messages of half a dozen libraries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

_URL = re.compile(r"(?i)\b(?:[a-z][a-z0-9+.-]*:/|(?:https?|s3|ftp|gs|abfss?|hf):)/[^\s'\"<>]+")
"""Also with one slash, as a path that was made of it is written."""
_USER = r"(?![a-z0-9-]{3,63}@[a-z0-9]{3,24}\.(?:dfs|blob)\.)(?:[^\s/@?#]*|[^\s/@?#:]+:(?!\d{1,5}[?#/])[^\s@?#]*)@"
_USERINFO = re.compile(rf"^([^:]+:/{{1,2}}){_USER}")
"""What stands before the host, but for the container that Azure writes there.

Secret keys of S3 hold slashes, and people paste them as they are."""
_NAMES = (
    r"(?:x-(?:amz|goog|ms)-)?(?:signature|credential|security-token|sig|policy|token|auth|authorization"
    r"|(?:access|refresh|id|session|auth)[-_]?token|api[-_]?key|(?:secret|access)[-_]?key|key|key-pair-id|password"
    r"|passwd|pwd|secret|client[-_]?secret|awsaccesskeyid|googleaccessid)="
)
_SECRET = re.compile(rf"(?i)(?<=[?&;#])({_NAMES})[^&;#]*")
NO_SECRET_PATTERN = (
    rf"^(?![\s\S]*:\/\/{_USER})"
    r"(?![\s\S]*:\/\/[^\s]*[?&;#][\w-]*(?:[Ss]ig(?:nature)?|[Tt]oken|[Kk]ey|[Kk]ey-?[Ii]d|[Pp]assw(?:or)?d|[Ss]ecret)=)"
)
"""What a text matches that gives no secret away in a URL, for JSON schemas: without flags, and short, for it is shown.

`secret_in` knows more of them."""
HIDDEN = "***"


def secret_in(text: str) -> str | None:
    """Say what secret a text gives away in a URL, without saying it; None if there is none."""
    for url in _URL.findall(text):
        if _USERINFO.search(url):
            return f"a URL with a user's name or password in it ({redacted(url)})"
        if secret := _SECRET.search(url):
            return f"a URL that is signed or holds a secret ({secret[1]}{HIDDEN})"
    return None


def redacted(text: str) -> str:
    """Return a text whose URLs hold no user names, passwords, signatures or tokens."""
    return _URL.sub(lambda url: _SECRET.sub(rf"\g<1>{HIDDEN}", _USERINFO.sub(rf"\g<1>{HIDDEN}@", url[0])), text)


def secrets_within(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each secret of a JSON value's texts: the path of its field, and what `secret_in` says of it."""
    if isinstance(value, str):
        if secret := secret_in(value):
            yield path, secret
    elif isinstance(value, dict):
        for key, member in cast("dict[str, object]", value).items():
            yield from secrets_within(member, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for i, member in enumerate(cast("list[object]", value)):
            yield from secrets_within(member, f"{path}[{i}]")
