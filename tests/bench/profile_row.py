"""Where the relay's time goes: one more turn of "1 domain" under py-spy, which costs time itself."""

from pathlib import Path

from sampling import Samples, sampled
from stage import Stage
from systems import SYSTEMS
from throughput import ONE_DOMAIN, Workload, measure, prepare

_WORKLOAD = Workload(domains=[ONE_DOMAIN], messages=8000, warm=True)


def profile(stage: Stage, directory: Path) -> Samples:
    with SYSTEMS["relay"].run(stage, directory) as running:
        prepare(stage, running, _WORKLOAD)
        with sampled(running.roots[0], directory) as samples:
            measure(stage, running, _WORKLOAD)
    return samples
