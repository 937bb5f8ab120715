"""Downloads of a repository's files from the Hugging Face Hub, into its own cache; errors in one line."""

from __future__ import annotations

from collections.abc import Sequence

import huggingface_hub
from huggingface_hub import constants

from jaxfer.errors import InputError


class Absent(InputError):
    """What is named does not exist, was moved or deleted, or the Hub cannot be reached."""


def snapshot(name: str, revision: str | None, patterns: Sequence[str], *, kind: str = "model") -> str:
    """The folder with the files of a repository that match the patterns, in the cache; it is named by the commit.

    Args:
      name: `NAME` or `ORGANISATION/NAME`.
      revision: a branch, a tag or a commit; None for the newest.
      patterns: of file names.
      kind: `model` or `dataset`.

    Raises:
      Absent: no such repository or revision, one that asks for a login, or no network and an incomplete cache.
    """
    from huggingface_hub import errors as hub_errors  # with it comes all of HTTP

    cache = constants.HF_HUB_CACHE
    at = f" at revision {revision!r}" if revision else ""
    absent = f"{name}: no such folder or file here, and" if kind == "model" else f"{name}: the data set is"
    of_kind = {} if kind == "model" else {"repo_type": kind}
    try:
        return huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(patterns), cache_dir=cache, **of_kind
        )
    except hub_errors.GatedRepoError:
        raise Absent(f"{absent} gated on the Hub; accept its terms there and run `hf auth login`") from None
    except hub_errors.RepositoryNotFoundError:
        raise Absent(f"{absent} not on the Hub; check the name, or run `hf auth login` if it is private") from None
    except hub_errors.RevisionNotFoundError:
        raise Absent(f"{name}: on the Hub, but not{at}; give a branch, tag or commit of it") from None
    except (hub_errors.HTTPError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        reached = f"{absent} the Hub can't be reached" if kind == "model" else f"{name}: the Hub can't be reached"
        command = f"hf download {name}" + ("" if kind == "model" else f" --repo-type {kind}")
        raise Absent(
            f"{reached}{at} ({reason}), nor is it complete in the cache {cache}; run "
            f"`{command}` on a machine with network access and copy the cache, or give its folder"
        ) from None
