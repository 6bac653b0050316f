"""Writes the CPUs that it may run on."""

import json
import os
import sys

sys.stdout.write(json.dumps({"cpus": sorted(os.sched_getaffinity(0))}) + "\n")
