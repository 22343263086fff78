"""One run: sends a schedule to a gateway on this machine and records what became of each request.

Open loop: a request leaves at its scheduled time whether or not earlier ones are answered, and its
latency counts from that time, so a stalled server cannot hide by slowing its clients down.
"""

from __future__ import annotations

import asyncio
import json
import logging
from urllib.parse import quote

import aiohttp
import numpy as np

from loadtests import exposition, report, workload
from loadtests.errors import ExpositionError, GatewayError, OptionError
from loadtests.report import Outcome, Result, ServerSide, Setup
from loadtests.workload import Arrival, Load, Picture

log = logging.getLogger(__name__)

# Shorter than the 5 s after which uvicorn closes an idle connection: reusing one that the server is
# just closing would count as an error of the server.
KEEP_ALIVE_S = 2.0


async def measure(load: Load) -> Result:
    """Sends the whole load and waits for the answers: load.seconds + 2 * load.timeout_s at most.

    Failed requests are part of the result. Raises GatewayError if the gateway does not say which
    tasks it has, and OptionError if it has not those asked for or there is nothing to send.
    """
    # Two streams, so that the same seed gives the same arrivals with any images.
    arrival_rng, picture_rng = (np.random.default_rng([load.seed, stream]) for stream in (0, 1))
    pictures = await asyncio.to_thread(workload.pictures, load.images, picture_rng)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(total=load.timeout_s),
    ) as session:
        tasks = _chosen(load.tasks, await _listed_tasks(session, load.url))
        arrivals = workload.schedule(arrival_rng, load, tasks, len(pictures))
        if not arrivals:
            raise OptionError(
                f"drawing arrivals: expected at least one, found none in {load.seconds:g} s at "
                f"{load.rate:g}/s; raise the rate or the seconds"
            )
        before = await _scrape(session, load.url)
        outcomes, wall_s = await _send_all(session, load, arrivals, pictures)
        after = await _scrape(session, load.url)
    setup = Setup(load, tasks, len(pictures))
    return report.summarise(setup, outcomes, wall_s, _compared(before, after))


def _chosen(asked: tuple[str, ...], listed: tuple[str, ...]) -> tuple[str, ...]:
    unknown = sorted(set(asked) - set(listed))
    if unknown or not listed:
        shown = ", ".join(listed[:10]) + (f" … and {len(listed) - 10} more" if listed[10:] else "")
        raise OptionError(
            f"choosing tasks: expected tasks that the gateway serves, found "
            f"{', '.join(unknown) or 'that it serves none'}; it has: {shown or '(nothing)'}"
        )
    return asked or listed


async def _listed_tasks(session: aiohttp.ClientSession, url: str) -> tuple[str, ...]:
    try:
        names: list[str] = []
        after: str | None = ""
        while after is not None:
            page = json.loads(await _page(session, url, f"/tasks?after={quote(after)}"))
            names += [str(task["id"]) for task in page["tasks"]]
            after = page.get("next")
        return tuple(sorted(names))
    except (ValueError, KeyError, TypeError) as error:
        raise GatewayError(
            f'asking {url}/tasks: expected {{"tasks": [{{"id": ...}}]}}, found {error!r}; '
            f"check that a gateway listens there"
        ) from error


async def _page(session: aiohttp.ClientSession, url: str, path: str) -> str:
    """Body of a page answered with 200; anything else is a GatewayError."""
    try:
        async with session.get(url.rstrip("/") + path, allow_redirects=False) as response:
            body = await response.text()
    except (TimeoutError, aiohttp.ClientError) as error:
        raise GatewayError(
            f"asking {url}{path}: expected an answer, found {error!r}; start the gateway first"
        ) from error
    if response.status != 200:
        raise GatewayError(
            f"asking {url}{path}: expected status 200, found {response.status}: {body[:200]!r}"
        )
    return body


async def _scrape(session: aiohttp.ClientSession, url: str) -> exposition.Samples | None:
    """The server's counters; a run is worth reporting without them, so a failure is only logged."""
    try:
        return exposition.parse(await _page(session, url, "/metrics"))
    except (GatewayError, ExpositionError) as error:
        log.warning("event=metrics_unavailable reason=%r", str(error))
        return None


def _compared(
    before: exposition.Samples | None, after: exposition.Samples | None
) -> ServerSide | None:
    if before is None or after is None:
        return None
    try:
        return report.server_side(before, after)
    except ExpositionError as error:
        log.warning("event=metrics_incomparable reason=%r", str(error))
        return None


async def _send_all(
    session: aiohttp.ClientSession, load: Load, arrivals: list[Arrival], pictures: list[Picture]
) -> tuple[list[Outcome], float]:
    """Outcomes in the order in which they became known, and the seconds all of it took."""
    outcomes: list[Outcome] = []
    in_flight: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def send(arrival: Arrival, due: float) -> None:
        lag_s = loop.time() - due
        status = await _classify(session, load.url, arrival.task, pictures[arrival.image])
        outcomes.append(Outcome(arrival.task, status, loop.time() - due, lag_s))

    async with asyncio.TaskGroup() as group:
        for arrival in arrivals:
            due = start + arrival.time_s
            # Sleeping for nothing still lets the answers be read while the client is behind.
            await asyncio.sleep(max(0.0, due - loop.time()))
            lag_s = loop.time() - due
            if len(in_flight) >= load.max_in_flight or lag_s > load.timeout_s:
                outcomes.append(Outcome(arrival.task, report.NOT_SENT, 0.0, lag_s))
                continue
            request = group.create_task(send(arrival, due))
            in_flight.add(request)
            request.add_done_callback(in_flight.discard)
    return outcomes, max(load.seconds, loop.time() - start)


async def _classify(session: aiohttp.ClientSession, base: str, task: str, picture: Picture) -> str:
    """Posts one image and returns the request's status."""
    url = f"{base.rstrip('/')}/classify/{quote(task)}"
    headers = {"Content-Type": picture.content_type}
    try:
        async with session.post(
            url, data=picture.data, headers=headers, allow_redirects=False
        ) as response:
            body = await response.read()
    except TimeoutError:
        return report.TIMEOUT
    except aiohttp.ClientError:
        return report.CONNECTION
    if response.status == 200:
        return report.OK if _is_prediction(body, task) else report.INVALID
    return str(response.status)


def _is_prediction(body: bytes, task: str) -> bool:
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    if not isinstance(answer, dict):
        return False
    return answer.get("task") == task and bool(answer.get("predictions"))
