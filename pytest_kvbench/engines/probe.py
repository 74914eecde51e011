"""Questions to a server that are no requests of an experiment: who it is, what its cache is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_kvbench.engines.completion import error_message
from pytest_kvbench.engines.keys import decoded, masked
from pytest_kvbench.engines.loading import LOOK_S, UNAVAILABLE, is_loading
from pytest_kvbench.errors import EngineError
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.wire import bounded, sound
from pytest_kvbench.wire.lean import httpx
from pytest_kvbench.wire.network import client_of
from pytest_kvbench.wire.sound import Fields

_PROBE_S = 60.0


@dataclass(frozen=True)
class Probe:
    """One server, as `base_url` (with the `/v1`) reaches it. `headers` may hold a key."""

    base_url: str
    settings: EngineSettings
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = _PROBE_S
    starts_s: float = 0.0
    """How long it may say that it is still loading."""

    @property
    def root(self) -> str:
        """The address without the `/v1`."""
        return self.base_url.rstrip("/").removesuffix("/v1")

    def text(self, path: str) -> str:
        """The body at `root` + `path`.

        Raises:
            EngineError: no server answers there, or not with 200.
        """
        content: bytes = self._send("GET", path).content
        return masked(content.decode(errors="replace"), self._key)

    def json(self, path: str) -> Fields:
        """The JSON object at `root` + `path`.

        Raises:
            EngineError: the body is no JSON object; or as `text`.
        """
        return self._object(self._send("GET", path))

    def post(self, path: str, body: Fields) -> Fields:
        """What a POST answers.

        Raises:
            EngineError: as `json`.
        """
        return self._object(self._send("POST", path, body))

    def is_there(self) -> bool:
        """Whether anybody answers at the address, whatever it says."""
        try:
            with client_of(self.base_url, timeout_s=self.timeout_s) as client:
                client.head(self.base_url)
        except (httpx.HTTPError, EngineError):
            return False
        return True

    def check_model(self) -> None:
        """Refuse a server that does not serve the model.

        Raises:
            EngineError: naming what it serves.
        """
        model, served = self.settings.model, sound.objects(self.json("/v1/models").get("data"))
        names = [str(entry.get("id")) for entry in served]
        if model not in names:
            raise EngineError(
                f"engine.model: {model!r} is not served at {self.base_url}",
                f"served there: {', '.join(sorted(names))}",
            )

    def _send(self, method: str, path: str, body: Fields | None = None) -> Any:
        url = self.root + path
        try:
            return self._once_loaded(method, url, body).raise_for_status()
        except httpx.HTTPStatusError as error:
            status, detail = error.response.status_code, self._detail(error.response.content)
            raise EngineError(
                f"engine {self.settings.name}: HTTP {status} from {url}{detail}",
                "is it a server of that kind, and is the key right?",
            ) from None
        except bounded.TooLargeError as error:
            raise EngineError(
                f"engine {self.settings.name}: {url}: {error}", "is it a server of that kind?"
            ) from None
        except httpx.HTTPError as error:
            raise EngineError(
                f"engine {self.settings.name}: no server answers at {url}: {type(error).__name__}",
                "start it, or mend engine.base_url or engine.endpoints",
            ) from None

    def _once_loaded(self, method: str, url: str, body: Fields | None) -> Any:
        """The response of a server that may still be loading, for as long as one may start."""
        gives_up, limit = time.monotonic() + self.starts_s, self.settings.max_reply_bytes
        with client_of(url, timeout_s=self.timeout_s, headers=self.headers) as client:
            while True:
                response = bounded.fetch(client, method, url, limit=limit, json=body)
                status = response.status_code
                loads = status == UNAVAILABLE and is_loading(
                    status, error_message(response.content)
                )
                if not loads or time.monotonic() > gives_up:
                    return response
                time.sleep(LOOK_S)

    @property
    def _key(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _detail(self, content: bytes) -> str:
        """The message in a server's error, after a colon and without the key; empty if none."""
        message = sound.message(masked(error_message(content), self._key))
        return f": {message}" if message else ""

    def _object(self, response: Any) -> Fields:
        try:
            data = decoded(response.content, self._key, sound.data)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise EngineError(
                f"engine {self.settings.name}: {response.url} does not answer with a JSON object",
                "is it a server of that kind?",
            )
        return data
