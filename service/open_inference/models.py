"""What the protocol says about the server and its models, as its JSON; a model is a task.

Its messages have the same names, so both transports use this file.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from model_store import Published, StoreError, UnknownVersion
from model_store import UnknownTask as NoSuchTask
from model_store.versions import ALIAS
from service import VERSION
from service.access import Grants
from service.errors import Unavailable, UnknownTask
from service.open_inference.errors import BadRequest, NotSupported, shown
from service.open_inference.tensors import ANY, Spec
from service.runtime import Runtime
from service.tasks.entry import Entry, seen
from service.tasks.reasons import no_task, no_version, reason
from service.tasks.slot import Slot
from service.tasks.specs import feature_count, input_sizes
from service.tasks.summaries import known_activation

T = TypeVar("T")
P = ParamSpec("P")
NAME = "munet-gateway"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
PLATFORM = "munet_safetensors"
USUAL_OUTPUTS = ("probabilities", "logits")  # of a request that names none
FEATURES = "features"
CLASS_OUTPUTS = (*USUAL_OUTPUTS, "calibrated")  # a number for each class
OUTPUTS = (*CLASS_OUTPUTS, FEATURES)
INPUTS = {
    spec.name: spec
    for spec in (
        Spec("image", "BYTES", (ANY, 1), "n] or [n, 1"),  # image files
        Spec("pixels", "UINT8", (ANY, ANY, ANY, 3), "n, height, width, 3"),
        Spec(
            "preprocessed", "FP32", (ANY, ANY, ANY, 3), "n, size, size, 3"
        ),  # scaled as the model takes it
    )
}
VERSIONS = 100  # the newest, that a model's metadata lists
NUMBER = re.compile(r"[1-9][0-9]{0,8}")
STATES = {"ready": "READY", "loading": "LOADING", "cold": "UNAVAILABLE", "failed": "UNAVAILABLE"}
UNLOAD_S, LOOK_S = 5.0, 0.02
COLD = "not loaded: its first request, or load, loads it"


def server() -> dict[str, Any]:
    """Name, version and extensions."""
    return {"name": NAME, "version": VERSION, "extensions": list(EXTENSIONS)}


def parse_version(text: str) -> int | str | None:
    """A version's number or name; None, the live one, of an empty text. Raises BadRequest."""
    if not text:
        return None
    if NUMBER.fullmatch(text):
        return int(text)
    if ALIAS.fullmatch(text):
        return text
    raise BadRequest(f"version: expected a number or a name of one, found {shown(text)}")


def _in_time(
    call: Callable[Concatenate[Models, P], Awaitable[T]],
) -> Callable[Concatenate[Models, P], Awaitable[T]]:
    """Awaits the call until the longest deadline, then raises Unavailable."""

    @wraps(call)
    async def limited(models: Models, *arguments: P.args, **named: P.kwargs) -> T:
        async with models.runtime.in_time():
            return await call(models, *arguments, **named)

    return limited


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a gateway, as far as one request may know of them."""

    runtime: Runtime
    grants: Grants

    @_in_time
    async def metadata(self, model: str, version: int | str | None) -> dict[str, Any]:
        """Tensors and versions. Raises UnknownTask, Unavailable, or what the grants refuse."""
        published = await self._find(model, version)
        look = partial(self.runtime.store.newest, model, VERSIONS)
        newest, _ = await self._from_store(model, None, look)
        inputs, outputs = _specs(published)
        return {
            "name": model,
            "versions": [str(one.version) for one in newest],
            "platform": PLATFORM,
            "inputs": [_tensor(spec) for spec in inputs],
            "outputs": [_tensor(spec) for spec in outputs],
        }

    @_in_time
    async def config(self, model: str, version: int | str | None) -> dict[str, Any]:
        """What Triton's clients read of a model's configuration. Raises as `metadata`."""
        published = await self._find(model, version)
        inputs, outputs = _specs(published)
        return {
            "name": model,
            "platform": PLATFORM,
            "backend": "munet",
            "max_batch_size": self.runtime.settings.max_batch_rows,
            "input": [{**_config_tensor(spec), "optional": True} for spec in inputs],
            "output": [_config_tensor(spec) for spec in outputs],
            "dynamic_batching": {},
            "parameters": {
                "version": {"string_value": str(published.version)},
                "digest": {"string_value": published.digest},
                "activation": {"string_value": known_activation(published.path) or "unknown"},
            },
        }

    @_in_time
    async def ready(self, model: str, version: int | str | None) -> bool:
        """Whether a request would be answered, also if it would first load the task.

        Raises as `metadata`.
        """
        entry = await self._entry(model)
        number = entry.slot.version if version is None else await self._number(model, version)
        for slot in (entry.slot, entry.successor):
            if slot is not None and slot.version == number:
                return slot.state != "failed"
        await self._from_store(model, number, lambda: self.runtime.store.version(model, number))
        return True

    @_in_time
    async def statistics(self, model: str, version: int | str | None) -> list[dict[str, Any]]:
        """Of one version, of all versions, or (of an empty name) of all models."""
        if not model:
            return await self._of_seen(self.runtime.tally.content)
        await self._entry(model)
        found = self.runtime.tally.content([model])
        if version is None:
            return found
        number = await self._number(model, version)
        return [one for one in found if one["version"] == str(number)]

    @_in_time
    async def index(self, only_ready: bool) -> list[dict[str, Any]]:
        """Every task with its state."""

        def indexed(entries: Mapping[str, Entry]) -> list[dict[str, Any]]:
            found = [_indexed(model, entry.slot) for model, entry in entries.items()]
            return [one for one in found if one["state"] == "READY" or not only_ready]

        return await self._of_seen(indexed)

    @_in_time
    async def load(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Loads the task's live version and waits. Raises NotSupported and as `metadata`."""
        self.grants.require_admin()
        if parameters:
            raise NotSupported("load with parameters: tasks come from the store only")
        entry = await self._known(model)
        await self.runtime.catalog.loaded(entry.slot)

    @_in_time
    async def unload(self, model: str) -> None:
        """Lets go of the task's live version once no request uses it; the next one loads it again.

        Raises BadRequest for a pinned task, Unavailable if it is still loading or kept in use.
        """
        self.grants.require_admin()
        slot = (await self._known(model)).slot
        if slot.pinned:
            raise BadRequest(f"task {model!r} is pinned (MUNET_PIN) and stays loaded")
        for _ in range(int(UNLOAD_S / LOOK_S)):
            if slot.let_go() or slot.state in ("cold", "failed"):
                return
            await asyncio.sleep(LOOK_S)
        raise Unavailable(
            f"task {model!r} is still loading, or requests keep using it", retry_after_s=1
        )

    async def _find(self, model: str, version: int | str | None) -> Published:
        """A version as the store has it, loaded or not."""
        entry = await self._entry(model)
        if version is None:
            number = entry.slot.version
            published = await self._from_store(model, number, entry.slot.published)
        else:
            number = await self._number(model, version)
            look = partial(self.runtime.store.resolve, model, number)
            published = await self._from_store(model, number, look)
        if not self.grants.sees(model, published.path.private):
            raise no_version(model, number)
        return published

    async def _entry(self, model: str) -> Entry:
        self.grants.require_read()
        return await self._known(model)

    async def _known(self, model: str) -> Entry:
        """Raises UnknownTask."""
        runtime = self.runtime
        return await runtime.catalog.require(model, self.grants, runtime.facts.ask)

    async def _of_seen(self, make: Callable[[Mapping[str, Entry]], T]) -> T:
        """What `make` returns for all tasks that the request may know of, in the lists' thread."""
        self.grants.require_read()
        self.runtime.catalog.require_followed()
        entries = self.runtime.catalog.entries()
        return await self.runtime.lists.ask(lambda: make(seen(entries, self.grants)))

    async def _number(self, model: str, version: int | str) -> int:
        if isinstance(version, int):
            return version
        look = partial(self.runtime.store.named, model, version)
        number = await self._from_store(model, None, look)
        if number is None:
            await self._confirm()
            raise UnknownTask(f"task {model!r} has no version named {version!r}")
        return number

    async def _confirm(self) -> None:
        """Before something is called missing: raises Unavailable unless the store answers."""
        await asyncio.wrap_future(self.runtime.catalog.refresh())

    async def _from_store(self, model: str, version: int | None, look: Callable[[], T]) -> T:
        """What `look` reads of a task, or of a version of it. Raises UnknownTask or Unavailable."""
        try:
            self.runtime.loader.health.require()
            return await self.runtime.facts.ask(look)
        except (NoSuchTask, UnknownVersion):
            await self._confirm()
            raise (no_task(model) if version is None else no_version(model, version)) from None
        except (StoreError, OSError) as error:
            raise Unavailable(f"reading the store: {reason(error)}", retry_after_s=1) from None


def _indexed(model: str, slot: Slot) -> dict[str, str]:
    state = slot.state
    reason = slot.failure.reason if slot.failure else COLD if state == "cold" else ""
    return {
        "name": model,
        "version": str(slot.version),
        "state": STATES[state],
        "reason": reason,
    }


def _specs(published: Published) -> tuple[list[Spec], list[Spec]]:
    """A path with networks of several sizes takes no network input, one of several networks gives
    no features.
    """
    sizes, classes = input_sizes(published.path), len(published.path.labels)
    inputs = [INPUTS["image"], INPUTS["pixels"]]
    if len(sizes) == 1:
        (size,) = sizes
        inputs.append(replace(INPUTS["preprocessed"], shape=(ANY, size, size, 3)))
    outputs = [Spec(name, "FP32", (ANY, classes)) for name in CLASS_OUTPUTS]
    features = feature_count(published.path)
    return inputs, outputs + ([Spec(FEATURES, "FP32", (ANY, features))] if features else [])


def _tensor(spec: Spec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _config_tensor(spec: Spec) -> dict[str, Any]:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(spec.shape[1:])}
