"""A loss that jumps: the robust z-score of its logarithm among the losses before it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

WINDOW = 64  # losses looked back on: long enough for a steady median, short enough to follow a falling loss
FEWEST_LOSSES = 20  # below that the median absolute deviation of a few lucky batches means nothing
_LEAST_SPREAD = 0.02  # of the log loss, 2 percent: a loss that stands still has a deviation of 0
_LEAST_RISE = 0.5  # nats above the median: a loss of 0.001 that becomes 0.01 harms nothing
WORSE_THAN_CHANCE = 2.0  # times the loss of a uniform guess
NEXT_LOSSES = 8  # that stay up show a run that broke; a third of the batches of a good one may hold a rare row
_SEEN_TWICE = 2  # times that a run has come back from this height before
_AS_HIGH = 0.9  # of a height


def score_jump(loss: float, earlier: Sequence[float]) -> float:
    """Return how far a loss stands above the earlier ones: 0.6745 (x - median) / MAD over their logarithms.

    The modified z-score of Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (1993), section 3. The logarithm
    makes a rise by a factor the same at every height of the loss. `MAD` is at least 0.02; 0.0 without two positive
    earlier losses, and for a loss that is not positive.
    """
    logs = [math.log(value) for value in earlier if 0 < value < math.inf]
    if len(logs) < 2 or not 0 < loss < math.inf:
        return 0.0
    middle = median(logs)
    spread = median(abs(value - middle) for value in logs)
    return 0.6745 * (math.log(loss) - middle) / max(spread, _LEAST_SPREAD)


def find_jump(loss: float, earlier: Sequence[float], threshold: float, chance: float | None = None) -> str:
    """Return in words how the loss jumped, or "" where it did not.

    It jumped when its robust z-score among at least 20 earlier losses reaches `threshold` and it stands 0.5 nats or
    more above their median; or, from the first loss on, when it is above twice `chance`, the loss of a uniform guess
    (the logarithm of the vocabulary's size; None leaves that rule out).
    """
    if chance is not None and loss > WORSE_THAN_CHANCE * chance:
        return f"a loss of {loss:.4g}, where guessing among all tokens alike gives {chance:.4g}"
    if len(earlier) < FEWEST_LOSSES:
        return ""
    middle = median(earlier)
    score = score_jump(loss, earlier)
    if score >= threshold and loss - middle >= _LEAST_RISE:
        return f"a loss of {loss:.4g} after a median of {middle:.4g}, a robust z-score of {score:.1f}"
    return ""


class LossHistory:
    """The losses of a run's updates, and the jumps among them.

    A loss whose next ones are back at the old height is that of a batch unlike the rest; one that stays there is that
    of a run that broke. So a jump waits for the `NEXT_LOSSES` after it, and is no jump where the run has come back
    from such a height twice.
    """

    def __init__(self, threshold: float | None, chance: float | None = None) -> None:
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.threshold, self.chance = threshold, chance
        self.jumps: list[float] = []
        """The losses since the last one at the old height."""
        self._came_back: deque[float] = deque(maxlen=WINDOW)

    @property
    def lasts(self) -> bool:
        """True if so many losses stay up that the run has broken."""
        return len(self.jumps) > NEXT_LOSSES

    def add(self, loss: float) -> str:
        """Add the loss of an update; return in words how it jumped, "" where it did not."""
        if not math.isfinite(loss):
            return ""
        jump = find_jump(loss, self.losses, self.threshold, self.chance) if self.threshold is not None else ""
        if jump and sum(height >= _AS_HIGH * loss for height in self._came_back) < _SEEN_TWICE:
            self.jumps.append(loss)
            return jump
        self._came_back.extend(self.jumps)
        self.losses.extend([*self.jumps, loss])
        self.jumps.clear()
        return ""

    def forget_chance(self) -> str:
        """Judge the last jump anew without the rule of the uniform guess, which is for a mean cross-entropy alone."""
        self.chance = None
        return self.add(self.jumps.pop())
