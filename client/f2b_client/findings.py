"""Everything a hospital may want to mend: rows, patients and photos that were not used, each with what to do."""

import json

from f2b_client.prepare import PreparedSite
from f2b_client.settings import SiteFolder
from face2bone_model.data.problem import Problem

SHOWN = 20


def findings(folder: SiteFolder, prepared: PreparedSite) -> tuple[Problem, ...]:
    """Rows and patients first, then photos in quarantine. They name files, rows and patients: they stay here."""
    return (
        *prepared.manifest.excluded,
        *prepared.manifest.problems,
        *prepared.cohort.problems,
        *_quarantined(folder),
    )


def sentences(found: tuple[Problem, ...]) -> list[str]:
    """The first findings as lines for a terminal, and where the rest is."""
    lines = [f"{one.where}: {one.what} {one.mend}" for one in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(f"… and {len(found) - SHOWN} more: `f2b-client prepare --json` lists all of them.")
    return lines


def _quarantined(folder: SiteFolder) -> tuple[Problem, ...]:
    records = [
        json.loads(path.read_text(encoding="utf-8")) for path in (folder.path / "quarantine").glob("*.json")
    ]
    return tuple(
        Problem(where=record["photo"], what=record["what"], mend=record["mend"])
        for record in sorted(records, key=lambda record: str(record["photo"]))
    )
