"""The review page in a browser: a small server on this machine alone, over one `Review`.

It binds to 127.0.0.1 and answers only to that name, so no other machine reaches it and no other site can read from it;
requests that change something bear a header that another site cannot send. For a distant machine, forward the port
(``ssh -L 8008:127.0.0.1:8008 HOST``).
"""

import contextlib
import json
import socket
import threading
import webbrowser
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from weakseg.studio.review import Review
from weakseg.types import LabelMap, WeaksegError

HEADER = "x-weakseg"
"""Every request that changes something bears it; a page of another site would need a permission we never give."""
LOCAL = ("127.0.0.1", "localhost")
STATIC = {
    "/": ("index.html", "text/html"),
    "/studio.css": ("studio.css", "text/css"),
    "/studio.js": ("studio.js", "text/javascript"),
    "/drawing.js": ("drawing.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'"


def make_app(review: Review) -> Starlette:
    """The page and its interface:

    ========================  ======================================================================
    GET /api/review           classes with colours, photographs in order, counts
    GET /api/photo/ID         JPEG
    GET /api/thumb/ID         JPEG of the mask over the photograph
    GET /api/mask/ID          the label map, a byte a pixel, row by row
    PUT /api/mask/ID          the same bytes back, corrected
    DELETE /api/mask/ID       the mask as it was
    POST /api/refine/ID       a label map in, what DenseCRF makes of it out; nothing is kept
    PUT /api/decision/ID      JSON ``{"decision": "accepted" | "rejected" | "open"}``
    ========================  ======================================================================
    """

    def photo(request: Request) -> Response:
        return Response(review.photograph(_id(review, request)), media_type="image/jpeg")

    def thumb(request: Request) -> Response:
        return Response(review.thumbnail(_id(review, request)), media_type="image/jpeg")

    def mask(request: Request) -> Response:
        return _bytes(review.mask(_id(review, request)))

    def overview(request: Request) -> Response:
        shown = {"classes": review.legend(), "photographs": review.entries(), "skipped": review.skipped}
        return JSONResponse({**shown, "counts": review.counts(), "out": str(review.out)})

    async def save(request: Request) -> Response:
        id = _id(review, request)
        labels = await _labels(review, id, request)
        return await _entry(review, lambda: review.save(id, labels))

    async def reset(request: Request) -> Response:
        id = _id(review, request)
        return await _entry(review, lambda: review.reset(id))

    async def refine(request: Request) -> Response:
        id = _id(review, request)
        labels = await _labels(review, id, request)
        return _bytes(await run_in_threadpool(review.refined, id, labels))

    async def decide(request: Request) -> Response:
        id = _id(review, request)
        given = await _json(request)
        return await _entry(review, lambda: review.decide(id, given.get("decision")))

    routes = [Route(path, _static(name, kind)) for path, (name, kind) in STATIC.items()]
    routes += [
        Route("/api/review", overview),
        Route("/api/photo/{id}", photo),
        Route("/api/thumb/{id}", thumb),
        Route("/api/mask/{id}", mask),
        Route("/api/mask/{id}", save, methods=["PUT"]),
        Route("/api/mask/{id}", reset, methods=["DELETE"]),
        Route("/api/refine/{id}", refine, methods=["POST"]),
        Route("/api/decision/{id}", decide, methods=["PUT"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL)),
            Middleware(_Guard),
            Middleware(GZipMiddleware, compresslevel=1),
        ],
        exception_handlers={WeaksegError: _refused, _Unknown: _refused},
    )


def serve(review: Review, *, port: int = 8008, browser: bool = True, say: Callable[[str], None] = print) -> None:
    """Show the page until Ctrl+C.

    Args:
        review: what is reviewed.
        port: of 127.0.0.1; 0 takes a free one.
        browser: open the page.
        say: receives the page's address.

    Raises:
        WeaksegError: the port is taken.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOCAL[0], port))
            listener.listen()  # who comes before the server has started waits instead of being refused
        except OSError as error:
            raise WeaksegError(f"port {port} cannot be had ({error.strerror}); name another with --port") from error
        address = f"http://{LOCAL[0]}:{listener.getsockname()[1]}"
        say(f"review page: {address} (Ctrl+C ends it)")
        if browser:
            threading.Timer(0.5, webbrowser.open, (address,)).start()
        config = uvicorn.Config(make_app(review), log_level="warning", lifespan="off")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn ends in order and then hands the Ctrl+C on
            uvicorn.Server(config).run(sockets=[listener])


# --- what requests hold ---


class _Unknown(Exception):
    """There is no such photograph."""


def _id(review: Review, request: Request) -> str:
    id: str = request.path_params["id"]
    if id not in review:
        raise _Unknown(f"no photograph {id!r} is reviewed here")
    return id


async def _labels(review: Review, id: str, request: Request) -> LabelMap:
    """The label map in a request's body, a byte a pixel; no more is read than the photograph has pixels."""
    entry = review.entry(id)
    wanted = entry["height"] * entry["width"]
    data = await _body(request, wanted)
    if len(data) != wanted:
        raise WeaksegError(f"{id}: {len(data)} bytes for a photograph of {wanted} pixels")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(entry["height"], entry["width"])


async def _json(request: Request) -> dict[str, Any]:
    data = await _body(request, 1000)
    try:
        content = json.loads(data)
    except ValueError as error:
        raise WeaksegError('a decision is JSON, such as {"decision": "accepted"}') from error
    return content if isinstance(content, dict) else {}


async def _body(request: Request, most: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise WeaksegError(f"more than the {most} bytes that were expected")
    return bytes(data)


# --- answers ---


def _bytes(labels: LabelMap) -> Response:
    return Response(labels.contiguous().numpy().tobytes(), media_type="application/octet-stream")


async def _entry(review: Review, change: Callable[[], dict[str, Any]]) -> Response:
    entry = await run_in_threadpool(change)
    return JSONResponse({"photograph": entry, "counts": review.counts()})


def _static(name: str, kind: str) -> Callable[[Request], Response]:
    content = (files("weakseg.studio") / "static" / name).read_bytes()
    return lambda request: Response(content, media_type=kind)


def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 404 if isinstance(error, _Unknown) else 400)


class _Guard:
    """Refuses changes without our header, and tells the browser to trust nothing but our own files."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        names = {name for name, _ in scope.get("headers", ())}
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD") and HEADER.encode() not in names:
            refusal = JSONResponse({"error": f"a change bears the header {HEADER}"}, 403)
            return await refusal(scope, receive, send)

        async def sealed(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = {
                    "content-security-policy": POLICY,
                    "x-content-type-options": "nosniff",
                    "cache-control": "no-store",
                }
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in more.items())]
            await send(message)

        await self.app(scope, receive, sealed)
