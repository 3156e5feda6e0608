"""Results as a page to look at, to print and to pass on: one HTML file that needs nothing else."""

from sentio.reporting.origin import circumstances
from sentio.reporting.report import check_report, write_report

__all__ = ["check_report", "circumstances", "write_report"]
