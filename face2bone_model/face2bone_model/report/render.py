"""From templates to files: one self-contained page and a JSON record of the same figures, written atomically."""

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from face2bone_model.system.files import write_atomic

TEMPLATES = Path(__file__).parent / "templates"
RECORD_VERSION = 1


def render(template: str, context: Mapping[str, Any]) -> str:
    """Fill a template; every value is escaped unless it is markup of ours."""
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(page: Path, html: str, record_path: Path, *, kind: str, record: Any) -> Path:
    """Write the record, then the page; a reader never meets half a file. Returns the page's path.

    Args:
        page: where the HTML goes; its folder is made if need be.
        html: the finished page.
        record_path: where the JSON goes.
        kind: `study` or `site`, told in the JSON beside its version.
        record: the frozen dataclass the page was made from.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    told = {"kind": f"face2bone/{kind}-page", "version": RECORD_VERSION, **plain(record)}
    text = json.dumps(told, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    write_atomic(record_path, text.encode())
    write_atomic(page, html.encode())
    return page


def plain(value: Any) -> Any:
    """A record as JSON can hold it: dataclasses become objects, NaN and infinities null, moments ISO 8601."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value
