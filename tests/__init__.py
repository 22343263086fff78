"""Tests of behaviour; the folders mirror the tree."""

import os

# Here, so that it stands before NumPy is loaded. Threads that wait for each other's part of a tiny
# matrix take 40 times the processor time of its product.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
