"""The live pages as an ASGI application: the first page, its changing parts, receipts, contents, reports."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup
from starlette import status
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from f2b_client.receipts import Receipt
from f2b_client.settings import SiteFolder
from f2b_client.web.contents import contents_of
from f2b_client.web.door import Door, Guard
from f2b_client.web.receipt_words import receipt_words
from f2b_client.web.site_view import Section, SiteView
from f2b_client.web.stored_replies import stored_reply
from face2bone_model.contract.errors import Face2BoneError
from face2bone_model.report.live.pages import STATIC, live_environment
from face2bone_model.report.live.safety import WRITTEN_REPORTS

HERE = Path(__file__).parent
PER_PAGE = 50
REPORTS = {
    "site.html": "text/html",
    "site.json": "application/json",
    "contact-sheet.html": "text/html",
}
"""The only files of `reports/` that are served. The contact sheet carries its pictures within itself."""


def pages_app(folder: SiteFolder, door: Door) -> ASGIApp:
    """The pages of one hospital behind a door."""
    pages = _Pages(folder, door.root)
    routes = [
        Route("/", pages.overview),
        Route("/sections.json", pages.sections),
        Route("/receipts", pages.receipts),
        Route("/receipts/{number:int}", pages.receipt),
        Route("/receipts/{number:int}/reply.safetensors", pages.reply),
        Route("/report/{name}", pages.report),
        Route("/static/{name}", pages.static),
    ]
    handlers: dict[Any, Any] = {status.HTTP_404_NOT_FOUND: pages.missing, Face2BoneError: pages.trouble}
    return Guard(Starlette(routes=[Mount(door.root, routes=routes)], exception_handlers=handlers), door)


class _Pages:
    """One method a page. They read files, so they are plain functions, which Starlette runs in threads."""

    def __init__(self, folder: SiteFolder, root: str) -> None:
        self._folder = folder
        self._root = root

    def overview(self, _: Request) -> Response:
        view = SiteView(self._folder)
        return self._page("overview.html.j2", {"site": view.site, "sections": self._rendered(view)})

    def sections(self, _: Request) -> Response:
        return JSONResponse(self._rendered(SiteView(self._folder)))

    def receipts(self, request: Request) -> Response:
        view = SiteView(self._folder)
        newest_first = view.receipts[::-1]
        last = max(1, -(-len(newest_first) // PER_PAGE))
        asked = request.query_params.get("page", "1")
        number = min(max(int(asked) if asked.isdecimal() and len(asked) < len("1000000") else 1, 1), last)
        shown = newest_first[(number - 1) * PER_PAGE : number * PER_PAGE]
        context = {
            "site": view.site,
            "receipts": [receipt_words(one, view.study_names) for one in shown],
            "chain": view.chain,
            "number": number,
            "last": last,
            "all": len(newest_first),
        }
        return self._page("receipts.html.j2", context)

    def receipt(self, request: Request) -> Response:
        view = SiteView(self._folder)
        receipt = _receipt(view, request)
        if receipt is None:
            return self.missing(request, None)
        payload = stored_reply(self._folder, receipt.payload_digest)
        contents = None if payload is None else contents_of(payload, view.settings_of(receipt.study_hash))
        context = {
            "site": view.site,
            "receipt": receipt,
            "words": receipt_words(receipt, view.study_names),
            "chain": view.chain,
            "contents": contents,
            "last": len(view.receipts),
        }
        return self._page("receipt.html.j2", context)

    def reply(self, request: Request) -> Response:
        receipt = _receipt(SiteView(self._folder), request)
        payload = stored_reply(self._folder, receipt.payload_digest) if receipt else None
        if receipt is None or payload is None:
            return self.missing(request, None)
        name = f"receipt-{receipt.number}.safetensors"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(payload, media_type="application/octet-stream", headers=headers)

    def report(self, request: Request) -> Response:
        name = str(request.path_params["name"])
        if name not in REPORTS or not (self._folder.reports / name).is_file():
            return self.missing(request, None)
        headers = {"Content-Security-Policy": WRITTEN_REPORTS}
        return FileResponse(self._folder.reports / name, media_type=REPORTS[name], headers=headers)

    def static(self, request: Request) -> Response:
        name = str(request.path_params["name"])
        if name not in STATIC:
            return self.missing(request, None)
        path, media_type = STATIC[name]
        return FileResponse(path, media_type=media_type)

    def missing(self, _: Request, __: Exception | None) -> Response:
        sentence = "There is no such page here, or not yet."
        context = {"site": SiteView(self._folder).site, "sentence": sentence}
        return self._page("trouble.html.j2", context, status.HTTP_404_NOT_FOUND)

    def trouble(self, _: Request, error: Exception) -> Response:
        """A file the page needs cannot be used: its numbered error in words."""
        context = {"site": SiteView(self._folder).site, "sentence": str(error)}
        return self._page("trouble.html.j2", context, status.HTTP_500_INTERNAL_SERVER_ERROR)

    def _rendered(self, view: SiteView) -> dict[str, Markup]:
        """The HTML of each section."""
        return {name: self._section(name, section) for name, section in view.sections().items()}

    def _section(self, name: str, section: Section) -> Markup:
        template = "trouble_section.html.j2" if section.trouble else f"{name}.html.j2"
        context = {**section.content, "trouble": section.trouble, "name": name, "root": self._root}
        return Markup(_fill(template, context))  # noqa: S704  # our templates escape every value

    def _page(self, template: str, context: Mapping[str, Any], code: int = status.HTTP_200_OK) -> Response:
        return HTMLResponse(_fill(template, {**context, "root": self._root}), code)


def _receipt(view: SiteView, request: Request) -> Receipt | None:
    number = request.path_params["number"]
    return next((one for one in view.receipts if one.number == number), None)


def _fill(template: str, context: Mapping[str, Any]) -> str:
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    return live_environment(HERE / "templates")
