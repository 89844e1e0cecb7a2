"""Short ways to say what a check found."""

from f2b_client.doctor.finding import Finding, Verdict


class BlockedError(Exception):
    """What was found makes the checks after it pointless; carries the finding."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.what)
        self.finding = finding


def passed(check: str, what: str, where: str = "") -> Finding:
    """All is well."""
    return Finding(check=check, verdict=Verdict.PASS, what=what, where=where)


def warned(check: str, what: str, where: str, mend: str) -> Finding:
    """A person should look at it; the client can be started."""
    return Finding(check=check, verdict=Verdict.WARN, what=what, where=where, mend=mend)


def failed(check: str, what: str, where: str, mend: str) -> Finding:
    """It must be mended before round 0."""
    return Finding(check=check, verdict=Verdict.FAIL, what=what, where=where, mend=mend)


def blocked(check: str, what: str, where: str, mend: str) -> BlockedError:
    """A failure that ends the checks which build on this one; to be raised."""
    return BlockedError(failed(check, what, where, mend))
