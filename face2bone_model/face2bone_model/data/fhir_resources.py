"""Open a FHIR export: Bundles, lists and single resources in JSON, or NDJSON as bulk exports write it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from face2bone_model.data.problem import Problem

_LINE_SUFFIXES = (".ndjson", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One FHIR resource and where it stands."""

    where: str
    """``export.json Observation/obs-12`` or ``obs.ndjson row 12``."""
    body: Mapping[str, Any]
    full_url: str = ""

    @property
    def kind(self) -> str:
        """The resource's type."""
        return str(self.body.get("resourceType", ""))

    @property
    def name(self) -> str:
        """``Patient/123``, as references write it."""
        return f"{self.kind}/{self.body.get('id', '')}"


def read_resources(path: Path, problems: list[Problem]) -> Iterator[Resource]:
    """Resources of one file or of all files of a folder. A file or line that is not JSON becomes a problem."""
    files = sorted(item for item in path.iterdir() if item.is_file()) if path.is_dir() else [path]
    for file in files:
        if file.suffix.lower() in _LINE_SUFFIXES:
            yield from _lines(file, problems)
        elif file.suffix.lower() == ".json" or file == path:
            body = _parse(file.name, file.read_bytes(), problems)
            yield from _unpack(file.name, body)


def _lines(file: Path, problems: list[Problem]) -> Iterator[Resource]:
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if line.strip():
            where = f"{file.name} row {number}"
            body = _parse(where, line, problems)
            if isinstance(body, dict):
                yield Resource(where=where, body=body)


def _parse(where: str, raw: bytes, problems: list[Problem]) -> Any:
    try:
        # Decimal keeps a T-score exactly as written; -2.5 must not become -2.4999…
        return json.loads(raw.decode("utf-8-sig"), parse_float=Decimal)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        problems.append(Problem(where, f"It is not JSON: {error}.", "Export it again."))
        return None


def _unpack(file: str, body: Any) -> Iterator[Resource]:
    if isinstance(body, list):
        for item in body:
            yield from _unpack(file, item)
    elif isinstance(body, dict) and body.get("resourceType") == "Bundle":
        for entry in body.get("entry") or ():
            if isinstance(entry, dict) and isinstance(entry.get("resource"), dict):
                yield _named(file, entry["resource"], str(entry.get("fullUrl", "")))
    elif isinstance(body, dict):
        yield _named(file, body, "")


def _named(file: str, body: Mapping[str, Any], full_url: str) -> Resource:
    name = f"{body.get('resourceType', 'resource')}/{body.get('id', '')}"
    return Resource(where=f"{file} {name}", body=body, full_url=full_url)
