"""Which images are under way, and whose turn it is: rules without clock or device.

Images are admitted in order of arrival, as far as there are free slots and they are prepared:

- `step`: at every step. No request waits for a batch to end.
- `batch`: only when nothing is under way. Whole batches, as in a server that calls a pipeline; an
  image still leaves as soon as it is done.

Turns are round-robin over groups: the image that has waited longest for a step goes next, together
with those that can share its call. All images of a group advance equally, and none starves: it
waits for at most one call of every other group.
"""

from collections import deque
from collections.abc import Hashable, Iterable
from itertools import islice
from typing import Generic, Literal, Protocol, TypeVar

Policy = Literal["step", "batch"]

_FIRST_WAIT_S = 60.0
# A neighbour that stays would otherwise cost a failed call, and its own callers memory, every time.
_LONGEST_WAIT_S = 16 * _FIRST_WAIT_S


class Schedulable(Protocol):
    """An image as the slots see it."""

    @property
    def prepared(self) -> bool:
        """Whether it may have a slot; until then others pass it."""

    @property
    def group(self) -> Hashable:
        """Equal for images that can share a call."""


ImageT = TypeVar("ImageT", bound=Schedulable)


class Limit:
    """A number of images that falls when memory runs out, and is tried again upwards, slowly.

    It grows by one image after a minute. Where memory runs out in such a trial, it falls back to
    what went well before, and the next trial waits twice as long, up to 16 minutes.
    """

    def __init__(self, most: int) -> None:
        self.value = self._most = most
        self._wait_s = _FIRST_WAIT_S
        self._next_at = 0.0
        self._on_trial = False

    def lower(self, images: int, now_s: float) -> None:
        """A call of so many images had no memory."""
        if self._on_trial and images == self.value:
            self.value -= 1
            self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        else:
            self.value = max(1, images // 2)
        self._on_trial = False
        self._next_at = now_s + self._wait_s

    def raise_if_due(self, now_s: float) -> bool:
        """Try one image more, if there were more at first and it is time; returns whether."""
        if now_s < self._next_at:
            return False
        self._on_trial = self.value < self._most
        if not self._on_trial:
            self._wait_s = _FIRST_WAIT_S
            return False
        self.value += 1
        self._next_at = now_s + self._wait_s
        return True


class Slots(Generic[ImageT]):
    """A queue of images, and the at most `cap` of them that are under way.

    `cap` may change at any time; what is under way stays, in calls of at most `cap` images.
    """

    def __init__(self, policy: Policy, cap: int) -> None:
        self.cap = cap
        self._policy = policy
        self._waiting: deque[ImageT] = deque()
        # In the order of their turns.
        self._under_way: deque[ImageT] = deque()

    @property
    def waiting(self) -> tuple[ImageT, ...]:
        """Images without a slot, in order of admission."""
        return tuple(self._waiting)

    @property
    def under_way(self) -> tuple[ImageT, ...]:
        """Images in slots, in the order of their turns."""
        return tuple(self._under_way)

    def add(self, images: Iterable[ImageT]) -> None:
        """Queue one request's images."""
        self._waiting.extend(images)

    def admit(self) -> list[ImageT]:
        """Move waiting images into free slots, as the policy allows; returns those moved."""
        if self._policy == "batch" and self._under_way:
            return []
        free = max(0, self.cap - len(self._under_way))
        admitted = list(islice((image for image in self._waiting if image.prepared), free))
        for image in admitted:
            self._waiting.remove(image)
        self._under_way.extend(admitted)
        return admitted

    @property
    def busy(self) -> bool:
        """Whether there is an image to step or to admit."""
        return bool(self._under_way) or any(image.prepared for image in self._waiting)

    def turn(self) -> list[ImageT]:
        """The images of the next call, at most `cap`; empty when nothing is under way."""
        if not self._under_way:
            return []
        group = self._under_way[0].group
        chosen = [image for image in self._under_way if image.group == group][: self.cap]
        for image in chosen:
            self._under_way.remove(image)
        self._under_way.extend(chosen)
        return chosen

    def remove(self, images: Iterable[ImageT]) -> None:
        """Remove images from the queue and the slots; those already gone are ignored."""
        gone = {id(image) for image in images}
        self._waiting = deque(image for image in self._waiting if id(image) not in gone)
        self._under_way = deque(image for image in self._under_way if id(image) not in gone)
