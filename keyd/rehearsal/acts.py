"""The acts of a rehearsal: who must reach the new state, and who must not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby

from keyd.domain.rehearsal import Act, Play, SignedFile
from keyd.domain.rotation.plan import range_words
from keyd.domain.trust import KeySet
from keyd.rehearsal.clients import run, served


def perform(play: Play) -> tuple[Act, ...]:
    """Clients of every earlier state, then the same with one signature too few everywhere."""
    acts = [_reaching(play, name, at, cached) for name, at, cached in _clients(play)]
    for _, found in groupby(play.released, _alike):
        files = tuple(found)
        for keys in files[0].sets:
            acts.append(_refused(play, {file.role: _short(file, keys) for file in files}, keys))
    return tuple(acts)


def _alike(file: SignedFile) -> tuple[object, ...]:
    """Bins of one list meet one client: each alone would take thousands that know thousands."""
    return (file.parents, file.sets, "" if file.is_bin else file.role)


def _clients(play: Play) -> Iterator[tuple[str, int, Mapping[str, bytes]]]:
    first, last = min(play.roots), max(play.roots)
    yield f"a client that holds only root {first}", first, {}
    if last != first:
        yield f"a client that holds root {last}", last, {}
    yield f"a client with the repository in its cache, at root {last}", first, play.before


def _reaching(play: Play, name: str, start: int, cached: Mapping[str, bytes]) -> Act:
    delegated = tuple(file for file in play.released if file.parents)
    fetcher = served(play, play.released)
    outcome = run(play, fetcher, start=start, cached=cached, visits=delegated)
    missing = [f.role for f in play.released if outcome.holds.get(f.role) != f.content]
    said = outcome.said or (f"it did not take {', '.join(missing)}" if missing else "")
    return Act(name, must_reach=True, reached=not said, said=said)


def _refused(play: Play, short: Mapping[str, SignedFile], keys: KeySet) -> Act:
    """Neither a fresh client nor one with a cache takes a file that lacks a signature."""
    roles = list(short)
    what = range_words(roles) if len(roles) > 1 else f"{roles[0]} {short[roles[0]].version}"
    name = f"{what} one signature short of the {keys.threshold} by {keys.delegator}"
    released = tuple(short.get(file.role, file) for file in play.released)
    visits = tuple(file for file in short.values() if file.parents)
    said = ""
    for cached in ({}, play.before):
        fetcher = served(play, released)
        outcome = run(play, fetcher, start=max(play.roots), cached=cached, visits=visits)
        if any(outcome.holds.get(file.role) == file.content for file in short.values()):
            return Act(name, must_reach=False, reached=True)
        said = outcome.said
    return Act(name, must_reach=False, reached=False, said=said)


def _short(file: SignedFile, keys: KeySet) -> SignedFile:
    """The file with only `threshold - 1` of this list's keys under it, whatever else signed."""
    document = json.loads(file.content)
    kept: set[str] = set()
    signatures = []
    for entry in document["signatures"]:
        fingerprint = keys.fingerprints.get(entry["keyid"])
        if fingerprint is not None and fingerprint not in kept:
            if len(kept) >= keys.threshold - 1:
                continue
            kept.add(fingerprint)
        signatures.append(entry)
    return replace(file, content=json.dumps({**document, "signatures": signatures}).encode())
