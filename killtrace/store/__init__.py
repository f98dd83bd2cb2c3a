"""The embedded store of the flight recorder.

Writing: `recorder.Recorder`.  Reading: `reader.open_store`, which gives a `reader.Store`:

    from killtrace.store.query import Query
    from killtrace.store.reader import Target, open_store

    with open_store(path) as store:              # default: files.DEFAULT_PATH
        store.deaths(Target(pid=4716), limit=5)  # list of model.Death, newest first
        store.deaths(Target(comm="nginx*"), since_ns=…, until_ns=…)
        store.deaths(Target(unit="nginx.service"))
        store.deaths(Target(container="web"))
        store.deaths(limit=10)                   # the latest deaths of all
        store.signals_to(death.process, until_ns=death.time_ns)  # list of model.Signal, same order
        store.records(Query(Filter(…), since_ns, until_ns))      # iterator, as recorded
        store.gaps()                             # list of reader.Gap: when nothing was recorded
        store.armed()                            # list of reader.ArmedSpan, with boot ids
        store.span(), store.count()              # (oldest_ns, newest_ns) or None; how many

Errors are KilltraceErrors, from opening as from any question: NotFoundError (3) where there is no
store, NotPermittedError (77) where it may not be read, reader.BrokenStoreError (1) where it is
damaged.  Times are nanoseconds since the epoch.

`schema` has the tables, `codec` cuts records into rows, `writer` writes batches, `retention` and
`checkpoint` are the upkeep, `query` turns filters into SQL.
"""
