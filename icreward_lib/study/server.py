"""The page that people rate on, and the routes behind it.

A rater is known by the random token of a link alone. The browser learns no more of clips than their random names.
"""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import uvicorn
from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from icreward_lib.run.files import DiskFullError
from icreward_lib.run.profile import Group
from icreward_lib.study.pairs import Pair
from icreward_lib.study.protocol import StudyError, first_problem
from icreward_lib.study.store import Rater, RefusedError, Store, votes_table

PAGE = Path(__file__).parent / "page"
ADMIN_TOKEN = "ICREWARD_STUDY_ADMIN"  # environment variable; an argument could be read by others in a list of processes
LOCAL = ("127.0.0.1", "localhost", "::1")
LARGEST_BODY = 8192
SECONDS_PER_SCREEN = 15  # for the time that the consent page announces

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}

T = TypeVar("T")
Body = TypeVar("Body", bound=BaseModel)
Trial = Annotated[int, Field(ge=0, lt=100_000)]


class _Vote(Group):
    trial: Trial
    choice: Annotated[str, Field(min_length=1, max_length=16)]
    seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class _Note(Group):
    trial: Trial
    feedback: Annotated[str, Field(max_length=1000)] = ""
    tags: Annotated[list[Annotated[str, Field(max_length=32)]], Field(max_length=12)] = []


class _Withdrawal(Group):
    code: Annotated[str, Field(min_length=1, max_length=32)]


async def _with_headers(request: Request, respond: RequestResponseEndpoint) -> Response:
    response = await respond(request)
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    return response


class Study:
    """The routes of one study. All work on the store is done by a single thread, one request after the other."""

    def __init__(self, store: Store, media: dict[str, Path], admin_token: str | None = None) -> None:
        """Serve a store and the files of `media`, by their random names."""
        self.store, self.media, self.admin_token = store, media, admin_token
        self.config = store.config
        self.texts = {question.name: question.text for question in self.config.questions}
        self._thread = ThreadPoolExecutor(max_workers=1)

    def app(self, hosts: tuple[str, ...]) -> Starlette:
        """The application; requests to other than these host names are refused, "*" takes all."""
        return Starlette(
            routes=[
                Route("/", self._welcome),
                Route("/r/{token}", self._page),
                *(Route(f"/{name}", self._page_file) for name in ("study.css", "study.js", "icon.svg")),
                Route("/media/{name}", self._clip_or_image),
                Route("/api/withdraw", self._withdraw, methods=["POST"]),
                Route("/api/{token}/state", self._state),
                Route("/api/{token}/consent", self._consent, methods=["POST"]),
                Route("/api/{token}/vote", self._vote, methods=["POST"]),
                Route("/api/{token}/note", self._note, methods=["POST"]),
                Route("/admin/votes.csv", self._votes),
            ],
            # A page elsewhere could otherwise reach a local study through a name that it points here.
            middleware=[
                Middleware(BaseHTTPMiddleware, dispatch=_with_headers),
                Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
            ],
            exception_handlers={
                HTTPException: lambda request, error: _sentence(error.status_code, error.detail, error.headers),
                RefusedError: lambda request, error: _sentence(409, str(error)),
                DiskFullError: lambda request, error: _sentence(
                    507, "There is no room left to store answers. Nothing was lost; please try again later."
                ),
            },
        )

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _as_rater(self, request: Request, work: Callable[[Rater], T]) -> T:
        """Do something for the rater of the link."""

        def known() -> T:
            if (rater := self.store.rater(request.path_params["token"])) is None:
                raise HTTPException(404, "This link is not valid, or its answers have been deleted.")
            return work(rater)

        return await self._do(known)

    async def _welcome(self, request: Request) -> Response:
        return _sentence(404, "Please open the personal link that you were given.")

    async def _page(self, request: Request) -> Response:
        return FileResponse(PAGE / "index.html")  # which asks for the state, and learns whether the link is valid

    async def _page_file(self, request: Request) -> Response:
        return FileResponse(PAGE / request.url.path.removeprefix("/"), headers={"Cache-Control": "no-cache"})

    async def _clip_or_image(self, request: Request) -> Response:
        if path := self.media.get(request.path_params["name"]):
            return FileResponse(path, headers={"Cache-Control": "private, max-age=86400, immutable"})
        raise HTTPException(404, "There is no such file.")

    async def _state(self, request: Request) -> Response:
        return JSONResponse(await self._as_rater(request, self._next))

    async def _consent(self, request: Request) -> Response:
        await self._as_rater(request, lambda rater: self.store.consent(rater.number))
        return await self._state(request)

    async def _vote(self, request: Request) -> Response:
        """Reply when the vote is on the disk; on practice screens, with what was right."""
        vote = await _body(request, _Vote)

        def store(rater: Rater) -> dict[str, Any]:
            choice = self.store.vote(rater, vote.trial, vote.choice, vote.seconds)
            screen = self.store.screen(rater.number, vote.trial)
            known = {"right": screen.passes(choice), "answer": screen.answer} if screen.kind == "practice" else {}
            return {"trial": vote.trial, "choice": choice, **known}

        return JSONResponse(await self._as_rater(request, store))

    async def _note(self, request: Request) -> Response:
        note = await _body(request, _Note)
        if (note.feedback and not self.config.feedback) or not set(note.tags) <= set(self.config.tags):
            raise HTTPException(400, "This study does not ask for that.")
        await self._as_rater(request, lambda rater: self.store.note(rater, note.trial, note.feedback, note.tags))
        return JSONResponse({"trial": note.trial})

    async def _withdraw(self, request: Request) -> Response:
        code = (await _body(request, _Withdrawal)).code
        if not await self._do(functools.partial(self.store.withdraw, code)):
            raise HTTPException(404, "There is no such withdrawal code; its answers may be deleted already.")
        return JSONResponse({"deleted": True})

    async def _votes(self, request: Request) -> Response:
        """All votes as CSV, for whoever has the admin token."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.admin_token is None or not secrets.compare_digest(given.encode(), self.admin_token.encode()):
            raise HTTPException(403, "The admin token is missing or wrong.")
        table = await self._do(functools.partial(votes_table, self.store))
        return Response(table.to_csv(index=False), media_type="text/csv")

    def _next(self, rater: Rater) -> dict[str, Any]:
        """What the rater has to do next."""
        config = self.config
        state: dict[str, Any] = {"title": config.title, "contact": config.contact, "code": rater.code}
        if not rater.consented:
            minutes = max(1, round(rater.screens * SECONDS_PER_SCREEN / 60))
            return {**state, "phase": "consent", "consent": config.consent, "minutes": minutes}
        if rater.trial is None:
            return {**state, "phase": "done"}
        screen = self.store.screen(rater.number, rater.trial)
        practice = screen.kind == "practice"
        first, last = (0, config.practice) if practice else (config.practice, rater.screens)
        return {
            **state,
            "phase": "screen",
            "practice": practice,
            "done": rater.trial - first,
            "of": last - first,
            "feedback": config.feedback,
            "tags": config.tags,
            "screen": {  # all that the browser may know: attention items look like trials
                "trial": rater.trial,
                "question": self.texts[screen.question],
                "reference": f"/media/{screen.reference}",
                "clips": [{kind: f"/media/{clip.media}.{kind}" for kind in ("webm", "mp4")} for clip in screen.clips],
            },
        }


def _sentence(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, headers)


async def _body(request: Request, shape: type[Body]) -> Body:
    """The JSON of a request, checked; no more than `LARGEST_BODY` bytes are read."""
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        raise HTTPException(415, "The request must be JSON.")  # which other sites' forms cannot send
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > LARGEST_BODY:
            raise HTTPException(413, "The request is too long.")
    try:
        return shape.model_validate_json(bytes(content))
    except ValidationError as error:
        raise HTTPException(400, f"{first_problem(error)}.") from error


def media_files(pairs: list[Pair]) -> dict[str, Path]:
    """Every file of the pairs by its random name: all that the server gives out."""
    clips = {path for pair in pairs for path in (pair.video_a, pair.video_b, pair.corrupted)}
    files = clips | {clip.with_suffix(".webm") for clip in clips} | {pair.reference for pair in pairs}
    return {path.name: path for path in files}


def admin_token(host: str) -> str | None:
    """The admin token of the environment. Raises `StudyError` if others can reach the host and there is none."""
    token = os.environ.get(ADMIN_TOKEN)
    if host not in LOCAL and not token:
        raise StudyError(f"{host} can be reached from elsewhere: set {ADMIN_TOKEN} to a secret of 16 letters or more.")
    if token is not None and len(token) < 16:
        raise StudyError(f"{ADMIN_TOKEN} must have 16 letters or more.")
    return token


def serve(store: Store, pairs: list[Pair], *, url: str, host: str, port: int, admin_token: str | None) -> None:
    """Serve a study until interrupted, at `host` and `port`, to browsers that know it by the links' `url`."""
    study = Study(store, media_files(pairs), admin_token)
    hosts = (*LOCAL, urlsplit(url).hostname or host) if host in LOCAL else ("*",)
    # No access log: links are secrets.
    uvicorn.run(study.app(hosts), host=host, port=port, access_log=False, server_header=False, log_level="warning")
