"""An approved study against this site: is it invited, can it run it, afford it, and will its policy let it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import failed, passed, warned
from f2b_client.ledger import Ledger
from f2b_client.policy import is_private, min_cell, privacy_terms
from f2b_client.prepare import PreparedSite
from f2b_client.settings import SiteFolder, weights_folder
from f2b_client.trunk import trunk_in
from face2bone_model.contract.errors import Face2BoneError
from face2bone_model.contract.keys import CLASSES, PROTOCOL_VERSION, Split
from face2bone_model.contract.policy import Policy
from face2bone_model.contract.study import Study
from face2bone_model.contract.update import ModelSignature, signature_of
from face2bone_model.metrics.schemas import statistics_signature
from face2bone_model.models.division import check_division, shared_tensors
from face2bone_model.models.face2bone import build_model
from face2bone_model.models.parameters import check_private
from face2bone_model.report.study_words import against_policy
from face2bone_model.training.privacy import epsilon_of, plan_privacy

_HEADER_BYTES = 65_536
"""Room for header and validation sums beside the numbers of the model."""
_NUMBER_BYTES = 4
_VERSIONS = "Compare the face2bone versions of both sides, and install the one the study names."


@dataclass(frozen=True, kw_only=True)
class StudySite:
    """The site that is to take part."""

    folder: SiteFolder
    site: str
    policy: Policy
    prepared: PreparedSite | None

    def min_cell(self, study: Study) -> int:
        """The stricter of study and policy."""
        return min_cell(self.policy, study)


def check_terms(site: StudySite, study: Study) -> Iterator[Finding]:
    """Everything about one study. A check that cannot go on says why and leaves the others alone."""
    yield _invited(site, study)
    yield _protocol(study)
    yield from _trunk(site, study)
    yield from _model(site, study)
    yield _statistics(study)
    yield _against_policy(site, study)
    yield _budget(site, study)
    if site.prepared is not None:
        yield _training_patients(site, study, site.prepared)
        yield _small_cells(site, study, site.prepared)


def _invited(site: StudySite, study: Study) -> Finding:
    if site.site not in study.sites:
        what = f"Study '{study.name}' invites {', '.join(study.sites)}, not '{site.site}'."
        return failed("invited", what, "study.toml", "Ask the coordinating centre to add this site.")
    return passed("invited", f"Study '{study.name}' invites '{site.site}'.", "study.toml")


def _protocol(study: Study) -> Finding:
    if study.protocol != PROTOCOL_VERSION:
        what = f"Study '{study.name}' speaks protocol {study.protocol}, this client {PROTOCOL_VERSION}."
        return failed("protocol", what, "study.toml", "Install the face2bone version the study names.")
    return passed("protocol", f"Both sides speak protocol {PROTOCOL_VERSION}.", "study.toml")


def _trunk(site: StudySite, study: Study) -> Iterator[Finding]:
    """The frozen network that the study names must be here, and must have made the cached features."""
    try:
        trunk = trunk_in(weights_folder(site.folder), study.trunk_digest)
    except Face2BoneError as error:
        yield failed("trunk", error.what, "weights", error.mend)
    else:
        yield passed("trunk", f"The trunk '{trunk.name}' is the one the study names.", "weights")
    if site.prepared is not None and site.prepared.trunk_digest != study.trunk_digest:
        what = (
            f"The cached features are of the trunk {site.prepared.trunk_digest[:12]}…, "
            f"study '{study.name}' names {study.trunk_digest[:12]}…."
        )
        yield failed("cache-trunk", what, "cache/", "Add the study's trunk, then run `f2b-client prepare`.")
    elif site.prepared is not None:
        yield passed("cache-trunk", "The cached features are of the study's trunk.", "cache/")


def _model(site: StudySite, study: Study) -> Iterator[Finding]:
    """What would be trained must be what the study describes, and must fit through the gate."""
    try:
        signature = _signature(study)
    except Face2BoneError as error:
        yield failed("model-signature", error.what, "study.toml [model]", error.mend or _VERSIONS)
        return
    if study.model_signature not in ("", signature.digest()):
        what = f"This client would build another model than study '{study.name}' describes."
        yield failed("model-signature", what, "study.toml", _VERSIONS)
    else:
        yield passed("model-signature", f"The model has {signature.size} trained numbers.", "study.toml")
    size, limit = signature.size * _NUMBER_BYTES + _HEADER_BYTES, site.policy.release.max_bytes_per_reply
    if size > limit:
        what = f"An update of study '{study.name}' has about {size} bytes; policy.toml permits {limit}."
        mend = "Raise [release] max_bytes_per_reply, or do not take part."
        yield failed("policy-bytes", what, "policy.toml", mend)
    else:
        yield passed(
            "policy-bytes", f"An update has about {size} bytes; {limit} are permitted.", "policy.toml"
        )


def _signature(study: Study) -> ModelSignature:
    model = build_model(study.model, seed=study.training.seed)
    check_division(model, study)
    return signature_of(shared_tensors(model, study), study.trunk_digest)


def _statistics(study: Study) -> Finding:
    if study.statistics_signature not in ("", statistics_signature(study.evaluation)):
        what = f"This client would release other tables than study '{study.name}' describes."
        return failed("statistics-signature", what, "study.toml", _VERSIONS)
    return passed("statistics-signature", "The tables are those the study describes.", "study.toml")


def _against_policy(site: StudySite, study: Study) -> Finding:
    refused = against_policy(study, site.policy)
    if refused:
        mend = "Ask the coordinating centre for another study, or change policy.toml if your hospital agrees."
        return failed("policy-refuses", " ".join(refused), "policy.toml", mend)
    return passed("policy-refuses", "policy.toml permits what the study asks.", "policy.toml")


def _budget(site: StudySite, study: Study) -> Finding:
    """Whether the rounds that are still to come fit into what is left of the privacy budget."""
    if not is_private(site.policy, study):
        return passed("budget", f"Study '{study.name}' does not spend privacy budget here.", "ledger.db")
    if site.prepared is None:
        what = "The privacy budget depends on the number of training patients, which is not known yet."
        return warned("budget", what, "ledger.db", "Run `f2b-client prepare`.")
    try:
        after, rounds = _epsilon_after(site, study, site.prepared)
    except Face2BoneError as error:
        return failed("budget", error.what, "ledger.db", error.mend or "Ask the coordinating centre.")
    limit = privacy_terms(site.policy, study).epsilon
    if not after <= limit:
        what = f"The {rounds} rounds to come would bring epsilon to {after:.2f}; the limit is {limit:g}."
        mend = "Ask for fewer rounds, or raise epsilon_limit in policy.toml if your data protection officer agrees."
        return failed("budget", what, "ledger.db", mend)
    return passed("budget", f"After {rounds} more rounds epsilon is {after:.2f} of {limit:g}.", "ledger.db")


def _epsilon_after(site: StudySite, study: Study, prepared: PreparedSite) -> tuple[float, int]:
    """Epsilon once every planned round was charged, and how many are left.

    Raises:
        Face2BoneError: the study cannot be trained privately, or the ledger cannot be read.
    """
    check_private(build_model(study.model, seed=study.training.seed))
    terms, ledger = privacy_terms(site.policy, study), Ledger(site.folder.ledger, site.site)
    plan = plan_privacy(terms, prepared.cohort.select(Split.TRAIN).num_patients, study.training)
    rounds = max(0, study.training.rounds - len(ledger.segments(study.hash())))
    to_come = replace(plan.segment, steps=plan.steps_per_round * rounds)
    return epsilon_of((*ledger.segments(), to_come), terms.delta), rounds


def _training_patients(site: StudySite, study: Study, prepared: PreparedSite) -> Finding:
    least = site.min_cell(study)
    few = {split.value: prepared.cohort.select(split).num_patients for split in Split}
    below = [f"{split} {count}" for split, count in few.items() if count < least]
    if below:
        what = f"Patients by split: {', '.join(below)}; with fewer than {least} nothing about them may leave."
        return failed("cohort-below-minimum", what, "cache/", "Take part with a larger cohort.")
    return passed("cohort-below-minimum", f"Every split has at least {least} patients.", "cache/")


def _small_cells(site: StudySite, study: Study, prepared: PreparedSite) -> Finding:
    """Tables by class of the held-out patients leave whole or not at all."""
    least = site.min_cell(study)
    counts = Counter(int(label) for label in prepared.cohort.select(Split.TEST).labels)
    small = [f"{name} {counts[index]}" for index, name in enumerate(CLASSES) if 0 < counts[index] < least]
    if small:
        what = f"Held-out patients by class: {', '.join(small)}; below {least}, tables by class stay here."
        mend = "The centre will see little of this site's evaluation: add patients, or agree on another min_cell."
        return warned("min-cell", what, "study.toml [evaluation]", mend)
    return passed("min-cell", f"Every class has at least {least} held-out patients.", "cache/")
