"""The snapshot's manifest, from the Catalog."""

import grpc
from atelier.catalog.v1 import catalog_service_pb2
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub

from services.common.clients import CHANNEL_OPTIONS
from services.common.status import error_from_rpc
from services.trainer.worker.data import Item

TIMEOUT_SECONDS = 300


def read_manifest(catalog_address: str, digest: str) -> list[Item]:
    """Every line of the snapshot's manifest, in its order; waits for a Catalog that is starting. Raises NotFound,
    Unavailable."""
    options = [*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)]
    request = catalog_service_pb2.StreamSnapshotRequest(digest=digest)
    try:
        with grpc.insecure_channel(catalog_address, options=options) as channel:
            parts = CatalogServiceStub(channel).StreamSnapshot(request, timeout=TIMEOUT_SECONDS, wait_for_ready=True)
            return [
                Item(
                    item.sha256,
                    item.filename,
                    item.caption,
                    item.width,
                    item.height,
                    item.num_frames,
                    item.frames_per_second,
                    item.mask_sha256,
                )
                for part in parts
                for item in part.items
            ]
    except grpc.RpcError as error:
        raise error_from_rpc(error, peer="the Catalog") from error
