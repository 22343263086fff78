"""The parameters in a request's query; unknown ones are refused.

If a misspelt parameter were ignored, the client would get another answer than it asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from urllib.parse import parse_qsl

from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request

from service.errors import BadParameter

MAX_FIELDS = 1000
SHOWN_CHARACTERS = 50
Query = ImmutableMultiDict[str, str]
NO_QUERY = Query()


def query(request: Request, *known: str, repeated: Sequence[str] = ()) -> Query:
    """The parameters by name; those `repeated` may stand there more than once.

    Raises BadParameter, with the name that was probably meant.
    """
    if not request.scope["query_string"]:
        return NO_QUERY
    try:
        found = Query(
            parse_qsl(
                request.scope["query_string"].decode("latin-1"),
                keep_blank_values=True,
                max_num_fields=MAX_FIELDS,
            )
        )
    except ValueError:
        raise BadParameter(
            f"the query: expected at most {MAX_FIELDS} parameters, found more"
        ) from None
    for name, value in found.multi_items():
        if name not in known and name not in repeated:
            raise _unknown(name, [*known, *repeated])
        if name not in repeated and len(found.getlist(name)) > 1:
            raise BadParameter(
                f"query parameter {name}: expected once, found twice or more, the first with the "
                f"value {value[:SHOWN_CHARACTERS]!r}"
            )
    return found


def _unknown(name: str, known: Sequence[str]) -> BadParameter:
    shown = name[:SHOWN_CHARACTERS]
    near = difflib.get_close_matches(shown.lower(), known, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    expected = f"one of {', '.join(known)}" if known else "none on this path"
    return BadParameter(f"query parameter: expected {expected}, found {shown!r}{hint}")
