"""What holds for all tests."""

import os

# Tests compile far more than they compute: without fusion emitters XLA compiles twice as fast.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
