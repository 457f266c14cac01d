"""What the Catalog asks of the Trainer, over gRPC."""

import grpc
from atelier.trainer.v1 import trainer_service_pb2 as trainer_pb2
from atelier.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub

from services.catalog.datasets import JobsOfDataset
from services.common.clients import peer_errors

TIMEOUT_SECONDS = 5.0


def unfinished_jobs(channel: grpc.aio.Channel) -> JobsOfDataset:
    """The question which unfinished jobs a dataset has, for the Trainer at the other end of `channel`."""
    stub = TrainerServiceStub(channel)

    async def ask(dataset_id: int) -> list[str]:
        request = trainer_pb2.ListTrainingJobsRequest(dataset_id=dataset_id, unfinished=True, page_size=10)
        with peer_errors("the Trainer"):
            answer = await stub.ListTrainingJobs(request, timeout=TIMEOUT_SECONDS)
        return [job.id for job in answer.jobs]

    return ask
