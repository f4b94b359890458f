"""The rules that a payload must pass before it is signed (docs/reference/rules.md).

Pure: all that is remembered comes in a `RepositoryView`, the time in a `Question`.
"""

from keyd.domain.rules.judgement import Judgement
from keyd.domain.rules.judging import judge
from keyd.domain.rules.references import references

__all__ = ["Judgement", "judge", "references"]
