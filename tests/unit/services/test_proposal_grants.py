"""A grant covers proposals about what it names, and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain import canonical
from keyd.domain.methods import METHODS
from keyd.domain.operations import SetBaseRule, SignMetadata, decode
from keyd.domain.payload import parse
from keyd.domain.policy import Caller, Grant, Policy
from keyd.errors import NotAllowed, NotFound
from keyd.services import proposals
from keyd.services.proposals import Shown
from keyd.services.world import World
from tests.officers import basis_of, enrol, person, propose
from tests.worlds import ADMIN, TIMEOUT_S, Author, FixedPolicy, active_author, allow_all, open_world

ANN, BEN, CAT = person("ann"), person("ben"), person("cat")
READER = Caller("unix:reader", local_admin=False)
PROPOSING = Grant(
    name="proposing",
    line=2,
    principals=frozenset({READER.principal}),
    methods=frozenset(method for method in METHODS if method.startswith("ProposalService.")),
)
DEMO = replace(PROPOSING, name="demo", repositories=frozenset({"demo"}), roles=frozenset({"root"}))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    everything = allow_all(ADMIN.principal, "unix:signer").grants
    opened = open_world(tmp_path, policy=Policy("0" * 64, everything))
    yield opened
    opened.ledger.close()


@pytest.fixture
def roots(world: World) -> dict[str, Shown]:
    """A proposal to sign a root of each of two repositories."""
    authors = [active_author(world), active_author(world, "other", prefix="o-")]
    enrol(world, ANN, BEN, CAT)
    return {author.repository: propose(world, *root_of(author)) for author in authors}


def root_of(author: Author) -> tuple[SignMetadata, bytes]:
    raw = canonical.encode(author.root(2))
    digest = parse(raw, max_bytes=10**6).digest
    return SignMetadata(author.repository, "root", 0, 2, digest), raw


def granted(world: World, *grants: Grant) -> World:
    everything = allow_all(ADMIN.principal).grants
    return replace(world, policy=FixedPolicy(Policy("0" * 64, (*everything, *grants))))


CALLS: dict[str, Callable[[World, Shown], object]] = {
    "CreateProposal": lambda world, shown: proposals.create(
        world, READER, decode(shown.proposal.operation), b"", 3600
    ),
    "GetProposal": lambda world, shown: proposals.get(world, READER, shown.proposal.name),
    "DecideProposal": lambda world, shown: proposals.decide(
        world, READER, shown.proposal.name, ANN.envelope(basis_of(shown))
    ),
    "CancelProposal": lambda world, shown: proposals.cancel(world, READER, shown.proposal.name),
    "ExecuteProposal": lambda world, shown: proposals.execute(
        world, READER, shown.proposal.name, timeout_s=TIMEOUT_S
    ),
}


@pytest.mark.parametrize("method", CALLS)
def test_a_proposal_about_another_repository_is_out_of_reach(
    world: World, roots: dict[str, Shown], method: str
) -> None:
    with pytest.raises(NotAllowed, match=f"{method} on other/root: .* the repository 'other'"):
        CALLS[method](granted(world, DEMO), roots["other"])


def test_strangers_do_not_learn_which_proposals_exist(world: World) -> None:
    with pytest.raises(NotAllowed):
        proposals.get(granted(world), READER, "p-nothing")
    with pytest.raises(NotFound):
        proposals.get(granted(world, PROPOSING), READER, "p-nothing")


@pytest.mark.parametrize("grant", [PROPOSING, replace(DEMO, roles=frozenset({"targets"}))])
def test_a_grant_names_repository_and_role(
    world: World, roots: dict[str, Shown], grant: Grant
) -> None:
    with pytest.raises(NotAllowed, match=r"does not name the (repository|role)"):
        CALLS["GetProposal"](granted(world, grant), roots["demo"])


def test_what_a_grant_covers_is_seen_and_decided(world: World, roots: dict[str, Shown]) -> None:
    reading = granted(world, DEMO)
    assert proposals.get(reading, READER, roots["demo"].proposal.name).proposal.payload
    decided = CALLS["DecideProposal"](reading, roots["demo"])
    assert isinstance(decided, Shown)
    assert len(decided.approvals) == 1


@pytest.mark.parametrize("all_states", [True, False])
def test_lists_leave_out_what_is_not_covered(
    world: World, roots: dict[str, Shown], all_states: bool
) -> None:
    rule = propose(world, SetBaseRule(3))

    def listed(*grants: Grant, size: int = 100) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            page = proposals.list_proposals(
                granted(world, *grants),
                READER,
                all_states=all_states,
                page_size=size,
                page_token=token,
            )
            found += [shown.proposal.name for shown in page.items]
            token = page.next_token
            if not token:
                return found

    both = sorted([rule.proposal.name, roots["demo"].proposal.name])
    assert listed(PROPOSING) == [rule.proposal.name]
    assert listed(DEMO) == both
    assert listed(DEMO, size=1) == both
    everywhere = replace(DEMO, any_repository=True, repositories=frozenset())
    assert len(listed(everywhere)) == 3
