"""The real code of the store in a simulated world: `python -m tests.model_store.simulation`.

Several processes change one store. A seed decides which of them goes on at each system call and
each request, what is late, lost, refused or wrongly read, who is stopped, interrupted or killed,
and when the power fails. A model of what was acknowledged judges the end. One seed gives one
history.
"""
