"""Tables of the live pages: reasons, rounds, the privacy account and the policy."""

from collections.abc import Mapping, Sequence

from f2b_client.local_results import LocalRound
from face2bone_model.contract.policy import Policy
from face2bone_model.report.formats import count, decimal, epsilon, power_of_ten, size
from face2bone_model.report.live.words import plural
from face2bone_model.report.tables import Column, Table


def reasons(title: str, unit: str, numbers: Mapping[str, int]) -> Table:
    """Photos or patients by reason."""
    rows = [(reason.replace("_", " "), count(number)) for reason, number in numbers.items()]
    return Table(title=title, columns=(Column("Reason"), Column(unit, "number")), rows=rows)


def round_table(rounds: Sequence[LocalRound]) -> Table:
    """Rounds of training, the newest first."""
    rows = [
        (
            str(one.round),
            count(one.num_patients),
            decimal(one.train_loss, 3) if one.epochs else "not looked at",
            f"{one.seconds:.0f}\N{NO-BREAK SPACE}s",
            epsilon(one.epsilon_after) if one.epsilon_after > 0 else "",
        )
        for one in reversed(rounds)
    ]
    columns = ("Patients", "Training loss", "Time", "ε spent in all")
    return Table(
        title="Rounds trained here",
        caption="The newest first.",
        columns=(Column("Round"), *(Column(name, "number") for name in columns)),
        rows=rows,
    )


def privacy_facts(spent: float, limit: float, delta: float, policy: Policy) -> Sequence[tuple[str, str]]:
    """The account in a few figures."""
    return (
        ("Spent", f"ε {epsilon(spent)}"),
        ("Left", f"ε {epsilon(max(0.0, limit - spent))}"),
        ("Limit here", f"ε {epsilon(limit)}"),
        ("Limit in policy.toml", f"ε {epsilon(policy.privacy.epsilon_limit)}"),
        ("δ", power_of_ten(delta)),
    )


def policy_table(policy: Policy) -> Table:
    """What policy.toml permits."""
    privacy, release = policy.privacy, policy.release
    rows = [
        (
            "Private training demanded of every study",
            "yes" if privacy.require_dp else "no, the study decides",
        ),
        ("Privacy budget of our patients, all studies together", f"ε {epsilon(privacy.epsilon_limit)}"),
        ("δ at most", power_of_ten(privacy.delta_limit)),
        ("Smallest cell that may leave", plural(release.min_cell, "patient", "patients")),
        ("Largest reply", size(release.max_bytes_per_reply)),
        ("Rounds at most", count(release.max_rounds)),
    ]
    return Table(
        title="This hospital's policy",
        caption="From policy.toml. Where a study is stricter, the study holds.",
        columns=(Column("What"), Column("Limit", "number")),
        rows=rows,
    )
