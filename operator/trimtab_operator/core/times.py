"""Times as Kubernetes writes them: UTC, whole seconds, with a Z."""

from datetime import UTC, datetime


def read_time(text: str | None) -> datetime | None:
    """Read an RFC 3339 time; None where there is none or it is not one."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None
    except ValueError:
        return None


def write_time(moment: datetime) -> str:
    """Write a time with whole seconds, as the API server does."""
    return moment.astimezone(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
