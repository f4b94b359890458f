"""Where rehearsals take place."""

from __future__ import annotations

from keyd.domain.rehearsal import Act, Play


class StockClients:
    """The `Rehearsal` port: python-tuf's `Updater`, one for every earlier state.

    Nothing leaves the process but temporary files. The time is now: what has expired is refused,
    as it will be outside.
    """

    def rehearse(self, play: Play) -> tuple[Act, ...]:
        """Perform the acts of a play, in order."""
        # python-tuf's client takes 3 MB: a daemon that has rotated nothing goes without.
        from keyd.rehearsal.acts import perform  # noqa: PLC0415

        return perform(play)
