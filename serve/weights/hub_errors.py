"""Translates huggingface_hub's errors into `WeightsError`s that say what to do."""

import contextlib
import errno
from collections.abc import Iterator

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import WeightsError
from ..variants import Source


@contextlib.contextmanager
def as_weights_errors(source: Source, *, own_entry: bool = False) -> Iterator[None]:
    """Translate huggingface_hub's errors into a `WeightsError` about this source.

    With `own_entry` it is as an entry of a catalogue file names it.
    """
    repository, endpoint = source.repository, constants.ENDPOINT
    mirror = f"--mirror {repository}=OWNER/NAME"
    try:
        yield
    except GatedRepoError:
        raise WeightsError(
            f"{repository}: gated; accept its licence at {endpoint}/{repository}, then set "
            "HF_TOKEN to a token of that account"
        ) from None
    except (RepositoryNotFoundError, DisabledRepoError):
        raise WeightsError(
            f"{repository}: not found at {endpoint}: removed, renamed, or private; set HF_TOKEN if "
            f"it is private, or name another with {mirror}"
        ) from None
    except RevisionNotFoundError:
        correct = ", or correct `revision` in the catalogue" if own_entry else ""
        raise WeightsError(
            f"{repository}: has no revision {source.revision!r}; "
            f"name another with {mirror}@REVISION{correct}"
        ) from None
    except HFValidationError as fault:
        raise WeightsError(f"repository: {repository!r} was given: {fault}") from None
    except OfflineModeIsEnabled:
        raise WeightsError(
            f"{repository}: HF_HUB_OFFLINE is set, so nothing can be downloaded; unset it"
        ) from None
    except LocalEntryNotFoundError as fault:
        raise WeightsError(
            f"{repository}: not in the cache, and {endpoint} can't be reached "
            f"({_first_line(fault.__cause__ or fault)}); set HF_ENDPOINT to a mirror of the hub"
        ) from None
    except EntryNotFoundError as fault:
        raise WeightsError(
            f"{repository}: {_first_line(fault)}; name another with {mirror}"
        ) from None
    except HfHubHTTPError as fault:
        raise WeightsError(f"{repository}: {endpoint} answered: {_first_line(fault)}") from None
    except httpx2.HTTPError as fault:
        raise WeightsError(
            f"{repository}: the connection to {endpoint} failed: {_first_line(fault)}; "
            "run it again, complete files are kept; HF_ENDPOINT can name a mirror of the hub"
        ) from None
    except OSError as fault:
        if fault.errno == errno.ENOSPC:
            raise WeightsError(f"{repository}: the disk is full: {fault.filename}") from None
        raise WeightsError(f"{repository}: {_first_line(fault)}") from None


def _first_line(fault: BaseException) -> str:
    return next((line for line in str(fault).splitlines() if line.strip()), type(fault).__name__)
