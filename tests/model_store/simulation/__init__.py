"""The real code of the store in a simulated world: `python -m tests.model_store.simulation`.

Several processes change one store. A seed decides what they do (themes.py), which of them goes on
at each system call and each request, what is late, lost, refused or wrongly read, who is stopped,
interrupted or killed (fate.py), and when the power fails. At the end, what was acknowledged and
what is there must fit one order of the operations (judging.py). One seed gives one history.
"""
