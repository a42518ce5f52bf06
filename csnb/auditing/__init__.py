"""Is the protection real? An audit with a verdict."""

from csnb.auditing import blind  # its attacks register themselves
from csnb.auditing.autoattack import AUDITED
from csnb.auditing.indicators import Indicator
from csnb.auditing.kept import compared, fullest, kept_audits, kept_rows, overview
from csnb.auditing.of_model import audit
from csnb.auditing.of_runs import audit_run, audit_runs
from csnb.auditing.plan import BUDGETS, Attack, Budget
from csnb.auditing.report import Audit

__all__ = [
    "AUDITED", "Attack", "Audit", "BUDGETS", "Budget", "Indicator", "audit", "audit_run",
    "audit_runs", "blind", "compared", "fullest", "kept_audits", "kept_rows", "overview",
]  # fmt: skip
