"""The real code of the store in a simulated world: `python -m tests.model_store.simulation`.

Several processes change one store. A seed decides what they do (themes.py), which of them goes on
at each system call and each request, what is late, lost, refused or wrongly read, who is stopped,
interrupted or killed (fate.py), and when the power fails. At the end, what was acknowledged and
what is there must fit one order of the operations (judging.py). One seed gives one history.

How wide the net is shows in code that is known to lose things. Commit 41a2b65 kept each version,
what is live and each alias in a file of its own, and undid what failed. It loses what it
acknowledged in the histories below. Each is played by

    git worktree add --detach OLD 41a2b65
    python -m tests.model_store.simulation --code OLD --histories 1 --theme THEME --first SEED

    THEME          SEED  what is lost
    collected      1537  a deletion is not answered, repeated, and executed late: it takes a blob
                         that was put again
    collected      5509  the same of a gc that was interrupted
    twins           838  two publish the same path; one is interrupted, and undoes the other's
    removed-twice   411  of two removals one ends the other's: the rollback in between is lost
    registers      2880  a failed save puts back a state whose blobs were collected meanwhile
    removals       5042  an interrupted rollback leaves `live` at a version that was removed
    anything         37  a size that is read wrongly becomes the size in a manifest
    collected      4209  a publisher that is killed leaves a version that is not whole

mutants/ says the same of the code there is, without one of its steps.
"""
