"""What a program must know to ask the fleet server soundly, beyond the form of its requests.

Who asks: in turn one of several administrators, since each token may ask so often alone. What texts of a named format look
like: queries over labels, keys, addresses. And what there is: half of the sound requests name something that exists.
"""

import itertools
import json
import os
import urllib.parse
import zlib

import schemathesis
from hypothesis import strategies as st

TOKENS = os.environ["DUNLIN_TOKENS"].split()
IDS = {"tok-" + token.split("_")[1] for token in TOKENS}
NEXT = itertools.cycle(TOKENS)
# By the part of the path before a parameter: values that exist.
THERE = json.loads(os.environ["DUNLIN_THERE"])

WORD = st.from_regex(r"\A[a-z0-9_./:-]{1,12}\Z").filter(lambda word: word != "in")
QUOTED = st.text(st.characters(exclude_categories=("C",), exclude_characters='"\\'), max_size=12).map('"{}"'.format)
NAME = WORD | st.just("site")
TEST = st.one_of(
    NAME,
    st.just("*"),
    st.builds("{}{}{}".format, NAME, st.sampled_from(["=", " != "]), WORD | QUOTED | st.sampled_from("ab")),
    st.builds('{}~"{}*"'.format, NAME, WORD),
    st.builds("{} in ({}, {})".format, NAME, WORD, QUOTED),
)
QUERY = st.recursive(
    TEST,
    lambda inner: st.one_of(
        st.builds("({} && {})".format, inner, inner),
        st.builds("({} || {})".format, inner, inner),
        st.builds("!({})".format, inner),
    ),
    max_leaves=4,
)
schemathesis.openapi.format("label-query", QUERY)
# The beginning of a list: other cursors are the server's own, and stateful tests take those.
schemathesis.openapi.format("cursor", st.just(""))
# Nobody listens there.
schemathesis.openapi.format("webhook-url", st.builds("http://127.0.0.1:{}/{}".format, st.integers(1, 9), WORD))
# Points of the curve: the test vectors of RFC 8032.
schemathesis.openapi.format(
    "ed25519-public-key",
    st.sampled_from(
        [
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e",
        ]
    ),
)


@schemathesis.auth(refresh_interval=None)
class Bearer:
    def get(self, case, context):
        return next(NEXT)

    def set(self, case, data, context):
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook
def filter_case(context, case):
    # Nobody ends the tokens that ask.
    own = (case.path_parameters or {}).get("id")
    return not (case.operation.path == "/v1/tokens/{id}/revoke" and urllib.parse.unquote(str(own)) in IDS)


def whole(value):
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {name: whole(member) for name, member in value.items()}
    return [whole(member) for member in value] if isinstance(value, list) else value


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    # To JSON Schema 60.0 is an integer; no program writes one so.
    case.body = whole(case.body)
    spec = case.body.get("spec") if isinstance(case.body, dict) else None
    if isinstance(spec, dict) and spec.get("releases"):
        spec["releases"] = [{"digest": THERE["releases"][0]}]
    # What follows from one another stays so.
    if case.meta.phase.name.value == "stateful":
        return
    parts = case.operation.path.split("/")
    for before, part in zip(parts, parts[1:]):
        value = (case.path_parameters or {}).get(part.strip("{}"))
        there = THERE.get(before)
        if part.startswith("{") and there:
            drawn = zlib.crc32(repr(value).encode())
            if drawn % 2:
                case.path_parameters[part.strip("{}")] = there[drawn // 2 % len(there)]
