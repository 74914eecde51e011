"""Requests handed over as files and picked up later, at a provider's batch API or without one.

    lines      a request as a line of a file, a line of a result as an answer or a failure
    files      lines into files within a provider's limits, and keys out of them
    ledger     what was handed to whom: reports/<group>/batches.json
    provider   the HTTP of files and batches
    results    result files into the store
    wanted     which requests are handed over
    desk       submit, fetch, cancel, each of which may die anywhere and be run again
    session    what a run of pytest does with it
    portable   the same files without a provider: export, import
    targets    what one can wait for: answers, a batch, a process
    wait       until they are there

The ledger names a batch before anybody else hears of it, and the name travels with the file and the
batch. So whatever the step at which a run dies, the next finds what the server has by that name,
and sends nothing twice.
"""
