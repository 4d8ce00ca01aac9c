"""What the record of an attempt keeps of the policy in force, and of what is wrong with it. **Pure.**"""

from policy.findings import Findings
from relay.queue.attempt import PolicyFacts


def policy_id(findings: Findings | None) -> str | None:
    return findings.cached.record_id if findings and findings.cached else None


def policy_facts(findings: Findings | None) -> PolicyFacts | None:
    """Return what a record of an attempt keeps of the policy in force."""
    if findings is None or findings.cached is None:
        return None
    cached = findings.cached
    return PolicyFacts(
        policy_domain=cached.policy_domain,
        record_id=cached.record_id,
        mode=cached.policy.mode.value,
        mx=cached.policy.mx,
        fetched_at=cached.fetched_at,
        expires_at=cached.expires_at,
    )


def policy_problem(findings: Findings | None) -> str:
    """Return what is wrong with the policy host or the record, "" if nothing."""
    if findings is None:
        return ""
    if findings.problem is not None:
        return f"{findings.problem.result_type.value}: {findings.problem.detail}"
    return f"{findings.unknown.reason.value}: {findings.unknown.detail}" if findings.unknown else ""
