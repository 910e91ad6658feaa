"""How a campaign works; what users need is in `hermes.stillwater.campaign`.

General layout: pure modules decide, the others act.

    _units.py      pure: units and their keys; Segment
    _identity.py   pure: what tells one unit, or function, from another
    _rows.py       pure: the lines of a manifest
    _standing.py   pure: what is done, has failed, and is to be done
    _plan.py       pure: which unit is next, and where
    _manifest.py   the file: one writer, locked, cut where it was torn
    _output.py     a unit's files: written aside, then renamed
    _work.py       what a worker does with one unit
    _servers.py    which server a unit uses; a server for each worker
    _pool.py       the executor used by default: exact about who died
    _hands.py      one of its workers;  _worker.py  what that does
    _drive.py      submits, waits, records
    _interrupt.py  Ctrl-C, once and twice
    _progress.py   how far it is; _rich.py draws it
"""
