"""Where a group's batches are handed over and picked up, by one process at a time.

Every step may be a killed run's last: each is noted once done, and looked up before it is redone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pytest_kvbench.batch.files import OPENAI, Lane, Limits, Splitter, keys_of
from pytest_kvbench.batch.ledger import FOLDER, Batch, Ledger, State, new_id, refuse_foreign
from pytest_kvbench.batch.lines import Result, Writer, check_addresses
from pytest_kvbench.batch.provider import ENDED, Provider, Remote
from pytest_kvbench.batch.results import Taken, results, save_failures, take
from pytest_kvbench.batch.wanted import missing, share_control, share_controls
from pytest_kvbench.engines.base import bearer
from pytest_kvbench.engines.keys import api_key_of
from pytest_kvbench.engines.kinds import kind_of
from pytest_kvbench.errors import ControlError, GuardError
from pytest_kvbench.files import CONTROLS, writing
from pytest_kvbench.pipeline.driver import GroupDriver, drivers
from pytest_kvbench.pipeline.exchange import compared_with
from pytest_kvbench.pipeline.group import Prepared, now
from pytest_kvbench.records import Cell, Failure, FailureKind
from pytest_kvbench.store.controls import SharedControls
from pytest_kvbench.store.keys import Keys
from pytest_kvbench.store.store import Store

LOCK = ".batches.lock"

_STATE_OF: dict[str, State] = {"failed": "failed", "cancelled": "cancelled"}
"""What becomes of a batch by how it ended; of the others: fetched."""


@dataclass(frozen=True)
class Submitted:
    """What a submission came to: new requests, and the errors of controls that are not sane."""

    requests: int
    sick: tuple[ControlError, ...]


@contextlib.contextmanager
def desk(
    prepared: Prepared,
    controls: Path | None = None,
    *,
    limits: Limits = OPENAI,
    on_step: Callable[[str], None] = lambda _: None,
) -> Iterator[Desk]:
    """A group's desk, for one process at a time; others wait until it is closed.

    Args:
        prepared: the group.
        controls: where controls are shared (None: inside the group).
        limits: of a file.
        on_step: called with the name of every step, before it is noted and after.

    Raises:
        GuardError: the ledger was altered, or came from elsewhere and is not confirmed.
    """
    refuse_foreign(prepared.folder)
    lock = prepared.folder / LOCK
    with writing(lock):
        lock.touch()
    with FileLock(lock), Store(prepared.database) as store:
        shared = SharedControls(controls or prepared.folder / CONTROLS)
        open_desk = Desk(prepared, store, shared, limits, on_step)
        try:
            yield open_desk
        finally:
            open_desk.close()


class Desk:
    """A group's open desk: see `desk`, which opens it."""

    def __init__(
        self,
        prepared: Prepared,
        store: Store,
        controls: SharedControls,
        limits: Limits,
        on_step: Callable[[str], None],
    ) -> None:
        self.ledger = Ledger(prepared.folder)
        self._prepared = prepared
        self.store = store
        self.controls = controls
        self._limits = limits
        self._on_step = on_step
        self._providers: dict[str, Provider] = {}
        self._refused = Keys()

    def close(self) -> None:
        """Close connections."""
        self._refused.close()
        for provider in self._providers.values():
            provider.close()

    # -- submit ----------------------------------------------------------------------------

    def submit(self, cells: Sequence[Cell] | None = None) -> Submitted:
        """Hand over what has no answer and is in no open batch, and what a dead run left.

        What failed is asked again, unless this desk has fetched the failure itself.

        Args:
            cells: of which cells; None: of the whole plan.

        Raises:
            UsageError: there is no server to hand it to.
            GuardError: a file was altered.
            EngineError: the server does not take it.
        """
        check_addresses(self._prepared.experiment)
        self.ledger.tidy()
        with contextlib.closing(self.open_keys()) as taken:
            submitted = self._write(drivers(self._prepared, cells), taken)
        for batch in self.ledger.open:
            if batch.state in ("written", "uploaded"):
                self._send(batch)
        return submitted

    def _write(self, every: Iterable[GroupDriver], taken: Keys) -> Submitted:
        def place(_: Lane) -> Path:
            return self._prepared.folder / FOLDER / f"{new_id()}.jsonl"

        def note(file: Any) -> None:
            self._on_step("write")
            self.ledger.note(file, now())
            self._on_step("written")

        count, writer, errors = 0, Writer(self._prepared.experiment), list[ControlError]()
        with Splitter(place, note, self._limits) as files:
            for driver in every:
                share_control(driver, self.store, self.controls)
                if error := driver.control_error(self.store):
                    errors.append(error)
                for request in missing(driver, self.store, taken, self._refused):
                    (told,) = compared_with(self.store, [self._prepared.sent(request)])
                    files.add(*writer.line(told))
                    count += 1
        return Submitted(count, tuple(errors))

    def _send(self, batch: Batch) -> None:
        if batch.state == "written":
            self._check_file(batch)
            file_id = self._of(batch).patiently(lambda: self._uploaded(batch))
            self._on_step("upload")
            batch = self._move(batch, "uploaded", file_id=file_id)
        made = self._of(batch).patiently(lambda: self._created(batch))
        self._on_step("create")
        self._noted(batch, made)

    def _uploaded(self, batch: Batch) -> str:
        provider, path = self._of(batch), self.ledger.path_of(batch)
        found = provider.find_file(batch.file_name, batch.bytes)
        return found or provider.upload(path, batch.file_name)

    def _created(self, batch: Batch) -> Remote:
        provider = self._of(batch)
        return provider.find_batch(batch.id) or provider.create(
            batch.file_id, batch.endpoint, batch.id
        )

    # -- fetch -----------------------------------------------------------------------------

    def look(self) -> None:
        """Ask the servers how far the open batches are, and note it.

        Raises:
            EngineError: a server does not answer.
        """
        for batch in self.ledger.open:
            if batch.state == "created":
                remote = self._of(batch).batch(batch.batch_id)
                self._on_step("poll")
                self._noted(batch, remote)

    def fetch(self, *, share: bool = True) -> Taken:
        """Store what the batches that have ended brought; what they did not is a failure.

        Args:
            share: whether controls are shared; not needed before `submit`, which does it too.

        Raises:
            EngineError: a server does not hand a file over.
            GuardError: a file was altered.
        """
        self.look()
        ended = [batch for batch in self.ledger.open if batch.state == "done"]
        taken = sum([self._fetched(batch) for batch in ended], Taken())
        if taken.answered and share:
            share_controls(self._prepared, self.store, self.controls)
        return taken

    def _fetched(self, batch: Batch) -> Taken:
        paths = list(self._downloaded(batch))
        self._on_step("download")
        with contextlib.closing(Keys()) as keys:
            for some in keys_of(self.ledger.path_of(batch), batch.sha256):
                keys.add(some)
            taken = take(
                self.store,
                self._results(batch, paths),
                lambda asked: set(keys.batches(asked)),
                lambda found: self._met(found, keys),
            )
            if batch.status != "cancelled":
                taken += Taken(failed=self._give_up(batch, keys))
        self._on_step("import")
        self._move(batch, _STATE_OF.get(batch.status, "fetched"))
        for path in (*paths, self.ledger.path_of(batch)):
            path.unlink(missing_ok=True)  # the database has it all
        return taken

    def _downloaded(self, batch: Batch) -> Iterator[Path]:
        for kind in ("output", "error"):
            file_id = getattr(batch, f"{kind}_file_id")
            if file_id:
                path = self.ledger.folder / FOLDER / f"{batch.id}.{kind}.jsonl"
                self._of(batch).download(file_id, path)
                yield path

    def _met(self, found: Sequence[Result], keys: Keys) -> None:
        keys.mark(result.key for result in found)
        self._refused.add(r.key for r in found if isinstance(r.outcome, Failure) and r.tried)

    def _give_up(self, batch: Batch, keys: Keys) -> int:
        """Store failures of the requests without a result; how many were stored."""
        kind: FailureKind = "ENGINE_ERROR" if batch.status == "failed" else "TIMEOUT"
        count = 0
        message = f"batch {batch.name} {batch.status} without it" + (
            f": {batch.message}" if batch.message else ""
        )
        for some in keys.unmarked():
            count += save_failures(self.store, [Failure(key, kind, message) for key in some])
            if batch.status != "expired":
                self._refused.add(some)
        return count

    # -- cancel ----------------------------------------------------------------------------

    def cancel(self, *, forget: bool = False) -> Taken:
        """End the open batches; what they brought until then is kept.

        One that the server is still ending stays open until a later `fetch`. Of one whose file was
        altered nothing is kept.

        Args:
            forget: ask no server: what is open is given up as it is.

        Raises:
            EngineError: a server does not say whether it has the batch.
        """
        for batch in self.ledger.open:
            remote = None if forget else self._ended(batch)
            self._on_step("cancel")
            if remote is None or not self._has_file(batch):
                self._move(batch, "cancelled")
            else:
                self._noted(batch, remote)
        self.ledger.tidy()
        return self.fetch()

    def _ended(self, batch: Batch) -> Remote | None:
        """Cancel a batch at its server; None where it has none."""
        provider = self._of(batch)
        if batch.batch_id:
            return provider.cancel(batch.batch_id)
        # Of a dead run, which may have come further than it noted.
        found = provider.patiently(lambda: provider.find_batch(batch.id))
        return provider.cancel(found.batch_id) if found else None

    def _has_file(self, batch: Batch) -> bool:
        try:
            self._check_file(batch)
        except GuardError:
            return False
        return True

    # -- the state of its batches ------------------------------------------------------------

    def open_keys(self) -> Keys:
        """The keys of the requests in open batches, by our id of the batch.

        Raises:
            GuardError: a file was altered.
        """
        keys = Keys()
        try:
            for batch in self.ledger.open:
                for some in keys_of(self.ledger.path_of(batch), batch.sha256):
                    keys.add(some, batch.id)
        except BaseException:
            keys.close()
            raise
        return keys

    def _check_file(self, batch: Batch) -> None:
        for _ in keys_of(self.ledger.path_of(batch), batch.sha256):
            pass

    def _noted(self, batch: Batch, remote: Remote) -> Batch:
        """A batch with what its server says of it, as it is written down."""
        said = {**vars(remote), "batch_id": remote.batch_id or batch.batch_id}
        return self._move(batch, "done" if remote.status in ENDED else "created", **said)

    def _move(self, batch: Batch, state: State, **changes: Any) -> Batch:
        moved = self.ledger.move(batch, state, **changes)
        self._on_step(state)
        return moved

    def _results(self, batch: Batch, paths: Sequence[Path]) -> Iterator[Result]:
        return results(paths, self._prepared.experiment.engine, key=self._of(batch).key)

    def _of(self, batch: Batch) -> Provider:
        engine = self._prepared.experiment.engine
        key = api_key_of(engine) if kind_of(engine).sends_key else None  # as live requests have it
        if batch.base_url not in self._providers:
            self._providers[batch.base_url] = Provider(
                batch.base_url,
                {**engine.headers, **bearer(key)},
                retries=engine.retries,
                timeout_s=engine.timeout_s,
                max_bytes=engine.max_reply_bytes,
            )
        return self._providers[batch.base_url]
