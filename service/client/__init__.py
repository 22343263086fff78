"""A typed Python client of the gateway: it knows the HTTP interface and nothing else."""

from service.client.client import AsyncClient, Client
from service.client.errors import BadImage, ClientError, NoGateway, NotAGateway, Refused
from service.client.results import Answer, Embedding, Prediction, Task
from service.client.retries import Retries

__all__ = [
    "Answer",
    "AsyncClient",
    "BadImage",
    "Client",
    "ClientError",
    "Embedding",
    "NoGateway",
    "NotAGateway",
    "Prediction",
    "Refused",
    "Retries",
    "Task",
]
