"""gcsfs with one attempt for each request, and its answer as it came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """An answer that is no success: gcsfs's own errors do not say whether a key is absent or its bucket."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str]) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.headers = headers


def open_once(token: str, read_timeout: float) -> Any:
    """Return a filesystem of our own, whose listings are not kept. It touches the network only for credentials.

    Its credentials, connections and loop are gcsfs's, without its loop of six attempts that knows no deadline. Raises
    ImportError where gcsfs is missing.
    """
    from aiohttp import ClientTimeout
    from gcsfs.core import GCSFileSystem  # gcsfs's own choice asks by gRPC for the bucket's kind: 60 s where none is

    base: Any = GCSFileSystem

    class OneAttempt(base):
        async def _request(
            self,
            method: str,
            path: str,
            *args: str,
            headers: Mapping[str, str] | None = None,
            json: object = None,
            data: object = None,
            **params: Any,
        ) -> tuple[int, Mapping[str, str], Any, bytes]:
            """Send a request once. Raises Refusal for an answer that is no success."""
            await self._set_session()
            # an object that was stored as gzip is unpacked on the way unless gzip is asked for
            accepted = {"Accept-Encoding": "gzip" if "alt" in params else "identity", **(headers or {})}
            async with self.session.request(
                method,
                self._format_path(path, args),
                params=self._get_params(params),
                json=json,
                headers=self._get_headers(accepted),
                data=data,
                allow_redirects=False,  # 308 is no redirect here: more of an upload is awaited
                timeout=self.requests_timeout,
            ) as answer:
                body: bytes = await answer.read()
                if answer.status >= 400:
                    raise Refusal(answer.status, body.decode(errors="replace"), answer.headers)
                return answer.status, answer.headers, answer.request_info, body

    return OneAttempt(
        token=token,
        requests_timeout=ClientTimeout(total=None, connect=10, sock_read=read_timeout),
        session_kwargs={"auto_decompress": False},
        use_listings_cache=False,
        skip_instance_cache=True,
    )
