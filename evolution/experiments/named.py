"""All named experiments. Names are METHOD-BENCHMARK, and `demo`.

Methods: munet, mu2net, mu2net-plus, and ours, fitted. Benchmarks of the papers: cmaterdb, chars,
vdd, vit, vtab-full, vtab-1k (EXPERIMENTS.md, Task lists). Sizes and defaults are those of the
published configurations (EXPERIMENTS.md, Runs). chars5, compare, compare-full, stream and demo are
for 2 cores.
"""

from __future__ import annotations

from collections.abc import Mapping

from evolution.experiments import compare, mu2net, mu2net_plus, munet, small
from evolution.experiments.experiment import Experiment

EXPERIMENTS: Mapping[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        munet.MUNET_CHARS, munet.MUNET_VDD, munet.MUNET_VIT,
        munet.MUNET_VTAB_FULL, munet.MUNET_VTAB_1K, munet.MUNET_CMATERDB,
        mu2net.MU2NET_CMATERDB, mu2net.MU2NET_CHARS, mu2net.MU2NET_VDD, mu2net.MU2NET_VIT,
        mu2net.MU2NET_VTAB_FULL, mu2net.MU2NET_VTAB_1K,
        mu2net_plus.PLUS_CMATERDB, mu2net_plus.PLUS_CHARS, mu2net_plus.PLUS_VDD,
        mu2net_plus.PLUS_VIT, mu2net_plus.PLUS_VTAB_FULL, mu2net_plus.PLUS_VTAB_1K,
        small.MUNET_CHARS5_PUBLISHED, small.MU2NET_CHARS5_PUBLISHED, small.PLUS_CHARS5_PUBLISHED,
        small.MUNET_CHARS5_TUNED, small.MU2NET_CHARS5_TUNED, small.PLUS_CHARS5_TUNED,
        small.DEMO, small.FITTED_STREAM, small.FITTED_STREAM_ALONE,
        *compare.COMPARE, *compare.COMPARE_FULL,
    )
}  # fmt: skip
