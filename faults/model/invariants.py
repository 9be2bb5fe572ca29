"""The invariants: compare the promises in the ledger with Postgres's records and the servers' present answers.

All of them are checked while nothing goes on. A check that cannot tell which of two orders two things happened in
allows both.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from faults.model.ledger import CHANGES, NEVER, RUNS, Ledger, Operation
from faults.model.observer import LEGAL, Epoch, Observed, ObservedRun

INVARIANTS = ("running", "changes", "forks", "status", "leftovers", "writes", "transitions", "idempotency", "answers")
SLACK_S = 3.0
"""The longest time between the statement that ends a run and its commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A thread as the servers and Postgres show it."""

    log: list[str]
    """Of its newest checkpoint."""
    row_log: list[str]
    """Of the values in its row."""
    status: str


@dataclass(frozen=True, slots=True)
class Verified:
    """A log that was right when everything was quiet."""

    epoch: Epoch
    log: list[str]


@dataclass(slots=True)
class Model:
    """The possible results of the operations in the ledger."""

    ledger: Ledger
    observed: Observed
    verified: dict[str, Verified] = field(default_factory=dict[str, Verified])
    forkable: set[str] = field(default_factory=set[str])
    """Checkpoints at which a client asked for a fork, and which are still there."""

    # Threads

    def check_thread(self, thread_id: str, shown: Shown | None) -> None:
        """Compare a thread with the ledger."""
        epoch = self.observed.current(thread_id)
        if epoch is None or shown is None:
            if (epoch is None) != (shown is None):
                self._report("status", thread_id, "the servers and Postgres do not agree whether it exists")
            return
        self._check_log(thread_id, thread_id, shown.log)
        self._check_age(thread_id, epoch, shown.log)
        self._check_missing(thread_id, thread_id, shown.log, self.expected(thread_id, epoch, NEVER))
        self._check_ends(thread_id, epoch, shown.log)
        self._check_crons(thread_id, epoch, shown.log)
        self._check_forked(thread_id, shown.log)
        self._check_begins(thread_id, shown.log, self._kept_log(thread_id, epoch, NEVER))
        if shown.status == "busy":
            self._report("status", thread_id, "it is busy, and no run is pending or running")
        if shown.status != "error" and shown.row_log != shown.log and not self._any_taken_over(thread_id):
            text = f"its row shows {_end(shown.row_log)}, its newest checkpoint {_end(shown.log)}"
            self._report("changes", thread_id, text)

    def check_copy(self, copy_id: str, shown: Shown) -> None:
        """Compare a copy with its source at the time of the copy."""
        operation = self.ledger.copies[copy_id]
        source = operation.thread_id
        self._check_log(source, copy_id, shown.log)
        epoch = self.observed.during(source, operation.sent, operation.answered)
        if epoch is not None:
            self._check_missing(source, copy_id, shown.log, self.expected(source, epoch, operation.sent, operation))
            self._check_begins(source, shown.log, self._kept_log(source, epoch, operation.answered), of=copy_id)
        if shown.status == "busy":
            self._report("status", source, f"its copy {copy_id[-6:]} is busy, and no run is pending or running")
        if shown.status != "error" and shown.row_log != shown.log:
            text = f"the row of its copy {copy_id[-6:]} shows {_end(shown.row_log)}, its checkpoint {_end(shown.log)}"
            self._report("changes", source, text)

    def accept(self, thread_id: str, shown: Shown | None) -> None:
        """Take the thread as verified: from now on only additions are checked one by one."""
        epoch = self.observed.current(thread_id)
        self.verified.pop(thread_id, None)
        if epoch is not None and shown is not None:
            self.verified[thread_id] = Verified(epoch, shown.log)
        # The ledger would grow, and each check would become slower, over an hour of rounds.
        self.ledger.operations[thread_id].clear()

    def expected(self, thread_id: str, epoch: Epoch, before: float, copy: Operation | None = None) -> set[str]:
        """The tokens that the log must show, of changes that were certainly made before that time."""
        forks = self._forks(thread_id, epoch, copy.answered if copy else before)
        tokens = {
            operation.token
            for operation in self.ledger.operations[thread_id]
            if operation.kind in CHANGES
            and self._was_made(operation, epoch, before)
            and _survives(operation.token, operation.sent, forks)
        }
        verified = self.verified.get(thread_id)
        if verified is not None and verified.epoch is epoch:
            tokens |= {token for token in verified.log if _survives(token, 0, forks)}
        return tokens

    def _was_made(self, operation: Operation, epoch: Epoch, before: float) -> bool:
        """Whether the change is certainly in that thread, and was before that time."""
        if operation.kind not in RUNS:
            in_time = operation.sent > epoch.created and (epoch.deleted is None or operation.answered < epoch.deleted)
            return operation.acknowledged and in_time and operation.answered < before
        runs = self.observed.of_token.get(operation.token, [])
        # Without exactly one run that succeeded there, the answer may belong to an earlier thread of this id.
        if len(runs) != 1 or runs[0].epoch is not epoch or runs[0].status != "success" or runs[0].rolled_back:
            return False
        if operation.kind == "resume" and not operation.about.get("witnessed"):
            return False  # there was nothing to answer
        # For a copy the time matters: a run may have succeeded after it was made.
        return before == NEVER or (operation.answered < before and "witnessed" in operation.about)

    def _forks(self, thread_id: str, epoch: Epoch, before: float) -> list[Operation]:
        """Forks that clients asked for and that may have been made in that thread before that time."""
        return [
            operation
            for operation in self.ledger.operations[thread_id]
            if operation.kind in {"fork_run", "fork_update"}
            and operation.sent < before
            and self._may_be_in(operation, epoch)
        ]

    def _may_be_in(self, operation: Operation, epoch: Epoch) -> bool:
        if operation.kind in RUNS:
            return any(run.epoch is epoch for run in self.observed.of_token.get(operation.token, []))
        return not operation.refused and operation.answered > epoch.created

    def _kept_log(self, thread_id: str, epoch: Epoch, before: float) -> list[str]:
        """The verified log, if the thread is still the same and nobody forked it since."""
        verified = self.verified.get(thread_id)
        if verified is None or verified.epoch is not epoch or self._forks(thread_id, epoch, before):
            return []
        return verified.log

    def _check_begins(self, thread_id: str, log: list[str], begin: list[str], of: str = "") -> None:
        if log[: len(begin)] != begin:
            place = next((n for n, pair in enumerate(zip(log, begin, strict=False)) if pair[0] != pair[1]), len(log))
            whose = f"its copy {of[-6:]}" if of else "it"
            text = f"{whose} does not begin with what was there before: from {begin[place : place + 4]} on"
            self._report("changes", thread_id, text, begin[place : place + 4])

    def _check_missing(self, thread_id: str, shown_id: str, log: list[str], expected: set[str]) -> None:
        if lost := sorted(expected - set(log)):
            whose = "" if shown_id == thread_id else f"in the copy {shown_id[-6:]} "
            self._report("changes", thread_id, f"{whose}acknowledged and missing: {_some(lost)}", lost)

    def _check_log(self, thread_id: str, shown_id: str, log: list[str]) -> None:
        """Check a log of the thread: each token once, in order, and only the thread's own."""
        whose = "" if shown_id == thread_id else f"in the copy {shown_id[-6:]}: "
        # A cron adds its token with each of its runs.
        twice = [token for token, times in Counter(log).items() if times > 1 and not token.startswith("c")]
        if twice:
            self._report("changes", thread_id, f"{whose}more than once: {_some(twice)}", map(_base, twice))
        foreign = {token for token in log if _base(token) not in self.ledger.of_thread[thread_id]}
        if foreign:
            self._report("changes", thread_id, f"{whose}of another thread: {_some(sorted(foreign))}")
        seen: set[str] = set()
        for token in log:
            if token.endswith("!") and token[:-1] not in seen:
                self._report("changes", thread_id, f"{whose}{token} without {token[:-1]} before it", [token[:-1]])
            seen.add(token)
        self._check_order(thread_id, whose, log)

    def _check_order(self, thread_id: str, whose: str, log: list[str]) -> None:
        newest: Operation | None = None
        for token in log:
            operation = self.ledger.of_token.get(token)
            if operation is None or operation.kind == "cron" or not operation.about.get("witnessed", True):
                continue
            # Only operations that did not overlap have an order. Of two that were open at once either may be first.
            if newest is not None and operation.settled < newest.sent:
                text = f"{whose}{newest.token} stands before {token}, which was acknowledged before it was sent"
                self._report("changes", thread_id, text, [newest.token, token])
            if newest is None or operation.sent > newest.sent:
                newest = operation

    def _check_age(self, thread_id: str, epoch: Epoch, log: list[str]) -> None:
        """Nothing is there that was refused, taken back, or made before the thread was."""
        wrong: dict[tuple[str, str], list[str]] = defaultdict(list)
        for token in dict.fromkeys(map(_base, log)):
            operation = self.ledger.of_token.get(token)
            if operation is None or operation.kind in {"cron", "resume"}:
                continue
            reason = self._why_not_run(epoch, token) if operation.kind in RUNS else _why_not_update(epoch, operation)
            if reason is not None:
                wrong[reason].append(token)
        for (invariant, reason), tokens in wrong.items():
            self._report(invariant, thread_id, f"{_some(tokens)} there, though {reason}", tokens)

    def _why_not_run(self, epoch: Epoch, token: str) -> tuple[str, str] | None:
        """Why a run's token must not be there, and which invariant says so."""
        runs = self.observed.of_token.get(token, [])
        if not runs:
            return "changes", "there was never such a run"
        if all(run.epoch is not epoch for run in runs):
            return "leftovers", "its thread was deleted, and this one has only the same id"
        if all(run.rolled_back or self._only_rolled_back(run) for run in runs):
            return "changes", "its run was rolled back"
        return None

    def _check_ends(self, thread_id: str, epoch: Epoch, log: list[str]) -> None:
        """A run that succeeded has run to its end."""
        if self._forks(thread_id, epoch, NEVER):
            return
        ends = {
            f"{operation.token}!"
            for operation in self.ledger.operations[thread_id]
            if operation.kind == "run" and "ask" not in operation.about and self._was_made(operation, epoch, NEVER)
        }
        if lost := sorted(ends - set(log)):
            self._report("changes", thread_id, f"runs without their ends: {_some(lost)}", map(_base, lost))

    def _check_crons(self, thread_id: str, epoch: Epoch, log: list[str]) -> None:
        """A cron's token is there once for each of its runs."""
        forked = bool(self._forks(thread_id, epoch, NEVER))
        for operation in self.ledger.operations[thread_id]:
            if operation.kind != "cron":
                continue
            runs = [run for run in self.observed.of_token.get(operation.token, []) if run.epoch is epoch]
            succeeded = [run for run in runs if run.status == "success" and not run.rolled_back]
            times = log.count(operation.token)
            if times > len(runs) or (times < len(succeeded) and not forked):
                text = f"{operation.token} is there {times} times, of {len(runs)} runs {len(succeeded)} succeeded"
                self._report("changes", thread_id, text, [operation.token])

    def _check_forked(self, thread_id: str, log: list[str]) -> None:
        """Check that a fork begins with the content of its checkpoint."""
        for operation in self.ledger.operations[thread_id]:
            if operation.kind in {"fork_run", "fork_update"} and operation.token in log:
                before = log[: log.index(operation.token)]
                there: list[str] = operation.about["log_there"]
                if before != there:
                    text = f"the fork {operation.token} has {_end(before)} before it in place of {_end(there)}"
                    self._report("forks", thread_id, text, [operation.token])

    def _any_taken_over(self, thread_id: str) -> bool:
        """Then its row may be older than its checkpoints: a cancel of the run does not read them."""
        epoch = self.observed.current(thread_id)
        return any(run.taken_over for run in self.observed.runs.values() if run.epoch is epoch)

    # Runs

    def check_runs(self, threads: Iterable[str]) -> None:
        """Check the result of every run that was acknowledged or inserted since the last check."""
        for run_id, old, new in self.observed.fresh_moves:
            if (old, new) not in LEGAL:
                run = self.observed.runs[run_id]
                text = f"run {run_id[-6:]} ({run.token}) went from {old} to {new}"
                self._report("transitions", run.thread_id, text, [run.token or ""])
        for thread_id in threads:
            for operation in self.ledger.operations[thread_id]:
                if operation.kind in RUNS:
                    self._check_run(operation)

    def _check_run(self, operation: Operation) -> None:
        runs = self.observed.of_token.get(operation.token, [])
        if len(runs) > 1 or len(operation.about.get("made", [])) > 1:
            text = f"{operation.token} made {len(runs)} runs, and its answers name {operation.about.get('made')}"
            self._report("idempotency", operation.thread_id, text, [operation.token])
        if operation.acknowledged and operation.run_id not in self.observed.runs:
            self._report("changes", operation.thread_id, f"{operation.token} made no run", [operation.token])
        for run in runs:
            self._check_end(operation, run)

    def _check_end(self, operation: Operation, run: ObservedRun) -> None:
        if run.epoch is None or run.epoch.deleted is not None:
            return  # a deletion of the thread may have ended it before
        if run.rolled_back and "rollback" not in self._cancels(run):
            text = f"the run of {operation.token} is gone, and nobody asked for a rollback"
            self._report("changes", operation.thread_id, text, [operation.token])
        if not run.rolled_back and run.status == "interrupted" and not self._cancels(run):
            text = f"the run of {operation.token} is interrupted, and nobody asked for that"
            self._report("changes", operation.thread_id, text, [operation.token])
        if (
            run.status in {"error", "timeout"}
            and operation.kind != "resume"
            and not self._lost_its_place(operation, run)
        ):
            text = f"the run of {operation.token} ended as {run.status}: {run.error}"
            self._report("changes", operation.thread_id, text, [operation.token])

    def _lost_its_place(self, operation: Operation, run: ObservedRun) -> bool:
        """A rollback, a prune or a deletion took the checkpoint at which the run was to fork, before the run began."""
        at: str | None = operation.about.get("at")
        return at is not None and at not in self.forkable and run.error == f"Checkpoint {at} not found"

    def _cancels(self, run: ObservedRun) -> set[str]:
        """How the run may have been cancelled: by a request, or by a newer run."""
        # A cancel that was sent after the end can't be its cause.
        ended = min(run.finished or NEVER, run.deleted or NEVER)
        actions = {
            operation.about["action"]
            for operation in self.ledger.operations[run.thread_id]
            if operation.kind == "cancel"
            and operation.run_id == run.run_id
            and not operation.refused
            and operation.sent <= ended
        }
        last = run.finished_seq or run.deleted_seq or NEVER
        return actions | {
            other.strategy
            for other in self.observed.runs.values()
            if other.thread_id == run.thread_id
            and other.strategy in {"interrupt", "rollback"}
            # By the order of statements and not by time: a newer run supersedes only those that were in the queue
            # before it.
            and run.inserted_seq < other.inserted_seq < last
        }

    def _only_rolled_back(self, run: ObservedRun) -> bool:
        return run.status == "interrupted" and self._cancels(run) == {"rollback"}

    # Threads that go, and answers

    def check_deletions(self, threads: Iterable[str], since: float) -> None:
        """Each thread that went was deleted by somebody, or its time was over."""
        for thread_id in threads:
            for epoch in self.observed.epochs.get(thread_id, []):
                if epoch.deleted is not None and epoch.deleted > since and not self._was_deleted(thread_id, epoch):
                    text = f"it was deleted at {epoch.deleted - self.ledger.began:.3f}, and nobody asked for that"
                    if epoch.assistant_id:
                        text += f" (assistant {epoch.assistant_id[-6:]} was the last to run)"
                    self.ledger.report("leftovers", thread_id, text, at=epoch.deleted)

    def _was_deleted(self, thread_id: str, epoch: Epoch) -> bool:
        at = epoch.deleted or 0
        candidates = [*self.ledger.operations[thread_id], *self.ledger.operations[""]]
        return self._expired(thread_id, epoch) or any(
            # The deletion must lie between the request and its answer, or somebody else made it.
            _deletes(operation, epoch) and operation.sent <= at <= operation.answered
            for operation in candidates
        )

    def _expired(self, thread_id: str, epoch: Epoch) -> bool:
        """Its time to live was over: nothing that was acknowledged touched it since."""
        if epoch.ttl_s is None or epoch.ttl_strategy != "delete" or epoch.deleted is None:
            return False
        touched = [
            operation.sent
            for operation in self.ledger.operations[thread_id]
            if operation.kind in {"update", "fork_update"} and operation.acknowledged
            if epoch.created < operation.sent and operation.answered < epoch.deleted
        ]
        ran = [run for run in self.observed.runs.values() if run.epoch is epoch]
        if any(run.finished_seq is None and run.deleted_seq is None for run in ran):
            return False
        touched += [(run.finished or run.deleted or 0) - SLACK_S for run in ran]
        return epoch.deleted >= max([epoch.created, *touched]) + epoch.ttl_s

    def check_answers(self, thread_id: str) -> None:
        """A refusal has a reason."""
        for operation in self.ledger.operations[thread_id]:
            if operation.status == 404 and self._was_surely_there(operation):
                text = f"{operation.kind} {operation.token} was answered 404 while the thread was there"
                self._report("answers", thread_id, text, [operation.token])
            rejected = operation.kind in {"update", "fork_update"} or operation.about.get("strategy") == "reject"
            # A repeated request may also get 409 for its key.
            if operation.status == 409 and rejected and "repeats" not in operation.about and self._was_idle(operation):
                text = f"{operation.kind} {operation.token} was answered 409 while no run was on the thread"
                self._report("answers", thread_id, text, [operation.token])

    def _was_surely_there(self, operation: Operation) -> bool:
        if operation.kind not in {"run", "update", "copy", "delete", "cron"} or "assistant_id" in operation.about:
            return False
        if self.observed.of_token.get(operation.token):
            return False  # the run was there, and was taken back while the client waited for it
        epoch = self.observed.during(operation.thread_id, operation.sent, operation.answered)
        if epoch is None:
            return False
        verified = self.verified.get(operation.thread_id)
        if verified is not None and verified.epoch is epoch:
            return True
        return any(
            other.acknowledged and other.answered < operation.sent
            # Sent before: its success may belong to the thread of this id that was deleted.
            if other.sent > epoch.created or other.about.get("makes") == epoch.name
            else False
            for other in self.ledger.operations[operation.thread_id]
        )

    def _was_idle(self, operation: Operation) -> bool:
        return not any(
            run.thread_id == operation.thread_id
            and run.inserted <= operation.answered
            and min(run.finished or NEVER, run.deleted or NEVER) >= operation.sent - SLACK_S
            for run in self.observed.runs.values()
        )

    def _report(self, invariant: str, thread_id: str, text: str, tokens: Iterable[str] = ()) -> None:
        self.ledger.report(invariant, thread_id, text, tokens)


def _survives(token: str, sent: float, forks: Sequence[Operation]) -> bool:
    """Whether each fork has the token in it, or came before it."""
    return all(fork.token == token or fork.settled < sent or token in fork.about["log_there"] for fork in forks)


def _why_not_update(epoch: Epoch, operation: Operation) -> tuple[str, str] | None:
    if operation.refused:
        return "changes", f"it was refused with {operation.status}"
    if operation.answered < epoch.created:
        return "leftovers", "its thread was deleted, and this one has only the same id"
    return None


def _deletes(operation: Operation, epoch: Epoch) -> bool:
    if operation.refused:
        return False
    if operation.kind == "assistant_delete":
        return operation.about["assistant_id"] == epoch.assistant_id
    return operation.kind == "delete" or (operation.kind == "prune" and "deletes" in operation.about)


def _some(tokens: Sequence[str]) -> str:
    return f"{' '.join(tokens[:8])}{f' and {len(tokens) - 8} more' if len(tokens) > 8 else ''}"


def _base(token: str) -> str:
    return token.removesuffix("!")


def _end(log: list[str]) -> str:
    return f"{len(log)} tokens ending {' '.join(log[-3:])}"
