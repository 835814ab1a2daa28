"""Named warnings of a run that is finite and learns nothing: a collapse shows in the metrics, not in the loss."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

STD = 0.1  # of `embedding_std`: 1 is healthy, 0 is collapsed
RANK = 1.4  # of `embedding_rank`: 1 is all embeddings on one line
INFORMATION = 0.05  # nats of `assignment_information`: 0 is collapsed
PATIENCE = 20  # steps in a row
GRACE = 30  # the first steps of a run do not count


class Rule(NamedTuple):
  """Below `threshold` for `PATIENCE` steps in a row, the metric raises the warning `name`."""

  name: str
  metric: str
  threshold: float
  meaning: str
  remedy: str


RULES = (
  Rule(
    'CollapsedEmbeddings',
    'embedding_std',
    STD,
    'the embeddings of all examples are nearly the same (1 is healthy, 0 collapsed), so the loss says nothing',
    'see that stop-gradient, predictor, negatives or variance term are on, the target moves slowly, the rate is not too high',
  ),
  Rule(
    'CollapsedDimensions',
    'embedding_rank',
    RANK,
    'the embeddings of all examples lie on one line (1: one direction), although every channel has a spread',
    'see that stop-gradient and predictor are on, and the rate is not too high',
  ),
  Rule(
    'CollapsedAssignments',
    'assignment_information',
    INFORMATION,
    'the assignments do not depend on the example: all go to one prototype, or to all alike (0 nats: collapsed)',
    'see that centring or Sinkhorn is on, the temperature of the target is below that of the student, the rate is not too high',
  ),
)


class Health:
  """Watches the metrics of every step; `warnings` is what status.json holds: [{'name', 'step', 'value'}], never cleared."""

  def __init__(self, warnings: Sequence[dict[str, Any]] = ()):
    """warnings: those that the run has raised before it was resumed."""
    self.warnings = list(warnings)
    self._below = {rule.name: 0 for rule in RULES}  # steps in a row

  def update(self, step: int, values: Mapping[str, float]) -> list[str]:
    """Messages of the warnings that this step raises; each name comes once a run.

    Args:
      step: updates done.
      values: the metrics of that step; rules for metrics that are not there keep silent.
    """
    messages = []
    for rule in RULES:
      value = values.get(rule.metric)
      below = value is not None and value < rule.threshold and step > GRACE
      self._below[rule.name] = self._below[rule.name] + 1 if below else 0
      if self._below[rule.name] >= PATIENCE and rule.name not in (warning['name'] for warning in self.warnings):
        self.warnings.append({'name': rule.name, 'step': step, 'value': value})
        messages.append(
          f'{rule.name} at step {step}: {rule.metric} is {value:.3g}, and below {rule.threshold} for {PATIENCE} steps: '
          f'{rule.meaning}; {rule.remedy}'
        )
    return messages
