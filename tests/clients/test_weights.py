"""`atelier models push`, `pull` and `import`, against a real Catalog and a hub of our own on loopback."""

import asyncio
import json
import os
import sys
from pathlib import Path

import huggingface_hub
from huggingface_hub.utils._http import default_client_factory

from services.common.blobs import BlobStore
from tests.catalog.house import Catalog, catalog_at
from tests.catalog.hub_made import TOKEN, hub_made
from tests.catalog.test_hub import lora


async def atelier(catalog: Catalog, *arguments: str, token: str = "") -> tuple[int, str]:
    """The exit code and what the command says, whether it went well or not."""
    where = ["--catalog", catalog.address, "--trainer", "127.0.0.1:9", "--generator", "127.0.0.1:9"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "atelier_client.cli", *where, "models", *arguments),
        env={**os.environ, "ATELIER_HUB_TOKEN": token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_the_command_pushes_pulls_and_imports(tmp_path: Path, blobs: BlobStore) -> None:
    with hub_made() as hub:
        async with catalog_at(tmp_path / "catalog", blobs, hub_endpoint=hub.url) as catalog:
            model = await lora(catalog)
            base = str(model.base_model_id)
            code, said = await atelier(catalog, "push", "Ink", "someone/ink-style", "--private", token=TOKEN)
            assert code == 0, said
            assert said.startswith(f"{hub.url}/someone/ink-style at ")
            more = ["--base-model", base, "--name", "Ink again", "--trigger-word", "ink", "--json"]
            code, said = await atelier(catalog, "pull", "someone/ink-style", *more, token=TOKEN)
            assert code == 0, said
            pulled = json.loads(said)
            assert (pulled["name"], pulled["trigger_words"]) == ("Ink again", ["ink"])
            code, said = await atelier(catalog, "pull", "someone/ink-style", "--base-model", base)
            assert code == 1
            assert "wants a token" in said
            (tmp_path / "a.ckpt").write_bytes(b"PK\x03\x04" + bytes(100))
            code, said = await atelier(catalog, "import", str(tmp_path / "a.ckpt"), "--base-model", base)
            assert code == 1
            assert "is a pickle" in said
    huggingface_hub.set_client_factory(default_client_factory)
