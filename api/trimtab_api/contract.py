"""Base of every contract model: frozen, camelCase on the wire, unknown fields refused, canonical JSON with a digest."""

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from trimtab_api.errors import InvalidSpec


class Contract(BaseModel):
    """A value that crosses a program boundary."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the wire form: camelCase keys, absent fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @classmethod
    def parse(cls, data: Any) -> Self:
        """Read the wire form. Raises InvalidSpec naming every field that is wrong."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InvalidSpec(explain(error)) from error


def explain(error: ValidationError) -> str:
    """Say in one line which fields are wrong and why."""
    return "; ".join(f"{'.'.join(str(part) for part in e['loc']) or 'value'}: {e['msg']}" for e in error.errors())


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces, so that equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest_of(value: Any) -> str:
    """Return `sha256:<hex>` of the canonical JSON of a value."""
    return "sha256:" + hashlib.sha256(canonical_json(value).encode()).hexdigest()
