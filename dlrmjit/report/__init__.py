"""Turns logs of runs into a page or a picture: what happened, and why it was as fast."""

from dlrmjit.report.page import page
from dlrmjit.report.picture import picture
from dlrmjit.report.run_log import RunLog, read_log

__all__ = ["RunLog", "page", "picture", "read_log"]
