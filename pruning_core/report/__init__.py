"""The report: runs and comparisons as one HTML file that needs nothing besides itself. No torch.

`reading` takes apart what ``prune``, ``evaluate`` and ``survey`` wrote and trusts none of it;
`joining` makes one of several files; `charts` and `bars` draw, `tables` and `wording` say it, and
`document` puts all of it into the template.
"""

from pruning_core.report.document import report_of
from pruning_core.report.reading import READABLE, findings_of

__all__ = ["READABLE", "findings_of", "report_of"]
