"""What schemathesis has to know beyond the document: texts of the forms that have names, and what
it must not do because the run would end its own keys."""

import ipaddress
import os
import re
import zlib

import jsonschema_rs
import schemathesis

# Loaded here, once: two workers that load it at the same moment, as they would, fail now and then.
import schemathesis.transport.asgi  # noqa: F401
from hypothesis import strategies as st

PORT = st.integers(1, 65535)
HEX = "0123456789abcdef"


def text(form, *parts):
    return st.tuples(*parts).map(lambda made: form.format(*made))


# From now on: some calls take times to come alone.
TIME = text(
    "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
    st.integers(2100, 9999),
    st.integers(1, 12),
    st.integers(1, 28),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 59),
)
V4 = text("{}.{}.{}.{}", *[st.integers(0, 255)] * 4)
V6 = text("2001:db8:{:x}::{:x}", st.integers(1, 65535), st.integers(1, 65535))
NAME = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}\.example", fullmatch=True)

FORMATS = {
    "date-time": TIME,
    "time-or-never": TIME | st.just(""),
    "host-port": text("{}:{}", NAME | V4 | V6.map("[{}]".format), PORT),
    "ip-prefix": V4 | V6 | text("{}/{}", V4, st.integers(8, 32)) | text("{}/{}", V6, st.integers(16, 128)),
    # Most within the pool of the run's nodes.
    "port-range": text("{}-{}", st.integers(20000, 20049), st.integers(20050, 20099))
    | st.integers(20000, 20099).map(str)
    | text("{}-{}", st.integers(1, 9999), st.integers(10000, 65535)),
    # A wait is a wait: the shortest are as good as the longest.
    "span": st.sampled_from(["0s", "1ms", "20ms", "0m", "0h", "0d"]),
}

for name, strategy in FORMATS.items():
    schemathesis.openapi.format(name, strategy)


def is_host_port(text):
    found = re.fullmatch(r"(?:([a-z0-9.-]+)|\[([0-9a-f:]+)\]):([0-9]{1,5})", text)
    return bool(found) and 1 <= int(found[3]) <= 65535 and (not found[2] or is_prefix(found[2]))


def is_prefix(text):
    try:
        return bool(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return False


def is_time(text):
    return bool(re.fullmatch(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z", text))


# Whether a text has the form. What is doubtful has it not, so that it must be asked.
FORMS = {
    "date-time": is_time,
    "time-or-never": lambda text: text == "" or is_time(text),
    "host-port": is_host_port,
    "ip-prefix": is_prefix,
    "port-range": lambda text: bool(re.fullmatch(r"[0-9]{1,5}(-[0-9]{1,5})?", text)),
    "span": lambda text: bool(re.fullmatch(r"[0-9]+(ms|s|m|h|d)", text)),
}
assert FORMS.keys() == FORMATS.keys()

# The run's own: ids of the nodes and of the token that it asks with, nodes to be removed, invites of its
# node, and a code.
OWN = set(os.environ["TOTORO_OWN_IDS"].split(","))
INVITES = os.environ["TOTORO_INVITE_IDS"].split(",")
SPARE = os.environ["TOTORO_SPARE_IDS"].split(",")
NODE, INSTANCE = os.environ["TOTORO_NODE_ID"], os.environ["TOTORO_INSTANCE"]
CODE = os.environ["TOTORO_CODE"]


def chance(*given):
    """A number that is the same for the same case, so that failures repeat."""
    return zlib.crc32(repr(given).encode())


@schemathesis.hook
def filter_case(context, case):
    """Does not saw off the branch: a removed node's key and a revoked token would have all that
    comes after answered 401."""
    path = case.path_parameters or {}
    if case.method == "DELETE" and path.get("id") in OWN:
        return False
    return not (is_mutated_body_alone(case) and is_valid_body(case))


def is_mutated_body_alone(case):
    """Of the whole call only the body is meant to be wrong."""
    if case.meta is None:
        return False
    parts = case.meta.components.items()
    return [place.value for place, part in parts if part.mode.is_negative] == ["body"]


# By path and method: there is one document.
VALIDATORS = {}


def validator_of(document, path, method):
    """What tells right JSON bodies of a call; None where it takes none."""
    call = document["paths"][path][method]
    content = call.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return None
    schema = {**content["schema"], "components": document["components"]}
    return jsonschema_rs.Draft202012Validator(schema, formats=FORMS, validate_formats=True)


def is_valid_body(case):
    """Whether a body that was made to be wrong is right after all: schemathesis takes every text of a
    form with a name for wrong, wherever in the body it has mutated something, and a number without its
    `format` is as good as with it."""
    place = (case.operation.path, case.method.lower())
    if place not in VALIDATORS:
        VALIDATORS[place] = validator_of(case.operation.schema.raw_schema, *place)
    validator = VALIDATORS[place]
    try:
        return validator is not None and validator.is_valid(case.body)
    except ValueError:
        # No body at all, or one that is no JSON.
        return False


@schemathesis.hook
def map_query(context, query):
    """Mutated waits may be days."""
    if query and "wait" in query and str(query["wait"])[:1] in "123456789":
        query["wait"] = "20ms"
    return query


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Of three ids two are of something that is there: else all but 404 stays unasked."""
    if not path_parameters or context.operation is None:
        return path_parameters
    drawn = chance(path_parameters)
    if drawn % 3:
        path = context.operation.path
        if "/invites/" in path:
            path_parameters["id"] = INVITES[drawn % len(INVITES)]
        elif "/nodes/{id}" in path:
            is_removed = context.operation.method.lower() == "delete"
            path_parameters["id"] = SPARE[drawn % len(SPARE)] if is_removed else NODE
        elif "/sessions/" in path:
            path_parameters["id"] = f"s-{drawn % 5}"
    return path_parameters


@schemathesis.hook
def map_headers(context, headers):
    """Of four versions three are whichever there is, and of four keys three are left out: else all but
    412 and 409 stays unasked."""
    if headers and chance(headers) % 4:
        if str(headers.get("If-Match", "")).endswith('"'):
            headers["If-Match"] = "*"
        headers.pop("Idempotency-Key", None)
    return headers


@schemathesis.hook
def map_body(context, body):
    """Of two codes one is a code, of two nodes and installations one is there."""
    if isinstance(body, dict) and chance(body) % 2:
        ours = {"code": CODE, "client_secret": CODE, "node": NODE, "instance": INSTANCE}
        for name, value in ours.items():
            if isinstance(body.get(name), str):
                body[name] = value
    return body
