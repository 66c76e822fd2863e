"""The one error of this package: what is wrong, and what to do about it."""


class ClusterError(Exception):
    """Something that a person can mend; the message names the cause and the mend."""

    def __init__(self, cause: str, mend: str) -> None:
        super().__init__(f"{cause}\n  mend: {mend}")
