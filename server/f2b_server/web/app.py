"""The centre's live page as an ASGI application: the page, its changing parts, model cards and written reports."""

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
from starlette.routing import Route
from starlette.types import ASGIApp

from f2b_server.settings import StudyFolder
from f2b_server.web.door import Door, Guard
from f2b_server.web.markdown import to_html
from f2b_server.web.models import REPORTS, released_model
from f2b_server.web.view import TITLES, Section, StudyView
from face2bone_model.contract.errors import Face2BoneError
from face2bone_model.report.formats import moment, size
from face2bone_model.report.live.pages import STATIC, live_environment
from face2bone_model.report.live.safety import WRITTEN_REPORTS

TEMPLATES = Path(__file__).parent / "templates"


def page_app(folder: StudyFolder, door: Door) -> ASGIApp:
    """The page of one study behind a door."""
    pages = _Pages(folder, door)
    routes = [
        Route("/", pages.overview),
        Route("/sections.json", pages.sections),
        Route("/models/{number:int}", pages.card),
        Route("/reports/{name}", pages.report),
        Route("/static/{name}", pages.static),
    ]
    handlers: dict[Any, Any] = {status.HTTP_404_NOT_FOUND: pages.missing, Face2BoneError: pages.trouble}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), door, pages.login)


class _Pages:
    """One method a page. They read files, so they are plain functions, which Starlette runs in threads."""

    def __init__(self, folder: StudyFolder, door: Door) -> None:
        self._folder = folder
        self._door = door
        self._view = StudyView(folder)

    def overview(self, _: Request) -> Response:
        return self._page("overview.html.j2", {"sections": self._rendered(), "titles": TITLES})

    def sections(self, _: Request) -> Response:
        return JSONResponse(self._rendered())

    def card(self, request: Request) -> Response:
        number = int(request.path_params["number"])
        found = released_model(self._folder, number)
        if found is None:
            return self.missing(request, None)
        path, release = found
        context = {
            "round": number,
            "file": path.name,
            "size": size(len(release.archive)),
            "release": release,
            "card": to_html(release.card_text),
            "signed": moment(release.signed_at),
        }
        return self._page("card.html.j2", context)

    def report(self, request: Request) -> Response:
        name = str(request.path_params["name"])
        if name not in REPORTS or not (self._folder.reports / name).is_file():
            return self.missing(request, None)
        headers = {"Content-Security-Policy": WRITTEN_REPORTS}
        return FileResponse(self._folder.reports / name, media_type=REPORTS[name][0], headers=headers)

    def static(self, request: Request) -> Response:
        name = str(request.path_params["name"])
        if name not in STATIC:
            return self.missing(request, None)
        path, media_type = STATIC[name]
        return FileResponse(path, media_type=media_type)

    def missing(self, _: Request, __: Exception | None) -> Response:
        sentence = "There is no such page here, or not yet."
        return self._page("trouble.html.j2", {"sentence": sentence}, status.HTTP_404_NOT_FOUND)

    def trouble(self, _: Request, error: Exception) -> Response:
        """A file the page needs cannot be used: its numbered error in words."""
        return self._page("trouble.html.j2", {"sentence": str(error)}, status.HTTP_500_INTERNAL_SERVER_ERROR)

    def login(self, wrong: bool) -> str:  # called by the guard alone
        """What whoever has no cookie sees: nothing of the study."""
        context = {"site": "Coordinating centre", "root": "", "reach": "", "wrong": wrong}
        return _fill("login.html.j2", context)

    def _rendered(self) -> dict[str, Markup]:
        return {name: _section(name, section) for name, section in self._view.sections().items()}

    def _page(self, template: str, context: Mapping[str, Any], code: int = status.HTTP_200_OK) -> Response:
        reach = "over TLS, to whoever holds its token" if self._door.token else "on this machine only"
        site = f"Coordinating centre, {self._view.name}"
        return HTMLResponse(_fill(template, {**context, "root": "", "site": site, "reach": reach}), code)


def _section(name: str, section: Section) -> Markup:
    template = "trouble_section.html.j2" if section.trouble else f"{name}.html.j2"
    context = {**section.content, "trouble": section.trouble, "name": name, "title": TITLES[name], "root": ""}
    return Markup(_fill(template, context))  # noqa: S704  # our templates escape every value


def _fill(template: str, context: Mapping[str, Any]) -> str:
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    return live_environment(TEMPLATES)
