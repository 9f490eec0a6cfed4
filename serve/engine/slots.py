"""Which images are under way, and whose turn it is: the engine's rules, without clock or device.

Images are admitted in order of arrival, as far as there are free slots:

- `step`: at every step. Nobody waits for a batch to end.
- `batch`: only when nothing is under way. Whole batches, as a server has them that calls a
  pipeline; an image still leaves as soon as it is done.
- `serial`: the images of one request at a time.

Turns: the image that has waited longest for a step is next, and whoever can share its call comes
along. So while several groups are under way each gets a step in turn, all images advance equally,
and none starves: it waits for at most one call of every other group.
"""

from collections import deque
from collections.abc import Hashable, Iterable
from typing import Generic, Literal, Protocol, TypeVar

Policy = Literal["step", "batch", "serial"]


class Image(Protocol):
    """What a slot holds."""

    @property
    def request(self) -> Hashable:
        """Equal for the images of one request."""

    @property
    def group(self) -> Hashable:
        """Equal for images that can share a call."""


ImageT = TypeVar("ImageT", bound=Image)


class Slots(Generic[ImageT]):
    """A queue of images, and the at most `cap` of them that are under way.

    `cap` may be lowered at any time; what is under way then stays, in calls of at most `cap`.
    """

    def __init__(self, policy: Policy, cap: int) -> None:
        self.cap = cap
        self._policy = policy
        self._waiting: deque[ImageT] = deque()
        # In the order of their turns.
        self._under_way: deque[ImageT] = deque()

    @property
    def waiting(self) -> tuple[ImageT, ...]:
        """In the order in which they will be admitted."""
        return tuple(self._waiting)

    @property
    def under_way(self) -> tuple[ImageT, ...]:
        """In the order of their turns."""
        return tuple(self._under_way)

    def add(self, images: Iterable[ImageT]) -> None:
        """Queue one request's images."""
        self._waiting.extend(images)

    def admit(self) -> list[ImageT]:
        """Move waiting images into free slots, as far as the policy lets them; returns those."""
        if self._policy == "batch" and self._under_way:
            return []
        admitted: list[ImageT] = []
        while self._waiting and len(self._under_way) < self.cap:
            alone = self._policy == "serial" and bool(self._under_way)
            if alone and self._waiting[0].request != self._under_way[0].request:
                break
            image = self._waiting.popleft()
            self._under_way.append(image)
            admitted.append(image)
        return admitted

    def turn(self) -> list[ImageT]:
        """The images of the next call, at most `cap`; empty where nothing is under way."""
        if not self._under_way:
            return []
        group = self._under_way[0].group
        chosen = [one for one in self._under_way if one.group == group][: self.cap]
        for image in chosen:
            self._under_way.remove(image)
        self._under_way.extend(chosen)
        return chosen

    def remove(self, images: Iterable[ImageT]) -> None:
        """Take images out, wherever they are; those that are gone already don't matter."""
        gone = {id(image) for image in images}
        self._waiting = deque(one for one in self._waiting if id(one) not in gone)
        self._under_way = deque(one for one in self._under_way if id(one) not in gone)
