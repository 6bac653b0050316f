"""Turns the logs of runs into one page that shows what happened, and why it was as fast."""

from dlrmjit.report.page import page
from dlrmjit.report.run_log import RunLog, read_log

__all__ = ["RunLog", "page", "read_log"]
