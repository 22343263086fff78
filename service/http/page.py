"""GET /: names the calls, for somebody who has only the address. The page loads nothing."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from service import VERSION

POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
PAGE = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>munet gateway</title>
<style>body {{ font: 1rem/1.6 sans-serif; max-width: 40rem; margin: 3rem auto }}</style>
<h1>munet gateway {VERSION}</h1>
<p>Classifies images for every task of an evolved vision model.</p>
<ul>
<li><a href="/tasks">/tasks</a>: the tasks
<li><code>POST /classify/&lt;task&gt;</code>: the most probable classes of an image file
<li><code>/v2</code>: the Open Inference Protocol
<li><a href="/openapi.json">/openapi.json</a>: every call, for programs
<li><a href="/metrics">/metrics</a>: numbers for Prometheus
</ul>
</html>
"""


async def page(request: Request) -> Response:
    """GET /"""
    del request
    return HTMLResponse(PAGE, headers={"content-security-policy": POLICY})


ROUTES = [Route("/", page, methods=["GET"])]
