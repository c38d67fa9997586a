"""``python -m weakseg``, which launchers of several processes start: ``accelerate launch ... -m weakseg run ...``."""

from weakseg.cli import main

main()
