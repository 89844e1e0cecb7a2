"""What this hospital has told about which of its patients, and what it may still tell without giving few away.

Each reply is looked at beside everything released before, of all phases, rounds and studies (`population_audit`), and
beside itself (`reply_audit`). Families of tables that would give small numbers of patients away stay, the least useful
first; the rest of the reply leaves. The memory stays in the hospital: keyed hashes in place of patient numbers, class,
sex, age, split, and what was told; rows are only ever added. It must be durable before the reply leaves: remembered
too early is safe, too late is not.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2b_client.disclosure_file import MEMORY, SCHEMA, memory_rows
from f2b_client.durable import durable_database
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import RecordsError
from face2bone_model.contract.keys import Split
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.data.cohort import Cohort
from face2bone_model.metrics.population_audit import Patients, PopulationAudit, Told, longest_safe
from face2bone_model.metrics.reply_audit import ReplyAudit
from face2bone_model.metrics.suppression import families_by_use, small_families, withhold
from face2bone_model.metrics.tells import COUNTS_OF_THINGS, OUTPUT_FREE, Tell, tell_of

SALT, PATIENTS, REPLY = "salt", "patients", "reply"
SMALL_CELL = "It has a cell of too few patients."
POPULATION = "With what was released before, it would give too few patients away."
TOGETHER = "With the other tables of this reply, it would give too few patients away."
THING = "It changed by too few since it was last released."
MEASURE = Callable[[NDArray[np.bool_]], SiteStatistics]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whom a reply is about. Never leaves."""

    patients: Patients
    """The whole prepared cohort, from `DisclosureMemory.patients`."""
    split: Split | None
    """Which of them; None: all (describe)."""
    age_edges: tuple[int, ...]
    measure: MEASURE | None = None
    """The same statistics of some of the split's patients: a mask in the cohort's order. Without it, tables that
    depend on the model are withheld once patients were added."""

    def told(self, tells: Iterable[Tell]) -> Told:
        """What a reply about these patients tells."""
        return Told(
            patients=self.patients, split=self.split, age_edges=self.age_edges, tells=frozenset(tells)
        )

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Of the patients the reply is about, in the cohort's order."""
        pairs = zip(self.patients.keys, self.patients.splits, strict=True)
        return tuple(key for key, own in pairs if self.split is None or own is self.split)


@dataclass(frozen=True, kw_only=True)
class Protected:
    """Statistics that may leave, once they are recorded."""

    statistics: SiteStatistics
    withheld: Mapping[str, str]
    """Families that stay, and why. Never leaves."""
    subject: Subject
    study_hash: str
    request_key: str


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """One recorded reply."""

    told: Told
    with_outputs: bool
    """Whether anything released depended on what a model says."""
    withheld: Mapping[str, str]
    things: Mapping[str, int]
    """Released `COUNTS_OF_THINGS`."""


@dataclass(frozen=True)
class Memory:
    """Everything recorded, as read from the file."""

    replies: Mapping[str, Remembered] = field(default_factory=dict)

    @property
    def told(self) -> tuple[Told, ...]:
        """What was told, each thing once, however many rounds repeated it."""
        once = {
            (id(r.told.patients), r.told.split, r.told.age_edges, r.told.tells): r.told
            for r in self.replies.values()
            if r.told.tells
        }
        return tuple(once.values())

    def with_outputs(self) -> set[frozenset[str]]:
        """Populations of which something that depends on a model was released."""
        return {r.told.patients.of(r.told.split) for r in self.replies.values() if r.with_outputs}


class DisclosureMemory:
    """The memory of one site, `disclosure.db` in its folder."""

    def __init__(self, folder: SiteFolder) -> None:
        self._path: Path = folder.path / MEMORY

    def patients(self, cohort: Cohort) -> Patients:
        """The prepared cohort, patients named by a keyed hash."""
        salt = self._salt()
        facts = zip(cohort.patient_ids, cohort.labels, cohort.female, cohort.ages, strict=True)
        keys = tuple(
            hashlib.blake2b(
                json.dumps([name, int(label), bool(female), int(age)]).encode(), key=salt, digest_size=12
            ).hexdigest()
            for name, label, female, age in facts
        )
        return Patients(
            keys=keys,
            splits=tuple(Split(str(split)) for split in cohort.splits),
            labels=cohort.labels,
            female=cohort.female,
            ages=cohort.ages,
        )

    def protect(
        self,
        statistics: SiteStatistics,
        subject: Subject,
        *,
        study_hash: str,
        request_key: str,
        min_cell: int,
    ) -> Protected:
        """Withhold what would give few patients away. Nothing is recorded yet; the same question has the same answer.

        Args:
            statistics: unsuppressed, of the schema the study declares.
            subject: whom they are about.
            study_hash: of the study that asks.
            request_key: names the request in the reply store.
            min_cell: the larger of the study's and the hospital's; 1 withholds nothing.

        Raises:
            RecordsError: the memory cannot be read. Nothing may leave then.
        """
        memory = self._read()
        before = memory.replies.get(_reply_name(study_hash, request_key, subject.patients))
        withheld = dict.fromkeys(sorted(small_families(statistics, min_cell=min_cell)), SMALL_CELL)
        if before is not None:
            withheld = {**before.withheld, **withheld}
        elif min_cell > 1:
            withheld |= _Check(statistics, subject, memory, min_cell, withheld).run()
        return Protected(
            statistics=withhold(statistics, withheld),
            withheld=withheld,
            subject=subject,
            study_hash=study_hash,
            request_key=request_key,
        )

    def record(self, protected: Protected) -> None:
        """Remember what is about to leave; durable on return. Recording the same reply again changes nothing.

        Raises:
            RecordsError: the memory cannot be written. Nothing may leave then.
        """
        patients = protected.subject.patients
        rows = [
            (PATIENTS, _digest(patients), _patients_body(patients)),
            (
                REPLY,
                _reply_name(protected.study_hash, protected.request_key, patients),
                _reply_body(protected),
            ),
        ]
        self._add(rows)

    def _salt(self) -> bytes:
        stored = {kind: body for kind, _, body in self._rows()}
        if SALT not in stored:
            self._add([(SALT, "", secrets.token_hex(32))])
            stored = {kind: body for kind, _, body in self._rows()}
        return bytes.fromhex(stored[SALT])

    def _add(self, rows: list[tuple[str, str, str]]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        with durable_database(self._path, SCHEMA) as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO disclosures (kind, name, body) VALUES (?, ?, ?)", rows
            )

    def _rows(self) -> list[tuple[str, str, str]]:
        return memory_rows(self._path)

    def _read(self) -> Memory:
        rows = self._rows()
        try:
            people = {name: _read_patients(json.loads(body)) for kind, name, body in rows if kind == PATIENTS}
            return Memory(
                {name: _read_reply(json.loads(body), people) for kind, name, body in rows if kind == REPLY}
            )
        except (ValueError, KeyError, TypeError) as error:
            raise RecordsError(
                f"{self._path} is damaged: {error!r}.", "Restore it from a backup; nothing leaves without it."
            ) from error


@dataclass(frozen=True)
class _Check:
    """One reply against the memory and against itself."""

    statistics: SiteStatistics
    subject: Subject
    memory: Memory
    min_cell: int
    small: Mapping[str, str]

    def run(self) -> dict[str, str]:
        """Families to withhold beside those with a small cell, and why."""
        families = families_by_use(withhold(self.statistics, self.small))
        withheld = dict.fromkeys(self._things(families), THING)
        about = [family for family in families if family not in COUNTS_OF_THINGS]
        by_population, audit, tells = self._populations(about)
        withheld |= dict.fromkeys(by_population, POPULATION)
        if self.subject.split is not None:
            left = [family for family in about if family not in withheld]
            reply = ReplyAudit(
                self.statistics,
                age_edges=self.subject.age_edges,
                known=audit.known(tells),
                min_cell=self.min_cell,
            )
            kept = longest_safe(left, reply.safe)
            withheld |= dict.fromkeys((family for family in left if family not in kept), TOGETHER)
        return withheld

    def _things(self, families: Iterable[str]) -> list[str]:
        return [
            family
            for family in families
            if family in COUNTS_OF_THINGS
            and any(
                0 < abs(int(self.statistics[f"{family}/counts"].item()) - each.things[family]) < self.min_cell
                for each in self.memory.replies.values()
                if family in each.things
            )
        ]

    def _populations(self, families: list[str]) -> tuple[set[str], PopulationAudit, tuple[Tell, ...]]:
        tells = {family: _tell(family, self.statistics) for family in families}
        audit = PopulationAudit(self.memory.told, self.subject.told(tells.values()), min_cell=self.min_cell)
        apart = [tell for tell in dict.fromkeys(tells.values()) if not audit.nearly_told(tell)]
        told = longest_safe(apart, audit.safe)
        withheld = {family for family, tell in tells.items() if tell not in told}
        if self.subject.split is not None:
            withheld |= self._by_parts(families)
        return withheld, audit, told

    def _by_parts(self, families: Iterable[str]) -> set[str]:
        """Families whose difference from an earlier reply of the same model could show few patients.

        A coordinator can send one model twice. Every part of the patients that the populations of earlier replies set
        apart must therefore be fit to leave alone; of patients who left, the model's answers are not known.
        """
        now = frozenset(self.subject.keys)
        earlier = [one for one in self.memory.with_outputs() if one != now and not one.isdisjoint(now)]
        sizes = [len(part) for one in earlier for part in (one - now, now - one)]
        if any(0 < size < self.min_cell for size in sizes):
            return set(families)
        depend = {family for family in families if family.rpartition("/")[2] not in OUTPUT_FREE}
        if not any(sizes):
            return set()
        if self.subject.measure is None or any(one - now for one in earlier):
            return depend
        present = np.array([[key in one for one in earlier] for key in self.subject.keys], bool)
        _, part = np.unique(present, axis=0, return_inverse=True)
        parts = (part.reshape(-1) == number for number in range(int(part.max()) + 1))
        small = (small_families(self.subject.measure(mask), min_cell=self.min_cell) for mask in parts)
        return depend.intersection(*[frozenset().union(*small)])


def _tell(family: str, statistics: SiteStatistics) -> Tell:
    tell = tell_of(family, statistics)
    assert tell is not None, family  # noqa: S101  # counts of things were taken out
    return tell


def _digest(patients: Patients) -> str:
    return hashlib.sha256(_patients_body(patients).encode()).hexdigest()


def _reply_name(study_hash: str, request_key: str, patients: Patients) -> str:
    """The patients are part of it: asked again about a changed cohort is another reply."""
    return f"{study_hash}/{request_key}/{_digest(patients)}"


def _patients_body(patients: Patients) -> str:
    facts = zip(patients.keys, patients.splits, patients.labels, patients.female, patients.ages, strict=True)
    return json.dumps(sorted([k, s.value, int(c), bool(f), int(a)] for k, s, c, f, a in facts))


def _read_patients(body: list[list[Any]]) -> Patients:
    keys, splits, labels, female, ages = zip(*body, strict=True) if body else ((), (), (), (), ())
    return Patients(
        keys=tuple(map(str, keys)),
        splits=tuple(map(Split, splits)),
        labels=np.array(labels, np.int64),
        female=np.array(female, np.bool_),
        ages=np.array(ages, np.int64),
    )


def _reply_body(protected: Protected) -> str:
    statistics, subject = protected.statistics, protected.subject
    released = families_by_use(statistics)
    tells = {tell_of(family, statistics) for family in released} - {None}
    return json.dumps(
        {
            "patients": _digest(subject.patients),
            "split": subject.split.value if subject.split else None,
            "age_edges": list(subject.age_edges),
            "tells": sorted([tell.by, tell.level] for tell in tells if tell),
            "with_outputs": subject.split is not None and bool(released),
            "withheld": dict(protected.withheld),
            "things": {
                family: int(statistics[f"{family}/counts"].item())
                for family in released
                if family in COUNTS_OF_THINGS
            },
        },
        sort_keys=True,
    )


def _read_reply(body: dict[str, Any], people: Mapping[str, Patients]) -> Remembered:
    return Remembered(
        told=Told(
            patients=people[body["patients"]],
            split=Split(body["split"]) if body["split"] else None,
            age_edges=tuple(body["age_edges"]),
            tells=frozenset(Tell(by, level) for by, level in body["tells"]),
        ),
        with_outputs=bool(body["with_outputs"]),
        withheld=dict(body["withheld"]),
        things=dict(body["things"]),
    )
