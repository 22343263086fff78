"""Which changes of a line's meaning do the tests notice? `make mutants` runs it.

A mutant is the program with one small change: another comparison, another number, a call left out.
A mutant that no test notices shows a test that is missing, or a line that can go. Cosmic Ray
changes the lines; which of them, and which tests are run, is decided here:

- `places`: the possible changes of the core files, and a sample of them by a seed.
- `nearest`: which test files are likely to notice a change, from what each file imports. To
  measure that with coverage takes an hour, as many test files start gateways and compile.
- `__main__`: runs the sample and keeps each result, so that it can be interrupted.
"""
