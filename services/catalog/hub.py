"""Models put into a hub's repositories, and weights taken from there, at somebody's explicit wish.

Tokens are neither kept nor logged, and the one that a person may have stored on this machine is never used.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.catalog.exports import contents, stored_weights
from services.catalog.imports import Chunk
from services.catalog.model_store import ModelStore
from services.common.blobs import BlobStore
from services.common.errors import (
    AtelierError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)

if TYPE_CHECKING:
    import httpx2

ENDPOINT = "https://huggingface.co"
CHUNK_BYTES = 1 << 20
_SESSION = threading.Lock()  # huggingface_hub has one session for all of a process
TIMEOUT_SECONDS = 60.0  # for a connection, and for the next bytes on it


@dataclass(frozen=True, slots=True)
class Pushed:
    url: str
    commit: str


@dataclass(frozen=True, slots=True)
class Remote:
    """One file of a repository, at a commit."""

    repo_id: str
    filename: str
    commit: str


@dataclass(frozen=True)
class Hub:
    """A hub: its address, and this deployment's own token, empty for none."""

    endpoint: str = ENDPOINT
    token: str = ""

    async def push(
        self,
        models: ModelStore,
        blobs: BlobStore,
        model_id: int,
        repo_id: str,
        *,
        token: str = "",
        private: bool = False,
        message: str = "",
    ) -> Pushed:
        """Puts a model's files and card into a repository, in one commit.

        Raises NotFound, FailedPrecondition (its weights are on a hub, no token is known, the hub refuses it),
        PermissionDenied, Unavailable, DataLoss.
        """
        model = await models.get(model_id)
        stored_weights(model)
        if not (token := token or self.token):
            rule = "no token of the hub is known: send one with the right to write, or set ATELIER_CATALOG_HUB_TOKEN"
            raise FailedPrecondition(rule, reason="NO_HUB_TOKEN")
        files = await contents(models, blobs, model)
        return await asyncio.to_thread(
            self._push, repo_id, files, token, private, message or f"{model.name}, from Atelier"
        )

    async def find(self, repo_id: str, *, revision: str = "", filename: str = "", token: str = "") -> Remote:
        """The file of a repository, the only .safetensors of its top folder where none is named, and the commit.

        Raises NotFound, InvalidArgument where `filename` must say which, PermissionDenied, Unavailable.
        """
        return await asyncio.to_thread(self._find, repo_id, revision or "main", filename, token or self.token)

    async def download(self, remote: Remote, *, token: str = "") -> AsyncGenerator[Chunk]:
        """The file's bytes in pieces. Raises NotFound, PermissionDenied, Unavailable, also in its midst."""
        pieces, offset = self._download(remote, token or self.token), 0
        try:
            while (data := await asyncio.to_thread(next, pieces, None)) is not None:
                yield Chunk(offset, data)
                offset += len(data)
        finally:
            await asyncio.to_thread(pieces.close)

    def _push(self, repo_id: str, files: dict[str, bytes | Path], token: str, private: bool, message: str) -> Pushed:
        from huggingface_hub import CommitOperationAdd

        api = self._api(token)
        with _told(repo_id), ExitStack() as stack:
            api.create_repo(repo_id, private=private, exist_ok=True)
            # Open files go by LFS, which every hub has; paths would go by Xet where that is installed.
            additions = [
                CommitOperationAdd(path, file if isinstance(file, bytes) else stack.enter_context(file.open("rb")))
                for path, file in files.items()
            ]
            commit = api.create_commit(repo_id, additions, commit_message=message)
        return Pushed(f"{self.endpoint.rstrip('/')}/{repo_id}", commit.oid)

    def _find(self, repo_id: str, revision: str, filename: str, token: str) -> Remote:
        with _told(repo_id, has_token=bool(token)):
            info = self._api(token).model_info(repo_id, revision=revision)
        names = [file.rfilename for file in info.siblings or []]
        if not filename:
            top = [name for name in names if name.endswith(".safetensors") and "/" not in name]
            if len(top) != 1:
                rule = f"must say which of {', '.join(top)}" if top else "must say which file: the top folder has none"
                raise InvalidArgument(rule, field="filename")
            filename = top[0]
        if filename not in names:
            raise NotFound("file", filename, message=f"{repo_id} has no file {filename} at {revision}")
        return Remote(repo_id, filename, info.sha or revision)

    def _download(self, remote: Remote, token: str) -> Generator[bytes]:
        from huggingface_hub import get_session, hf_hub_url

        self._api(token)
        url = hf_hub_url(remote.repo_id, remote.filename, revision=remote.commit, endpoint=self.endpoint)
        headers = {"Authorization": f"Bearer {token}"} if token else {}  # which goes to no other host
        with _told(remote.repo_id, has_token=bool(token)), get_session().stream("GET", url, headers=headers) as answer:
            if answer.status_code >= 400:
                raise _of_status(answer.status_code, remote.repo_id, bool(token))
            yield from answer.iter_bytes(CHUNK_BYTES)

    def _api(self, token: str) -> Any:
        from huggingface_hub import HfApi, get_session, set_client_factory

        with _SESSION:
            if not hasattr(get_session(), "of_atelier"):
                set_client_factory(_client)
        return HfApi(endpoint=self.endpoint, token=token or False, library_name="atelier")


def _client() -> "httpx2.Client":
    """Without the hook that HF_HUB_OFFLINE works by: a push or a pull is asked for, nothing is fetched in passing."""
    import httpx2

    client = httpx2.Client(follow_redirects=True, timeout=httpx2.Timeout(TIMEOUT_SECONDS))
    client.of_atelier = True  # type: ignore[attr-defined]  # how it is known again
    return client


@contextmanager
def _told(repo_id: str, *, has_token: bool = True) -> Iterator[None]:
    """The hub's refusals as domain errors, in our own words: theirs may hold addresses that are secrets."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except HfHubHTTPError as error:
        raise _of_status(error.response.status_code, repo_id, has_token) from error
    except (httpx2.HTTPError, ConnectionError) as error:
        message = f"the hub is out of reach for {repo_id} ({type(error).__name__})"
        raise Unavailable(message, reason="HUB_UNAVAILABLE") from error
    except (HFValidationError, ValueError) as error:
        raise FailedPrecondition(f"the hub refuses {repo_id}: {error}", reason="HUB_REFUSED") from error


def _of_status(code: int, repo_id: str, has_token: bool) -> AtelierError:
    if code == 404 or (code == 401 and not has_token):  # a private repository is none to a stranger
        wants = "" if has_token else ", or it wants a token"
        return NotFound("repository", repo_id, message=f"the hub has no {repo_id}, no such revision or file{wants}")
    if code in (401, 403):
        return PermissionDenied(f"the hub refuses the token for {repo_id} ({code})", reason="HUB_REFUSED_TOKEN")
    if code == 429 or code >= 500:
        return Unavailable(f"the hub cannot answer for {repo_id} ({code})", reason="HUB_UNAVAILABLE")
    return FailedPrecondition(f"the hub refuses {repo_id} ({code})", reason="HUB_REFUSED")
