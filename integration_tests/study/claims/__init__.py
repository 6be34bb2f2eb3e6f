"""The claims, in the order of the report; each module holds one."""

from integration_tests.study.claims.calvin import CALVIN
from integration_tests.study.claims.controls import CONTROLS
from integration_tests.study.claims.degraded import DEGRADED
from integration_tests.study.claims.dense import DENSE
from integration_tests.study.claims.failures import FAILURES
from integration_tests.study.claims.groups import GROUPS
from integration_tests.study.claims.parts import PARTS
from integration_tests.study.claims.ranking import RANKING
from integration_tests.study.claims.rounds import ROUNDS
from integration_tests.study.claims.shifts import OUT_OF_DISTRIBUTION, SUITES
from integration_tests.study.claims.targets import TARGETS
from integration_tests.study.design import Claim

CLAIMS: tuple[Claim, ...] = (
    RANKING,
    TARGETS,
    DENSE,
    CONTROLS,
    FAILURES,
    GROUPS,
    PARTS,
    DEGRADED,
    ROUNDS,
    OUT_OF_DISTRIBUTION,
    SUITES,
    CALVIN,
)
