"""The study half of the doctor: kit, approval, policy, trunk, privacy budget and preparation of one site."""

from collections.abc import Iterator

from f2b_client.approval import approved_study
from f2b_client.doctor.data_facts import read_facts
from f2b_client.doctor.finding import Check, Finding
from f2b_client.doctor.outcome import failed, passed, warned
from f2b_client.doctor.study_preparation import check_preparation, check_splits
from f2b_client.doctor.study_terms import StudySite, check_terms
from f2b_client.settings import Joined, SiteFolder, load_joined, load_policy
from face2bone_model.contract.errors import Face2BoneError, NotApprovedError
from face2bone_model.contract.policy import Policy
from face2bone_model.contract.study import Study, load_study


def check_study(folder: SiteFolder) -> Iterator[Finding]:
    """Everything between the kit and the first round that can be known here."""
    folder = SiteFolder(folder.path.resolve())
    joined, finding = _kit(folder)
    yield finding
    policy, finding = _policy(folder)
    yield finding
    studies: list[Study] = []
    for found in _approved(folder):
        if isinstance(found, Study):
            studies.append(found)
        else:
            yield found
    yield _kit_is_approved(folder, joined, studies)
    yield from check_splits(folder)
    yield from _with_facts(folder, joined, policy, studies)


def _kit(folder: SiteFolder) -> tuple[Joined | None, Finding]:
    try:
        joined = load_joined(folder)
    except Face2BoneError as error:
        return None, failed("kit", error.what, "joined/kit.json", error.mend)
    return joined, passed("kit", f"Joined as '{joined.site}'.", "joined/kit.json")


def _policy(folder: SiteFolder) -> tuple[Policy | None, Finding]:
    try:
        policy = load_policy(folder)
    except Face2BoneError as error:
        mend = "Mend the line; the comments in policy.toml say what is permitted."
        if not folder.policy.exists():
            mend = "Run `f2b-client join KIT` again: it writes the file where there is none."
        return None, failed("policy", error.what, "policy.toml", mend)
    return policy, passed("policy", "policy.toml can be read.", "policy.toml")


def _approved(folder: SiteFolder) -> Iterator[Study | Finding]:
    """Every approved study, or what is wrong with its file."""
    files = sorted(folder.approved.glob("*.toml"))
    if not files:
        what = "No study is approved: every request will be refused."
        mend = "Read the study and run `f2b-client approve joined/study.toml`."
        yield failed("approved", what, "approved/", mend)
    for path in files:
        where = f"approved/{path.name}"
        try:
            study = approved_study(folder, path.stem)
        except NotApprovedError as error:
            yield failed("approved-changed", error.what, where, error.mend)
        except Face2BoneError as error:
            yield failed(
                "approved-changed", error.what, where, "Remove the file and approve the study again."
            )
        else:
            yield passed("approved", f"Study '{study.name}' is approved.", where)
            yield study


def _kit_is_approved(folder: SiteFolder, joined: Joined | None, studies: list[Study]) -> Finding:
    """The centre asks by the hash of the kit's study; another version of it being approved does not help."""
    check, where = "kit-study-approved", "joined/study.toml"
    if joined is None or not studies:
        return passed(check, "There is no kit or no approval to compare yet.", where)
    try:
        kit_study = load_study(folder.joined / "study.toml")
    except Face2BoneError as error:
        return failed(check, error.what, where, "Run `f2b-client join KIT` again.")
    if kit_study not in studies:
        what = f"The kit's study '{kit_study.name}' is not among the approved ones."
        return warned(check, what, where, "Read it and run `f2b-client approve joined/study.toml`.")
    return passed(check, "The kit's study is approved.", where)


def _with_facts(
    folder: SiteFolder, joined: Joined | None, policy: Policy | None, studies: list[Study]
) -> Iterator[Finding]:
    """What needs the site's data too; a site whose data cannot be read is judged by the study alone."""
    try:
        facts = read_facts(folder)
    except Face2BoneError:  # the data checks say why
        facts = None
    if facts is not None:
        yield from check_preparation(facts)
    prepared = facts.prepared if facts else None
    site = joined.site if joined else (facts.settings.site.name if facts else "")
    if facts is not None and joined is not None:
        yield _names_agree(joined.site, facts.settings.site.name)
    for study in studies:
        yield from check_terms(
            StudySite(folder=folder, site=site, policy=policy or Policy(), prepared=prepared), study
        )


def _names_agree(kit: str, own: str) -> Finding:
    if kit != own:
        what = f"The kit calls this site '{kit}', site.toml '{own}'."
        mend = f'Set [site] name = "{kit}" before the first preparation: the splits follow from the name.'
        return warned("site-name", what, "site.toml", mend)
    return passed("site-name", f"Kit and site.toml both say '{kit}'.", "site.toml")


STUDY_CHECKS: tuple[Check, ...] = (check_study,)
"""One check of many findings, so that kit, studies and preparation are read once."""
