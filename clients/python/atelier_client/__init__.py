"""The Python client of Atelier: `Atelier.connect()`, and the `atelier` command."""

from atelier_client.addresses import Addresses
from atelier_client.client import Atelier
from atelier_client.datasets import UploadProgress, UploadSummary
from atelier_client.errors import (
    AlreadyExists,
    AtelierError,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from atelier_client.options import Control, HighResolution, Options
from atelier_client.pictures import Drawing, Picture
from atelier_client.plain import to_plain

__all__ = [
    "Addresses",
    "AlreadyExists",
    "Atelier",
    "AtelierError",
    "Cancelled",
    "Control",
    "DataLoss",
    "DeadlineExceeded",
    "Drawing",
    "FailedPrecondition",
    "HighResolution",
    "InternalError",
    "InvalidArgument",
    "NotFound",
    "Options",
    "PermissionDenied",
    "Picture",
    "ResourceExhausted",
    "Unavailable",
    "UploadProgress",
    "UploadSummary",
    "to_plain",
]
